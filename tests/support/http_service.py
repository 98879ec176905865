"""A whole service with its HTTP interface in this process, on a client in memory."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn

from qguard.api.access import Access
from qguard.api.app import make_app
from qguard.api.attempts import Attempts
from qguard.api.doors import Doors
from qguard.api.server import listen
from qguard.config import load
from qguard.ledger import Ledger
from qguard.service import Service
from tests.support.fake_client import FakeClient


class HttpService:
    """Runs in a thread of its own from entering to leaving.

    Args:
        folder: gets configuration and ledger.
        client: what it limits.
        config: YAML text.
        api_key: asked of every caller; None asks callers from here for none.
        cycles: whether its loop runs; else cycles happen only by request.
    """

    def __init__(
        self, folder: Path, client: FakeClient, config: str, *, api_key: str | None = None, cycles: bool = False
    ) -> None:
        self.config = folder / "qguard.yaml"
        self.config.write_text(config)
        self.client = client
        # Bound from the start: requests wait in its queue until somebody answers.
        self._listener = listen("127.0.0.1", 0)
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._api_key = api_key
        self._cycles = cycles
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="service")
        headers = {"X-API-Key": api_key} if api_key else {}
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=30.0, headers=headers)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of a good answer."""
        reply = self.http.get(path, params=query or None)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def post(self, path: str, **body: Any) -> Any:
        """The JSON of a good answer."""
        reply = self.http.post(path, json=body)
        assert reply.is_success, reply.text
        return reply.json()

    def call(self, work: Callable[[Service], Any]) -> None:
        """Do something to the service in its own thread."""
        self._loop.call_soon_threadsafe(work, self.service)

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        ledger = await Ledger.open(self._folder / "ledger.db")
        self.service = service = Service(load(self.config), ledger, client_factory=lambda _: self.client)
        access = Access("token", api_key=self._api_key)
        # Hours pass between two wrong keys, so that a fuzzer is not locked out for trying some.
        doors = Doors(lambda: access, attempts=Attempts(clock=itertools.count(0, 3600).__next__))
        app = make_app(self.service, doors)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=5))
        tasks = [asyncio.create_task(server.serve(sockets=[self._listener]))]
        self._ready.set()
        if self._cycles:
            tasks.append(asyncio.create_task(self.service.serve()))
        await self._stop.wait()
        self.service.stop()
        server.should_exit = True
        await asyncio.gather(*tasks)
        await service.close()

"""A simulated client on a port of this machine, in real time."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from qguard.simulator.faults import Closers, Faults, FaultyApp
from qguard.simulator.webapi import make_app
from qguard.simulator.webui import WebUi

STEP: Final = 0.25
"""Seconds between two looks at the clock; simulated time passes in steps of half a second."""

KEEP_ALIVE: Final = 7
"""Seconds for which the real one leaves an idle connection open."""

LOOPBACK: Final = "127.0.0.1"


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever serves decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone."""
        yield


@dataclass(frozen=True, slots=True)
class Served:
    """A simulated client that can be reached."""

    ui: WebUi
    faults: Faults
    port: int

    @property
    def url(self) -> str:
        """Of its Web UI."""
        return f"http://{LOOPBACK}:{self.port}"


@asynccontextmanager
async def served(ui: WebUi, port: int = 0) -> AsyncIterator[Served]:
    """Serve a simulated client on 127.0.0.1, and let its time pass, until the end of the context.

    Args:
        ui: the client.
        port: 0 for any that is free.

    Raises:
        OSError: the port is taken.
    """
    closers: Closers = {}
    faults = Faults(ui)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.closing(listener):
        listener.bind((LOOPBACK, port))
        listener.listen(128)
        config = uvicorn.Config(
            FaultyApp(make_app(ui), faults, closers),
            http=_protocol(closers),
            ws="none",
            lifespan="off",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            h11_max_incomplete_event_size=2**20,  # the real one takes hashes in the URL, too
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        clock = asyncio.create_task(_pass_time(ui, faults))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn tells nobody
                await asyncio.sleep(0.005)
            yield Served(ui, faults, listener.getsockname()[1])
        finally:
            server.should_exit = True
            clock.cancel()
            await asyncio.gather(clock, serving, return_exceptions=True)
            if ui.runner is not None:
                ui.runner.close()


async def _pass_time(ui: WebUi, faults: Faults) -> None:
    while True:
        ui.tick()
        faults.tick()
        await asyncio.sleep(STEP)


def _protocol(closers: Closers) -> type[asyncio.Protocol]:
    """HTTP as uvicorn has it, except that connections can be closed by the address of the other side."""

    class Closable(H11Protocol):
        def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - uvicorn's own annotation is narrower
            super().connection_made(transport)
            if self.client is not None:
                closers[self.client] = transport.close

        def connection_lost(self, exc: Exception | None) -> None:
            if self.client is not None:
                closers.pop(self.client, None)
            super().connection_lost(exc)

    return Closable

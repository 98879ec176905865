"""The simulator in the place of a real qBittorrent: an object that tests use as they use `Daemon`, and its leechers."""

import asyncio
import shutil
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import numpy as np

from qguard.simulator.client import SimulatedClient, Version
from qguard.simulator.faults import Faults
from qguard.simulator.serving import Served, served
from qguard.simulator.webui import WebUi
from tests.support import children
from tests.support.daemon import PASSWORD, USERNAME, Daemon
from tests.support.ending import Ending
from tests.support.ports import free_port
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent
from tests.support.webapi import WebApi

T = TypeVar("T")

SIMULATED: Final[Mapping[str, Version]] = {
    "simulated 4.5": "4.5.2",
    "simulated 5.1": "5.1.0",
    "simulated sid": "5.3.0",
}
"""Version keys as tests name them -> what the simulator calls them."""

_PREFERENCES: Final = {
    "WebUI\\MaxAuthenticationFailCount": ("sessions", "most_failures"),
    "WebUI\\SessionTimeout": ("sessions", "timeout"),
    "WebUI\\HostHeaderValidation": ("other", "web_ui_host_header_validation_enabled"),
}


async def announce(infohash: str, url: str) -> bool:
    """Announce a torrent for real, over HTTP; other trackers do not work."""
    if not url.startswith("http:"):
        return False
    info = "".join(f"%{byte:02x}" for byte in bytes.fromhex(infohash))
    joined = f"{url}{'&' if urllib.parse.urlsplit(url).query else '?'}info_hash={info}&peer_id={'-' * 20}&port=9&left=0"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
            answer = await client.get(joined)
    except httpx.TransportError:
        return False
    return answer.is_success and b"failure reason" not in answer.content


class SimulatedDaemon(Ending):
    """A simulated client in a thread of its own, without torrents at first; as `Daemon` where tests use that.

    Args:
        version: a key of `SIMULATED`.
        preferences: as for `Daemon`, as far as they mean anything here.
        bypass_auth: let local clients in without a login.
        client: a client with torrents instead of an empty one.
        clock: steady seconds.
        speed: simulated seconds per second.
        announces: ask trackers for real; otherwise all of them work.
    """

    def __init__(
        self,
        version: str = "simulated 5.1",
        *,
        preferences: Mapping[str, object] | None = None,
        bypass_auth: bool = False,
        client: SimulatedClient | None = None,
        clock: Callable[[], float] = time.monotonic,
        speed: float = 1.0,
        announces: bool = True,
    ) -> None:
        self.version = version
        self.username, self.password = USERNAME, PASSWORD
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.timeout = 60.0
        self._scratch = children.scratch()
        self.data = self._scratch / "data"
        self.data.mkdir()
        self.backup = _Stored(self)
        self.client = client or SimulatedClient(version=SIMULATED[version])
        self.ui = WebUi(
            self.client, clock=clock, speed=speed, habit_of_added=-1, announcer=announce if announces else None
        )
        self.full_version = self.ui.traits.app
        self.ui.sessions.username, self.ui.sessions.password = USERNAME, PASSWORD
        self.ui.other |= {"bypass_local_auth": bypass_auth, "save_path": str(self.data)}
        for name, value in (preferences or {}).items():
            owner, attribute = _PREFERENCES[name]
            if owner == "other":
                self.ui.other[attribute] = value
            else:
                setattr(self.ui.sessions, attribute, value)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._site: Served | None = None
        self._end: asyncio.Event | None = None
        self.start()

    def leave(self) -> None:
        self.remove()

    @property
    def running(self) -> bool:
        return self._thread is not None

    @property
    def faults(self) -> Faults:
        assert self._site is not None
        return self._site.faults

    def start(self) -> None:
        if self.running:
            return
        up = threading.Event()
        troubles: list[Exception] = []

        async def run() -> None:
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            async with served(self.ui, self.port) as self._site:
                up.set()
                await self._end.wait()

        def work() -> None:
            try:
                asyncio.run(run())
            except (OSError, RuntimeError) as error:
                troubles.append(error)
            finally:
                up.set()

        self._thread = threading.Thread(target=work, name="simulated", daemon=True)
        self._thread.start()
        up.wait(30)
        if troubles:
            raise troubles[0]

    def stop(self, *, lose: float = 0.0, patience: float = 30.0) -> None:
        """End it; limits are saved, except for the part that is to be lost."""
        if self._thread is None:
            return
        assert self._loop is not None
        assert self._end is not None
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(patience)
        self._thread = None
        self.ui.restart(lose=lose)

    def kill(self) -> None:
        self.stop()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def inside(self, path: Path) -> Path:
        return path

    def api(self, *, timeout: float = 30.0) -> WebApi:
        return WebApi(self.url, self.username, self.password, timeout=timeout)

    def do(self, work: Callable[[], T]) -> T:
        """Call something on the loop that serves it."""
        assert self._loop is not None

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(30)


class _Stored:
    """What `Daemon.backup` is used for: a name for each file of a torrent that is stored, which here it always is."""

    def __init__(self, daemon: SimulatedDaemon) -> None:
        self._daemon = daemon

    def iterdir(self) -> Iterator[Path]:
        names = list(self._daemon.client.row)
        return iter([Path(f"{name}.{kind}") for name in names for kind in ("torrent", "fastresume")])


class SimulatedSwarm(Ending):
    """As `Swarm` where tests use that: demand for single torrents of a simulated client."""

    def __init__(self, daemon: SimulatedDaemon) -> None:
        self._daemon = daemon
        self._rows: dict[str, float] = {}

    def leave(self) -> None:
        self._daemon.do(lambda: [self._want(name, 0.0, 0) for name in self._rows])

    def add(self, torrent: Torrent, demand: float = 0.0) -> None:
        """One leecher of a torrent, bytes/s."""
        self._rows[torrent.infohash] = demand
        self._daemon.do(lambda: self._want(torrent.infohash, demand, 1))

    def wait_ready(self, timeout: float = 30.0) -> None:
        """They are ready at once."""

    def _want(self, infohash: str, demand: float, leechers: int) -> None:
        row = self._daemon.client.row.get(infohash)
        if row is None:
            return
        there = self._daemon.client.leechers
        there.busy[row], there.level[row], there.count[row] = demand > 0, demand, leechers
        there.until[row] = np.inf


def any_daemon(version: str, **more: Any) -> Daemon | SimulatedDaemon:
    """A real or a simulated client, by its version key."""
    return SimulatedDaemon(version, **more) if version in SIMULATED else Daemon(version, **more)


def swarm_of(daemon: Daemon | SimulatedDaemon) -> Swarm | SimulatedSwarm:
    """Leechers of a real or a simulated client."""
    return SimulatedSwarm(daemon) if isinstance(daemon, SimulatedDaemon) else Swarm(daemon.bt_port)


class AnyDaemons(Ending):
    """Starts real and simulated clients; removes all of them at the end of its context."""

    def __init__(self, version: str | None = None) -> None:
        self._version = version
        self._stack = ExitStack()

    def leave(self) -> None:
        self._stack.close()

    def start(self, version: str | None = None, **more: Any) -> Any:
        """Start one; see `Daemon`."""
        chosen = version or self._version
        assert chosen is not None, "name the version: this factory has no default"
        return self._stack.enter_context(any_daemon(chosen, **more))

"""Torrents that are added to a real qBittorrent which calls qguard by the line that qguard has put there."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from tests.support.daemon import Daemon
from tests.support.ending import Ending
from tests.support.process import ALPHA, Service, Setup, until
from tests.support.proxy import Proxy, Request
from tests.support.torrents import Torrent, make_torrents

POLL_INTERVAL: Final = 60
"""Seconds between two cycles of the service: no torrent gets its limit in these tests but by its hook."""

_OPTIONS: Final = {
    "skip_checking": "true",
    "seedMode": "true",
    "autoTMM": "false",
    "contentLayout": "Original",
    "paused": "false",
    "stopped": "false",
}


@dataclass(frozen=True)
class Burst:
    """What became of many torrents that were added at once; seconds."""

    after_last_hook: float
    """From the arrival of the last hook until the last torrent was limited."""
    slowest_request: float
    """The longest that an unrelated request to qguard took meanwhile."""
    requests: int
    """How many of those there were."""


class Hooked(Ending):
    """A service that takes part in the whole rollout, and a daemon with its hook line, with a proxy in between.

    Args:
        daemon: the client.
        folder: empty; for configuration and ledger.
        finished: install the line for finished torrents too.

    Attributes:
        api: a session on the daemon.
        proxy: stands between the daemon's curl and qguard; its log tells when a hook arrived.
        setup: of the service.
        service: the service, running.
    """

    def __init__(self, daemon: Daemon, folder: Path, *, finished: bool = False) -> None:
        self.daemon = daemon
        self.api = daemon.api()
        self.setup = Setup(folder, daemon.url, username=daemon.username, password=daemon.password)
        self.proxy = Proxy(self.setup.port)
        self.setup.config["server"] = {"hook_url": self.proxy.url}
        self.setup.edit(poll_interval=POLL_INTERVAL)
        self._torrents: list[Torrent] = []
        self._made = 0
        try:
            self.service = self.setup.start()
            self.setup.command("hook", "install", *(["--finished"] if finished else [])).expect()
        except BaseException:
            self.close()
            raise

    def leave(self) -> None:
        self.close()

    def close(self) -> None:
        """End the service and the proxy, and delete the torrents: another ledger would find limits it does not know."""
        if hasattr(self, "service"):
            self.service.kill()
        self.proxy.close()
        self.api.delete([torrent.infohash for torrent in self._torrents])
        until(lambda: not self.api.torrents([torrent.infohash for torrent in self._torrents] or ["-"]), "no torrents")
        self.api.close()

    def make(self, count: int) -> list[Torrent]:
        """Torrents of the capped tracker that no call before has made."""
        self._made += 1
        tiers = [[f"http://{ALPHA}:9/announce"]]
        # The folder's name keeps them apart from those of another test on the same daemon.
        prefix = f"{self.setup.folder.name}-{self._made}"
        made = make_torrents(count, self.daemon.data, prefix=prefix, tiers=tiers)
        self._torrents += made
        return made

    def add(self, torrents: Sequence[Torrent]) -> None:
        """Add them in one request; returns as soon as the daemon has taken them."""
        options = _OPTIONS | {"savepath": str(self.daemon.inside(self.daemon.data))}
        self.api.add([(f"{torrent.name}.torrent", torrent.metainfo) for torrent in torrents], options)

    def limits(self, torrents: Sequence[Torrent]) -> list[int]:
        """Their limits at the daemon now, bytes/s; 0 for none, -1 for those that are not there."""
        hashes = [torrent.infohash for torrent in torrents]
        there: dict[str, int] = self.api.post("torrents/uploadLimit", hashes="|".join(hashes)).json()
        return [there.get(name, -1) for name in hashes]

    def hook_of(self, torrent: Torrent) -> Request | None:
        """The hook that named a torrent, once it has arrived."""
        return next((one for one in self.hooks() if one.form().get("hash") == torrent.infohash), None)

    def hooks(self) -> list[Request]:
        """All hooks that have arrived."""
        return self.proxy.requests("/webhook")

    def time_one(self) -> float:
        """Add one torrent; seconds from the arrival of its hook until the daemon has a limit for it."""
        torrent = self.make(1)[0]
        self.add([torrent])
        until(lambda: self.limits([torrent])[0] > 0, f"a limit of {torrent.infohash}")
        limited = time.monotonic()
        hook = self.hook_of(torrent)
        assert hook is not None, "it was limited without a hook"
        return limited - hook.time

    def time_burst(self, count: int) -> Burst:
        """Add many torrents at once, and ask qguard something unrelated all the time."""
        torrents = self.make(count)
        before = len(self.hooks())
        done, took = threading.Event(), [0.0]

        def ask() -> None:
            with httpx.Client(base_url=self.service.http.base_url, trust_env=False, timeout=30.0) as http:
                while not done.is_set():
                    began = time.monotonic()
                    http.get("/match/test", params={"url": f"http://{ALPHA}/announce"}).raise_for_status()
                    took.append(time.monotonic() - began)
                    done.wait(0.02)

        asking = threading.Thread(target=ask, name="unrelated requests")
        asking.start()
        try:
            self.add(torrents)
            until(lambda: len(self.hooks()) >= before + count, f"{count} hooks", 120.0)
            last = self.hooks()[-1].time
            until(lambda: min(self.limits(torrents)) > 0, "limits for all", 60.0)
            limited = time.monotonic()
        finally:
            done.set()
            asking.join(30.0)
        return Burst(max(0.0, limited - last), max(took), len(took) - 1)

    def restart(self) -> Service:
        """Start the service again on the same folder."""
        self.service = self.setup.start(wait=False)
        return self.service

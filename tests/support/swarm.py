"""Many leechers in one event loop, in a thread of its own, with demands that can be changed at any time."""

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Literal

import numpy as np
import numpy.typing as npt

from tests.support import meter
from tests.support.ending import Ending
from tests.support.leecher import TICK, Leecher
from tests.support.meter import Meter
from tests.support.torrents import Torrent


class Swarm(Ending):
    """Leechers of one seed. Rates are payload bytes/s, times are `time.monotonic()`.

    Args:
        port: BitTorrent port of the seed on 127.0.0.1.
    """

    def __init__(self, port: int) -> None:
        self._peer = ("127.0.0.1", port)
        self._leechers: dict[str, list[Leecher]] = defaultdict(list)
        self._change = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._ticker: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="swarm", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        self.close()

    def add(
        self,
        torrent: Torrent,
        demand: float = 0.0,
        *,
        source: str = "127.0.0.1",
        order: Literal["sequential", "random"] = "sequential",
        when_idle: Literal["open", "close"] = "open",
        tries: int = 60,
    ) -> None:
        """Add one more leecher of a torrent; see `Leecher`."""
        leecher = Leecher(
            torrent.infohash,
            torrent.size,
            torrent.piece,
            self._peer,
            source=source,
            demand=demand,
            order=order,
            when_idle=when_idle,
            tries=tries,
        )
        self._call(lambda: self._leechers[torrent.infohash].append(leecher))

    def set_demand(self, hashes: str | Iterable[str], demand: float) -> None:
        """Change the demand of every leecher of these torrents, bytes/s each; 0 is idle."""
        chosen = [hashes] if isinstance(hashes, str) else list(hashes)

        def change() -> None:
            for name in chosen:
                for leecher in self._leechers[name]:
                    leecher.set_demand(demand)

        self._call(change)

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until every leecher that wants a connection is unchoked.

        Raises:
            TimeoutError: says how many are not, and why.
        """

        def late() -> list[Leecher]:
            return [leecher for leecher in self._all() if leecher.wants_connection and leecher.state != "ready"]

        if not self._wait(lambda: not late(), timeout):
            reasons = sorted({f"{leecher.state} {leecher.trouble}".strip() for leecher in late()})
            raise TimeoutError(f"{len(late())} leecher(s) not ready after {timeout:g} s: {'; '.join(reasons)}")

    def wait_received(self, size: int, hashes: Collection[str] | None = None, timeout: float = 30.0) -> None:
        """Wait until these torrents (all of them by default) have brought `size` more bytes than now.

        Raises:
            TimeoutError: says how many came.
        """
        before = self.total(hashes)
        if not self._wait(lambda: self.total(hashes) - before >= size, timeout):
            raise TimeoutError(f"{self.total(hashes) - before} of {size} bytes came in {timeout:g} s")

    def total(self, hashes: Collection[str] | None = None) -> int:
        """Payload bytes these torrents (all of them by default) have brought so far."""
        return sum(one.total for one in self._meters(hashes))

    def rate(self, hashes: str | Collection[str] | None, t0: float, t1: float) -> float:
        """Mean rate of these torrents together (None: all) between two times; see `meter.rate`."""
        return meter.rate(self._meters(hashes), t0, t1)

    def window_max(self, hashes: str | Collection[str] | None, seconds: float, t0: float, t1: float) -> float:
        """The largest mean rate of these torrents together in any window of `seconds`; see `meter.window_max`."""
        return meter.window_max(self._meters(hashes), seconds, t0, t1)

    def series(self, hashes: str | Collection[str] | None, t0: float, t1: float) -> npt.NDArray[np.int64]:
        """Bytes of these torrents together (None: all) in each bucket between two times; see `Meter.series`."""
        series: npt.NDArray[np.int64] = np.sum([one.series(t0, t1) for one in self._meters(hashes)], axis=0)
        return series

    def failed(self) -> dict[str, str]:
        """Torrents whose leecher gave up, and why."""
        return {leecher.infohash: leecher.trouble for leecher in self._all() if leecher.state == "failed"}

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._ticker = self._loop.create_task(self._tick())
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            for leecher in self._all():
                leecher.tick(now)
            with self._change:
                self._change.notify_all()
            await asyncio.sleep(TICK)

    async def _shut(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
        closings: list[Awaitable[None]] = [leecher.close() for leecher in self._all()]
        await asyncio.gather(*closings)
        await asyncio.sleep(0)  # aborted transports call connection_lost in the next pass

    def _all(self) -> list[Leecher]:
        return [leecher for group in list(self._leechers.values()) for leecher in group]

    def _meters(self, hashes: str | Collection[str] | None) -> list[Meter]:
        if hashes is None:
            return [leecher.meter for leecher in self._all()]
        chosen = [hashes] if isinstance(hashes, str) else hashes
        return [leecher.meter for name in chosen for leecher in self._leechers[name]]

    def _call(self, change: Callable[[], object]) -> None:
        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        with self._change:
            return self._change.wait_for(condition, timeout)

"""A real and a simulated client with leechers, behind one interface: what `make calibrate` runs its programme on."""

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from allocators.base import Float64
from qguard.simulator.client import SimulatedClient, Version
from qguard.simulator.client import Torrent as SimulatedTorrent
from qguard.simulator.leechers import Habit
from qguard.simulator.plant import TICK
from tests.support.daemon import Daemon
from tests.support.meter import BUCKET
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.webapi import WebApi

STEP: Final = BUCKET
"""Seconds: as finely as bytes are told apart."""

MIB: Final = 1024 * 1024
SIMULATED: Final[Mapping[str, Version]] = {"4.5": "4.5.2", "5.1": "5.1.0", "sid": "5.3.0"}


@dataclass(frozen=True, slots=True)
class Group:
    """Torrents that are treated alike. Rates in bytes/s."""

    count: int
    limit: int
    """At the beginning, 0 for none."""
    demand: int
    """Of all leechers of a torrent together, while it is in demand."""
    leechers: int = 1
    fresh: bool = False
    """Without a connection until it is in demand."""


class Bench(Protocol):
    """A client and leechers under our hand. Torrents go by the name of their group and by number."""

    def set_limit(self, name: str, limit: int) -> None:
        """Of every torrent of the group, bytes/s, 0 for none."""

    def set_demand(self, name: str, *, on: bool, numbers: Sequence[int] | None = None) -> None:
        """Whether the leechers of these torrents (all of the group by default) want anything."""

    def set_whole_limit(self, limit: int) -> None:
        """Of the client, bytes/s, 0 for none."""

    def run(self, seconds: float) -> None:
        """Let time pass."""

    def now(self) -> float:
        """Seconds, from anywhere."""

    def sent(self, name: str, number: int, t0: float, t1: float) -> Float64:
        """Payload bytes of one torrent, `STEP` by `STEP`."""

    def upspeed(self, name: str, number: int, at: float) -> float:
        """What the client said of one torrent at that time, bytes/s."""


class RealBench:
    """A real qbittorrent-nox and the tests' leechers.

    Args:
        daemon: without torrents.
        api: a session on it.
        swarm: without leechers.
        groups: what to seed.
        watched: the groups whose `upspeed` will be asked for.
    """

    def __init__(
        self, daemon: Daemon, api: WebApi, swarm: Swarm, groups: Mapping[str, Group], watched: Sequence[str]
    ) -> None:
        self._api, self._swarm, self._groups = api, swarm, groups
        self._torrents: dict[str, list[Torrent]] = {}
        self._said: list[tuple[float, dict[str, int]]] = []
        self._loads: list[float] = []
        for kind, (name, group) in enumerate(groups.items()):
            size = 64 * MIB if group.demand >= MIB else 4 * MIB
            made = make_torrents(group.count, daemon.data, prefix=f"group-{kind}", size=size)
            seed(daemon, api, made, up_limit=group.limit)
            for torrent in made:
                for number in range(group.leechers):
                    swarm.add(torrent, source=f"127.0.0.{number + 1}", when_idle="close" if group.fresh else "open")
            self._torrents[name] = made
        self._watched = [torrent.infohash for name in watched for torrent in self._torrents[name]]
        swarm.wait_ready()
        self._until = time.monotonic()

    def set_limit(self, name: str, limit: int) -> None:
        self._api.set_limit([torrent.infohash for torrent in self._torrents[name]], limit)

    def set_demand(self, name: str, *, on: bool, numbers: Sequence[int] | None = None) -> None:
        group = self._groups[name]
        chosen = range(group.count) if numbers is None else numbers
        hashes = [self._torrents[name][number].infohash for number in chosen]
        self._swarm.set_demand(hashes, group.demand / group.leechers if on else 0)

    def set_whole_limit(self, limit: int) -> None:
        self._api.set_preferences(up_limit=limit)

    def run(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() - 1.0) + seconds
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(min(left, 0.5))
            rows = self._api.torrents(self._watched)
            self._said.append((time.monotonic(), {name: row["upspeed"] for name, row in rows.items()}))
            self._loads.append(os.getloadavg()[0])

    def now(self) -> float:
        return time.monotonic()

    def sent(self, name: str, number: int, t0: float, t1: float) -> Float64:
        infohash = self._torrents[name][number].infohash
        meters = self._swarm._meters(infohash)  # noqa: SLF001  # its own methods sum over time
        got: Float64 = np.sum([one.series(t0, t1) for one in meters], axis=0, dtype=np.float64)
        return got

    def upspeed(self, name: str, number: int, at: float) -> float:
        _, said = min(self._said, key=lambda sample: abs(sample[0] - at))
        return float(said[self._torrents[name][number].infohash])

    def load(self) -> float:
        """Mean number of processes that wanted a processor."""
        return statistics.fmean(self._loads)


class SimulatedBench:
    """The simulated client. Its demands are set by hand, at once: real leechers here have no ramp either.

    Args:
        version: as the daemons of the tests are called.
        number: seed.
        groups: what to seed.
    """

    def __init__(self, version: str, number: int, groups: Mapping[str, Group]) -> None:
        self._groups = groups
        self._first: dict[str, int] = {}
        torrents: list[SimulatedTorrent] = []
        for name, group in groups.items():
            self._first[name] = len(torrents)
            torrents += [SimulatedTorrent(f"{len(torrents) + n:040x}", f"{name} {n}", ()) for n in range(group.count)]
        habit = Habit(begins_busy=0.0, quiet=math.inf)
        self._client = SimulatedClient(number, SIMULATED[version], (habit,), torrents=torrents)
        self._client.leechers.until[:] = math.inf
        self._sent: list[Float64] = []
        self._said: list[Float64] = []
        for name, group in groups.items():
            self.set_limit(name, group.limit)
        self.run(2 + number % 3 * TICK)  # or refreshes would fall on the same moments in all runs

    def set_limit(self, name: str, limit: int) -> None:
        first = self._first[name]
        chosen = self._client.torrents[first : first + self._groups[name].count]
        self._client.set_limit([torrent.infohash for torrent in chosen], limit)

    def set_demand(self, name: str, *, on: bool, numbers: Sequence[int] | None = None) -> None:
        group, leechers = self._groups[name], self._client.leechers
        rows = self._first[name] + np.array(range(group.count) if numbers is None else numbers)
        leechers.busy[rows] = on
        leechers.level[rows] = leechers.demand[rows] = group.demand if on else 0.0
        leechers.count[rows] = group.leechers if on else 0

    def set_whole_limit(self, limit: int) -> None:
        self._client.wishes.up_limit = limit

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK)):
            self._client.advance(TICK)
            self._sent.append(self._client.sent)
            self._said.append(self._client.seen.upspeed.astype(np.float64))

    def now(self) -> float:
        return len(self._sent) * TICK

    def sent(self, name: str, number: int, t0: float, t1: float) -> Float64:
        first, last = round(t0 / TICK), round(t1 / TICK)
        row, steps = self._first[name] + number, round(TICK / STEP)
        fine = np.zeros((last - first, steps))
        fine[:, 0] = [tick[row] for tick in self._sent[first:last]]
        return fine.ravel()

    def upspeed(self, name: str, number: int, at: float) -> float:
        tick = min(max(round(at / TICK) - 1, 0), len(self._said) - 1)
        return float(self._said[tick][self._first[name] + number])

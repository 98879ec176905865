"""What may happen to a client: scenes to try strategies on.

A scene is told the caps and scales demand by them, so that "hot" means the same for every configuration.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from allocators.base import Int64
from qguard.simulator.client import SimulatedClient, Torrent, Version
from qguard.simulator.leechers import Habit

UNCAPPED_RATE: Final = 4_000_000
"""Bytes/s: what trackers without a cap are scaled by."""

AWAKE: Final = 0.3
"""Part of the torrents that are in demand at a time, unless the scene says otherwise."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at a time."""

    at: float
    """Seconds after the beginning."""
    what: Callable[[SimulatedClient], None]


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """A client with a future."""

    client: SimulatedClient
    tracker: Int64
    """(N,) index of each torrent's tracker."""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """A kind of future.

    Attributes:
        load: mean demand of each tracker, times its cap; repeated where there are more trackers.
        habit: how leechers behave; `rate` is set so that `load` comes out.
        awake: part of the torrents in demand at a time.
        events: what happens besides, made of the torrents' trackers.
    """

    name: str
    words: str
    load: tuple[float, ...]
    habit: Habit = field(default_factory=Habit)
    awake: float = AWAKE
    events: Callable[[Int64, int], tuple[Event, ...]] = lambda _tracker, _seed: ()

    def stage(
        self,
        caps: Sequence[int | None],
        *,
        torrents: int = 3000,
        seed: int = 0,
        version: Version = "5.1.0",
        domains: Sequence[str] = (),
        downloading: float = 0.0,
    ) -> Stage:
        """Set the scene.

        Args:
            caps: of the trackers, bytes/s, None for none.
            torrents: how many, spread over the trackers.
            seed: of everything that is drawn.
            version: of the client that is simulated.
            domains: announce hosts of the trackers; made up where there are none.
            downloading: part of the torrents that still download.
        """
        rng = np.random.default_rng([seed, torrents])
        tracker = np.sort(rng.integers(0, len(caps), torrents)) if torrents >= len(caps) else np.arange(torrents)
        rng.shuffle(tracker)
        hosts = [*domains, *(f"tracker{n}.example" for n in range(len(domains), len(caps)))]
        count = np.maximum(np.bincount(tracker, minlength=len(caps)), 1)
        habits = tuple(
            self._habit((cap or UNCAPPED_RATE) * self.load[g % len(self.load)], int(count[g]))
            for g, cap in enumerate(caps)
        )
        names = [
            Torrent(
                infohash=rng.bytes(20).hex(),
                name=f"Torrent {n:05d}",
                announce=(f"https://{hosts[g]}/announce/{rng.bytes(8).hex()}",),
                category=("linux", "books", "films", "")[n % 4],
                added_on=1_700_000_000 + n,
                downloading=bool(rng.random() < downloading),
                habit=int(g),
            )
            for n, g in enumerate(tracker.tolist())
        ]
        client = SimulatedClient(seed=seed, version=version, habits=habits, torrents=names)
        return Stage(client, tracker, self.events(tracker, seed))

    def _habit(self, load: float, count: int) -> Habit:
        """The habit by which `count` torrents want `load` bytes/s in the mean."""
        habit, awake = self.habit, self.awake
        if not np.isfinite(habit.busy):
            awake = 1.0
        else:
            busy = habit.busy * habit.busy_tail / (habit.busy_tail - 1)
            quiet = busy * (1 - awake) / max(awake, 1e-6)
            habit = replace(habit, quiet=max(quiet * (habit.quiet_tail - 1) / habit.quiet_tail, 1.0))
        mean = load / max(count * awake, 1e-9)
        return replace(habit, rate=mean / np.exp(habit.spread**2 / 2), begins_busy=awake)


def _of(tracker: Int64, which: int, part: float, seed: int) -> Int64:
    """Rows of a part of one tracker's torrents."""
    rows = np.flatnonzero(tracker == which)
    return np.random.default_rng([seed, which]).permutation(rows)[: max(int(len(rows) * part), 1)]


def _flash(tracker: Int64, seed: int) -> tuple[Event, ...]:
    crowd = _of(tracker, 0, 0.5, seed)

    def come(client: SimulatedClient) -> None:
        client.leechers.wake(crowd, seconds=120)
        client.leechers.level[crowd] *= 5

    return (Event(240.0, come),)


def _wake(tracker: Int64, seed: int) -> tuple[Event, ...]:
    rows = np.random.default_rng([seed, 7]).permutation(len(tracker))[: min(150, max(len(tracker) // 20, 1))]
    return tuple(Event(at, lambda client: client.leechers.wake(rows, seconds=60)) for at in (240.0, 420.0))


def _outage(tracker: Int64, _seed: int) -> tuple[Event, ...]:
    rows = np.flatnonzero(tracker == 0)

    def away(client: SimulatedClient, *, is_away: bool) -> None:
        client.leechers.away[rows] = is_away

    return (
        Event(240.0, lambda client: away(client, is_away=True)),
        Event(420.0, lambda client: away(client, is_away=False)),
    )


def _restart(_tracker: Int64, _seed: int) -> tuple[Event, ...]:
    return (Event(300.0, lambda client: client.restart(lose=0.2)),)


_ALWAYS: Final = Habit(busy=np.inf)

SCENES: Final[Mapping[str, Scene]] = {
    scene.name: scene
    for scene in (
        Scene("all-hot", "every tracker is wanted twice its cap", (2.0,)),
        Scene("mixed", "trackers from half to three times their caps", (0.5, 1.0, 1.5, 3.0)),
        Scene("one-hot", "one tracker is wanted three times its cap, the others a fifth", (3.0, 0.2, 0.2, 0.2, 0.2)),
        Scene("flash-crowd", "half of the first tracker's torrents are wanted at once", (0.5, 1.0), events=_flash),
        Scene("mass-wake", "150 torrents wake at once, twice", (1.5,), events=_wake),
        Scene(
            "outage", "the first tracker's leechers are gone for three minutes and come back", (1.5,), events=_outage
        ),
        Scene("all-idle", "next to nobody wants anything", (0.02,), awake=0.01),
        Scene("restart", "the client is restarted and loses a fifth of its limits", (1.5,), events=_restart),
    )
}
"""By name."""

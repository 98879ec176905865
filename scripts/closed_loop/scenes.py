"""The scenes: what torrents there are, what their leechers want, what happens meanwhile, and what is to be reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from scripts.closed_loop.figures import Bool, Float64, schedule, steps

WARM_UP: Final = 30
"""Seconds at the beginning of each scene that do not count."""

TAIL: Final = 20
"""Seconds that a run goes on at least after the last thing that happens."""

STRATEGIES: Final = ("equal", "weighted", "soft", "adaptive")

CAP: Final = 2_000_000
LEVELS: Final = (0, 60_000, 250_000, 1_000_000, 3_000_000)
"""bytes/s"""


@dataclass(frozen=True)
class Churn:
    """Each torrent by itself: one of `levels` at random, held for a random time from and to, over and over."""

    hold: tuple[float, float]
    levels: tuple[float, ...] = LEVELS

    def rows(self, count: int, seconds: float, random: np.random.Generator) -> Float64:
        """(count, T) from the start of the warm-up."""
        return schedule(count, seconds, self.levels, self.hold, random)


@dataclass(frozen=True)
class Together:
    """All torrents the same: `first`, and from each time after the warm-up on another demand."""

    first: float
    then: tuple[tuple[float, float], ...] = ()

    def rows(self, count: int, seconds: float, _: np.random.Generator) -> Float64:
        """(count, T) from the start of the warm-up."""
        return np.tile(steps(seconds, self.first, [(WARM_UP + at, level) for at, level in self.then]), (count, 1))


@dataclass(frozen=True)
class Group:
    """Torrents of one tracker that behave alike."""

    torrents: int
    wants: Churn | Together
    tracker: str = "a"
    added: float | None = None
    """When they are added to the client, seconds after the warm-up, while their leechers wait; None: before all."""


@dataclass(frozen=True)
class Goal:
    """What a figure is to be for some drives: at least (`use`) or at most (any other)."""

    figure: str
    bound: float
    drives: tuple[str, ...] = STRATEGIES

    def missed(self, value: float) -> bool:
        """Whether a value is worse."""
        return value < self.bound if self.figure == "use" else value > self.bound


@dataclass(frozen=True)
class Scene:
    """Torrents of some trackers, and their leechers. Rates in bytes/s, times in seconds after the warm-up."""

    name: str
    about: str
    groups: tuple[Group, ...]
    caps: Mapping[str, int] = field(default_factory=lambda: {"a": CAP})
    """Of each tracker, by its letter."""
    goals: tuple[Goal, ...] = ()
    client: Mapping[str, object] = field(default_factory=dict)
    """Preferences of qBittorrent by their Web API names, where they differ from those of tests."""
    ceilings: tuple[tuple[float, float], ...] = ()
    """From when on, what the client allows in all; inf: anything."""
    calls: tuple[tuple[float, str], ...] = ()
    """When, and which method of the client's Web API is called."""
    leechers: int = 1
    """Of each torrent; as many of them as `slots` together want what the torrent is to upload."""
    slots: int = 1
    returns: tuple[str, float] | None = None
    """Which tracker wants something again, and when."""
    like: str = ""
    """The scene whose schedules it has; its own when empty."""
    downloads: int = 0
    """How many torrents the client downloads meanwhile."""

    @cached_property
    def trackers(self) -> list[str]:
        """The tracker of each torrent."""
        return [group.tracker for group in self.groups for _ in range(group.torrents)]

    @cached_property
    def added(self) -> dict[int, float]:
        """The torrents that are added meanwhile, by row, and when."""
        each = [group.added for group in self.groups for _ in range(group.torrents)]
        return {row: at for row, at in enumerate(each) if at is not None}

    @property
    def cap(self) -> int:
        """All caps together."""
        return sum(self.caps.values())

    @property
    def least(self) -> float:
        """The fewest seconds after the warm-up in which all happens."""
        wants = [group.wants for group in self.groups]
        then = [at for want in wants if isinstance(want, Together) for at, _ in want.then]
        return TAIL + max([0, *self.added.values(), *then, *(at for at, _ in (*self.calls, *self.ceilings))])

    @property
    def seeds_only(self) -> bool:
        """Whether it is one tracker's cap and nothing else, so that any client can play it."""
        return len(self.caps) == 1 and not (self.added or self.client or self.calls or self.downloads)

    def demand(self, seed: int, seconds: float) -> Float64:
        """(N, T) what the leechers of each torrent want, for the warm-up and `seconds` after it."""
        random = np.random.default_rng([seed, *(self.like or self.name).encode()])
        rows = [group.wants.rows(group.torrents, WARM_UP + seconds, random) for group in self.groups]
        return np.concatenate(rows)

    def allowed(self, seconds: float) -> Float64:
        """(T,) what all may upload together: the sum of the caps, or what the client allows where that is less."""
        ceiling = steps(WARM_UP + seconds, np.inf, [(WARM_UP + at, limit) for at, limit in self.ceilings])
        return np.minimum(ceiling, self.cap)

    def rows_of(self, tracker: str) -> Bool:
        """(N,) which torrents are those of a tracker."""
        return np.array([one == tracker for one in self.trackers])


_SLOW: Final = Churn((30, 90))
_ASLEEP: Final = 16
"""Times that idle stands among the levels where four in five sleep."""

_ALL_HOT: Final = (Goal("use", 0.95), Goal("v10", 1.12))
_CHURN: Final = (Goal("v10", 1.10, ("equal", "weighted", "soft")),)


def _adaptive(**bounds: float) -> tuple[Goal, ...]:
    return tuple(Goal(figure, bound, ("adaptive",)) for figure, bound in bounds.items())


_SLOW_GOALS: Final = (*_CHURN, *_adaptive(use=0.95, v10=1.10, v60=1.02, unfairness=0.15, changed=60))
_KEPT: Final = (*_CHURN, *_adaptive(use=0.95, v10=1.10))

SCENES: Final = {
    scene.name: scene
    for scene in (
        Scene("slow", "each demand is held for 30 to 90 s", (Group(12, _SLOW),), goals=_SLOW_GOALS),
        Scene(
            "fast",
            "each demand is held for 8 to 25 s",
            (Group(12, Churn((8, 25))),),
            goals=(*_CHURN, *_adaptive(use=0.90, v10=1.15, v60=1.03, unfairness=0.25, changed=120)),
        ),
        Scene("all-hot", "12 torrents want 3 MB/s each all the time", (Group(12, Together(3e6)),), goals=_ALL_HOT),
        Scene(
            "mass-wake",
            "50 sleepers want 500 kB/s each from 10 s on, beside 4 torrents that want 3 MB/s each all the time",
            (Group(4, Together(3e6)), Group(50, Together(0, ((10, 5e5),)))),
            goals=(Goal("excess", 3),),
        ),
        Scene(
            "lender",
            "three trackers with 1 MB/s and 4 torrents each, which want 3 MB/s each; the first one's from 15 s on",
            (
                Group(4, Together(0, ((15, 3e6),)), "a"),
                Group(4, Together(3e6), "b"),
                Group(4, Together(3e6), "c"),
            ),
            caps=dict.fromkeys("abc", 1_000_000),
            goals=(Goal("back", 10), Goal("v10", 1.10)),
            returns=("a", 15),
        ),
        Scene(
            "hot-add",
            "8 torrents want 3 MB/s each all the time; every 5 s another one is added, whose leecher waits for it",
            (
                Group(8, Together(3e6)),
                *(Group(1, Together(0, ((at, 3e6),)), added=at) for at in (5, 10, 15, 20)),
            ),
            goals=(Goal("hook", 1),),
        ),
        Scene(
            "many",
            "300 torrents, of which a fifth is awake, each demand held for 30 to 90 s; cap 8 MB/s",
            (Group(300, Churn((30, 90), (*[0] * _ASLEEP, *LEVELS[1:]))),),
            caps={"a": 8_000_000},
            goals=_KEPT,
        ),
        Scene(
            "downloads",
            "as slow, while the client downloads 4 more torrents of the tracker with 500 kB/s each",
            (Group(12, _SLOW),),
            goals=_KEPT,
            like="slow",
            downloads=4,
        ),
        Scene(
            "client-limit",
            "as slow, while the client as a whole is limited to 1,024,000 bytes/s",
            (Group(12, _SLOW),),
            goals=_KEPT,
            like="slow",
            client={"up_limit": 1_024_000},
            ceilings=((-WARM_UP, 1_024_000),),
        ),
        Scene(
            "alternative",
            "as slow; from 15 s until 35 s the client's alternative speed limits hold, 1,024,000 bytes/s",
            (Group(12, _SLOW),),
            goals=_KEPT,
            like="slow",
            client={"alt_up_limit": 1_024_000},
            ceilings=((15, 1_024_000), (35, np.inf)),
            calls=((15, "transfer/toggleSpeedLimitsMode"), (35, "transfer/toggleSpeedLimitsMode")),
        ),
        Scene(
            "slots",
            "as slow, with 6 leechers for each torrent, 4 upload slots for each torrent and 20 in all",
            (Group(12, _SLOW),),
            goals=_KEPT,
            like="slow",
            client={"max_uploads": 20, "max_uploads_per_torrent": 4},
            leechers=6,
            slots=4,
        ),
    )
}
USUAL: Final = ("slow", "fast")
"""The scenes of a run that names none."""

"""Who wants how much when: leechers that come and go.

A torrent is in demand for a while and then not, both for heavy-tailed times (Pareto), at a rate that is lognormal. The
demand ramps up by a third each tick: connections take their time. Everything is drawn from one generator, so that
a seed says all.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from allocators.base import Bool, Float64, Int64
from qguard.simulator.plant import TICK

RAMP: Final = 1.3
"""Times per tick: how fast demand grows to its level."""

FIRST_RATE: Final = 16_384.0
"""Bytes/s with which a ramp begins."""

FOREVER: Final = np.inf


@dataclass(frozen=True, slots=True)
class Habit:
    """How the leechers of some torrents behave. Times in seconds, rates in bytes/s."""

    rate: float = 400_000.0
    """Median rate that a torrent in demand is asked for."""
    spread: float = 1.0
    """Standard deviation of its logarithm."""
    busy: float = 150.0
    """Shortest time in demand; infinite for always."""
    busy_tail: float = 1.6
    quiet: float = 120.0
    """Shortest time without demand."""
    quiet_tail: float = 1.4
    begins_busy: float = 0.3
    """Part of the torrents that are in demand at the beginning."""
    leechers: int = 8
    """Most leechers at a time."""


@dataclass(slots=True)
class Leechers:
    """The demand for N torrents."""

    rng: np.random.Generator
    habit: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) index into `habits`, -1 for torrents that nobody ever wants."""
    habits: tuple[Habit, ...] = ()
    busy: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    level: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) what is wanted at most, bytes/s."""
    demand: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) what is wanted now, bytes/s."""
    count: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) connected leechers."""
    until: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) when that changes, seconds."""
    away: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    """(N,) cannot be reached at present, as with a tracker that is down."""
    now: float = 0.0

    def keep(self, rows: Int64, habit: Int64) -> None:
        """Keep these torrents, in this order; -1 is a new one, with the habit given for its place."""
        new = rows < 0
        for name in ("busy", "level", "demand", "count", "until", "away"):
            column = getattr(self, name)
            kept = np.zeros(len(rows), column.dtype)
            kept[~new] = column[rows[~new]]
            setattr(self, name, kept)
        self.habit = np.where(new, habit, self.habit[np.maximum(rows, 0)] if len(self.habit) else habit)
        fresh = np.flatnonzero(new)
        # As if it had gone on for long: the busy are somewhere in their time.
        chance = np.array([h.begins_busy for h in self.habits] + [0.0])[self.habit[fresh]]
        self.busy[fresh] = self.rng.random(len(fresh)) >= chance  # turned round at once
        self.until[fresh] = self.now
        self._turn(fresh)
        long_run = self.busy[fresh]
        self.demand[fresh] = np.where(long_run, self.level[fresh], 0.0)
        left = self.until[fresh] - self.now
        self.until[fresh] = self.now + np.where(np.isfinite(left), left * self.rng.random(len(fresh)), np.inf)

    def step(self) -> Float64:
        """One tick: (N,) what is wanted, bytes/s."""
        self.now += TICK
        due = np.flatnonzero(self.until <= self.now)
        if len(due):
            self._turn(due)
        goal = np.where(self.busy & ~self.away, self.level, 0.0)
        self.demand = np.minimum(goal, np.maximum(self.demand * RAMP, FIRST_RATE))
        return self.demand

    def wake(self, rows: Int64, *, seconds: float = 60.0) -> None:
        """These are in demand from now on, for a while at least: a flash crowd, a mass wake-up."""
        asleep = rows[~self.busy[rows]]
        self.busy[asleep] = False
        self._turn(asleep)
        self.until[rows] = np.maximum(self.until[rows], self.now + seconds)

    def quiet(self, rows: Int64, *, seconds: float) -> None:
        """Nobody wants these for a while."""
        self.busy[rows], self.count[rows], self.level[rows] = False, 0, 0.0
        self.until[rows] = self.now + seconds

    def _turn(self, rows: Int64) -> None:
        """The busy become quiet and the quiet busy."""
        self.busy[rows] = ~self.busy[rows] & (self.habit[rows] >= 0)
        for number, habit in enumerate(self.habits):
            mine = rows[self.habit[rows] == number]
            on = mine[self.busy[mine]]
            off = mine[~self.busy[mine]]
            self.level[on] = habit.rate * np.exp(habit.spread * self.rng.standard_normal(len(on)))
            self.count[on] = self.rng.integers(1, habit.leechers + 1, len(on))
            self.until[on] = self.now + habit.busy * (1 + self.rng.pareto(habit.busy_tail, len(on)))
            self.level[off], self.count[off] = 0.0, 0
            self.until[off] = self.now + habit.quiet * (1 + self.rng.pareto(habit.quiet_tail, len(off)))
        self.until[rows[self.habit[rows] < 0]] = np.inf

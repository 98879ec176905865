"""`adaptive`: one water level per tracker, above what its torrents use.

    demand_i = any amount, of a torrent that presses on its limit; its rate, of one that does not
    λ        = the level at which min(demand_i, λ) adds up to the cap (less what is used outside), times the trim
    limit    = λ for those that press; for the others their rate and some headroom, λ at most

A torrent that cannot use its share costs what it uses, not what it might use. So the *rates* add up to the cap, and the
limits to somewhat more: by the headroom of the torrents that do not press, and never above `max_overcommit` times the
cap, so that what is left behind by a qguard that dies is bounded. `within_cap` projects them for a clean stop.

Giving any amount to those that press makes the client carry out the steps of the exact solution: each cycle, those that
fall short of the level are found out, the level never falls by that, and it is over in two or three cycles.

The level stays while what it is expected to let through is near its aim; otherwise every torrent that wakes would
rewrite all that press. It is lowered in the cycle in which that becomes too much, and raised after `RAISE_AFTER`.

Not all that press use their level: some have just woken, some just stopped. The trim makes up for that within bounds:
it is what was expected to go through over what did, both smoothed. A ratio does not wind up while a level stays.

Effective caps: as `soft` (`allocators.lending`), the guaranteed rates included.

States: what each torrent was given and wanted; loans, levels and trims by tracker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from allocators.base import MAX_LIMIT, MIN_LIMIT, Allocation, Float64, Int64, Options, Request, promised_rate
from allocators.budget import Budget, answer, make_budget, nothing
from allocators.claims import HEADROOM, TIGHT, claims, demand, taken
from allocators.lending import Loan, lend
from allocators.link import resting_caps
from allocators.memory import Memory, recall
from allocators.settle import settle
from allocators.waterfill import waterfill

AIM: Final = 0.97
"""The part of the trimmed cap that a new level is to let through: libtorrent lets 1 to 2 % more through than that."""

TOO_MUCH: Final = 1.05
"""The part of the trimmed cap from which a level is lowered."""

ENOUGH: Final = 0.90
"""The part of the trimmed cap below which a level is raised."""

RAISE_AFTER: Final = 15.0
"""Seconds between two raises of a level: one unchoke round, within which a rate follows a limit."""

USE_TIME: Final = 20.0
"""Seconds: time constant of what the trim compares."""

RISE_TIME: Final = 7.0
"""Seconds: the same for a use that rises."""

TRIM: Final = (0.85, 1.10)
"""Bounds of the trim."""


class Course(NamedTuple):
    """What is remembered of one tracker."""

    level: int
    """bytes/s; `MAX_LIMIT` where nobody needs to be held."""
    age: float
    """Seconds since it was set."""
    lets_through: float
    """What the limits were expected to let through, as a part of the cap."""
    expected: float
    """The same, smoothed."""
    use: float
    """What went through, smoothed, as a part of the cap."""


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveState:
    """What one request leaves to the next."""

    torrents: Memory | None = None
    loans: Mapping[str, Loan] = field(default_factory=dict)
    courses: Mapping[str, Course] = field(default_factory=dict)


class Adaptive:
    """The split by what torrents use.

    Attributes:
        overcommit: how far the limits may add up above the cap.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.overcommit = options.max_overcommit

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, AdaptiveState]:  # noqa: ANN401 - opaque
        """Give every torrent of `request` a limit; `state` is what the previous call returned."""
        state = state or AdaptiveState()
        if not len(request.infohash):
            return nothing(), state
        before = recall(request, state.torrents)
        resting_cap = resting_caps(request)
        claim = claims(request, before.claim)
        cap, loans = lend(
            request,
            demand(request, claim),
            taken(request, claim),
            resting_cap,
            self._options,
            state.loans,
        )
        budget = make_budget(request, cap, resting_cap)
        # What sleepers may hold is not taken off: they use nothing, and the level falls as soon as one wakes.
        rates = np.maximum(cap - request.outside, 0)
        courses = [state.courses.get(tracker) for tracker in request.tracker]
        expected, use, trim = _trims(request, rates, courses)
        goal = rates * trim
        uses = _uses(request, budget)
        lo = _floors(request, budget, goal)
        level, age, through = _levels(request, goal, lo, uses, courses)
        limit = self._limits(request, budget, lo, request.spread(level), claim, before.limit)
        lets_through = np.where(rates > 0, through / np.maximum(rates, 1), 1.0)
        after = zip(*(c.tolist() for c in (level, age, lets_through, expected, use)), strict=True)
        return answer(request, budget, limit), AdaptiveState(
            Memory(request.infohash, limit, claim, before.score),
            loans,
            {tracker: Course(*course) for tracker, course in zip(request.tracker, after, strict=True)},
        )

    def _limits(self, request: Request, budget: Budget, lo: Int64, level: Int64, claim: Float64, held: Int64) -> Int64:
        """(N,) the level for those that press, room above their rate for the others, bytes/s."""
        top = np.clip(level, lo, budget.hi)
        # Who uploads next to nothing gets what it will hold asleep: falling asleep is no write then.
        standing = request.spread(budget.standing)
        wanted = np.where(request.rate * HEADROOM <= standing, standing, np.ceil(claim))
        need = np.where(request.pressing, top, np.clip(wanted, lo, top)).astype(np.int64)
        most = np.floor(budget.cap * self.overcommit).astype(np.int64) - (budget.cap - budget.total)
        enough = budget.total >= budget.sharers
        total = np.where(enough, np.clip(request.total(need), budget.total, most), budget.sharers)
        smallest = np.where(budget.sharing, MIN_LIMIT, 0)
        limit = smallest + waterfill(
            total - budget.sharers, request.start, np.ones_like(lo), need - smallest, top - smallest
        )
        fits = (held >= np.maximum(lo, request.rate * TIGHT)) & (held <= top)
        keep = budget.sharing & ~request.pressing & fits & request.spread(enough)
        # What a torrent holds and does not use costs nothing, as long as the limits do not add up to too much.
        most = np.where(enough, most, total)
        return np.where(budget.sharing, settle(limit, held, keep, request.start, most), budget.resting)


def _trims(request: Request, rates: Int64, courses: list[Course | None]) -> tuple[Float64, Float64, Float64]:
    """(G,) what was expected to go through and what did, both smoothed, as parts of the cap; and the trim."""
    before = [course or Course(0, 0.0, 1.0, 1.0, 1.0) for course in courses]
    last = np.array([course.lets_through for course in before])
    # More than twice what was let through is not ours: limits take effect late.
    now = np.minimum(request.total(request.rate) / np.maximum(rates, 1), 2 * last)
    part = 1 - np.exp(-request.elapsed / USE_TIME)
    expected = np.array([course.expected for course in before])
    expected += part * (last - expected)
    use = np.array([course.use for course in before])
    # What is too much is believed sooner than what is too little: a start, or a crowd, must not wind the trim up.
    use += np.where(now > use, 1 - np.exp(-request.elapsed / RISE_TIME), part) * (now - use)
    # Where nobody presses, the use says nothing of the level.
    held = request.total(request.pressing) > 0
    use = np.where(held, use, expected)
    return expected, use, np.clip(expected / np.maximum(use, 1e-9), *TRIM)


def _uses(request: Request, budget: Budget) -> Int64:
    """(N,) what each torrent would use without a limit, as far as is known, bytes/s."""
    rate = np.where(request.awake, np.ceil(request.rate), 0).astype(np.int64)
    return np.where(request.pressing, budget.hi, np.clip(rate, budget.lo, budget.hi))


def _floors(request: Request, budget: Budget, goal: Float64) -> Int64:
    """(N,) lower bounds, given up where they do not fit, bytes/s."""
    fit = request.spread(request.total(budget.lo) <= AIM * goal)
    return np.where(fit, budget.lo, np.minimum(budget.lo, MIN_LIMIT))


def _levels(
    request: Request, goal: Float64, lo: Int64, uses: Int64, courses: list[Course | None]
) -> tuple[Int64, Float64, Int64]:
    """(G,) the water levels, bytes/s, their ages in seconds, and what they are expected to let through, bytes/s."""
    aim = np.floor(AIM * goal).astype(np.int64)
    filled = waterfill(aim, request.start, np.ones_like(lo), np.minimum(lo, uses), uses)
    # The level is where those lie that are at no bound of their own; the lowest, since shares differ by a byte.
    short = filled < uses
    at_level = np.where(short & (filled > lo), filled, MAX_LIMIT)
    fresh = np.minimum.reduceat(at_level, request.start)
    nobody = ~np.logical_or.reduceat(short, request.start)
    all_at_floors = (fresh == MAX_LIMIT) & ~nobody
    fresh = np.where(all_at_floors, MIN_LIMIT, fresh)

    held = np.array([course.level if course else 0 for course in courses], np.int64)
    age = np.array([course.age + request.elapsed if course else 0.0 for course in courses])
    lets_through = request.total(np.minimum(np.maximum(request.spread(held), lo), uses))
    needs_no_raise = (fresh <= held) | (lets_through >= ENOUGH * goal) | (age < RAISE_AFTER)
    keep = (held > 0) & (lets_through <= TOO_MUCH * goal) & needs_no_raise
    level = np.where(keep, held, fresh)
    through = request.total(np.minimum(np.maximum(request.spread(level), lo), uses)).astype(np.int64)
    return level, np.where(level == held, age, 0.0), through


def within_cap(request: Request, given: Allocation) -> Int64:
    """(N,) the limits of an answer, lowered so that they add up to no more than the effective caps, bytes/s.

    The highest are lowered first. For a clean stop: without qguard only limits hold, not rates.
    """
    counted = request.awake | (request.floor > 0)
    asleep = promised_rate(request, np.where(counted, 0, given.limit))
    left = given.effective_cap - request.outside - asleep - request.total(counted)
    smallest = np.where(counted, MIN_LIMIT, 0)
    hi = np.where(counted, given.limit, 0) - smallest
    lowered = waterfill(np.maximum(left, 0), request.start, np.ones_like(hi), np.zeros_like(hi), hi)
    return np.where(counted, smallest + lowered, given.limit)

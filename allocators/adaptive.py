"""`adaptive`: one water level per tracker, above what its torrents use.

    demand_i = any amount, of a torrent that presses on its limit; its rate, of one that does not
    goal     = the cap, less what is used outside of our control, less a part of what is carried over
    λ        = the level at which min(demand_i, λ) adds up to the goal
    limit    = λ for those that press; for the others their rate and some headroom, λ at most

A torrent that cannot use its share costs what it uses, not what it might use. So the *rates* add up to the cap, and the
limits to somewhat more: by the headroom of the torrents that do not press, and never above `max_overcommit` times the
cap, so that what is left behind by a qguard that dies is bounded. `within_cap` projects them for a clean stop.

Giving any amount to those that press makes the client carry out the steps of the exact solution: each cycle, those that
fall short of the level are found out, the level never falls by that, and it is over in two or three cycles.

The level stays while what it is expected to let through is near the goal; otherwise every torrent that wakes would
rewrite all that press. It is lowered in the cycle in which that becomes too much, and raised when what it missed since
it was set is worth the writes: much missed soon, little late, and the later the more torrents press.

What went through above or below the cap in the last seconds is carried over: the goal moves a little the other way, so
that the mean of ten seconds comes out at the cap. Use is missed where a torrent has just stopped and its share is not
given to others yet; nothing is carried over while nobody presses, because then there is nobody to make up for it.
docs/control.md has the measurements behind the constants.

Effective caps: as `soft` (`allocators.lending`), the guaranteed rates included.

States: what each torrent was given and wanted; loans, levels and what is carried over by tracker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from allocators.base import MAX_LIMIT, MIN_LIMIT, Allocation, Bool, Float64, Int64, Options, Request, promised_rate
from allocators.budget import Budget, answer, nothing
from allocators.claims import HEADROOM, TIGHT, claims
from allocators.grid import round_up
from allocators.lending import Loan, lent_budget
from allocators.memory import Memory, recall
from allocators.settle import settle
from allocators.waterfill import waterfill

TOO_MUCH: Final = 1.07
"""The part of the goal from which a level is lowered."""

TOO_MUCH_OF_MANY: Final = 1.055
"""The same where more than `FEW` torrents press: their bursts even out."""

FEW: Final = 8
"""Torrents that press."""

RAISE_AFTER: Final = 3.0
"""Seconds between two raises of a level, at least: large ones act after 2, small ones after 4."""

NEARLY: Final = 0.02
"""The part of the goal that a level may miss for ever."""

WORTH_EACH: Final = 0.07
"""Seconds' worth of the goal that a level may miss or exceed beyond that, for each torrent that a change rewrites."""

WORTH_MORE: Final = 0.2
"""That much more it may miss: a cap is to be kept before it is used up."""

ROOM: Final = 1.12
"""Times the cap: what limits may add up to that are kept although they are not used, and more for each torrent that
shares."""

ROOM_EACH: Final = 0.01
"""That much more of it: what one torrent holds and may suddenly use is a large part of a cap that few share."""

ROOM_MOST: Final = 1.35
"""No more than that: many even out, but not when a crowd comes; `max_overcommit` at most."""

CARRY_TIME: Final = 10.0
"""Seconds: time constant over which use above or below the cap is remembered."""

CARRY_GAIN: Final = 0.5
"""The part of what was missed that is made up for. The whole would chase the swing of the client's own quota."""

CARRY_OVER: Final = 1.0
"""The part of what was too much that is made up for: some clients let more through than their limits for ever."""

CARRY_MOST: Final = 0.05
"""The part of the cap by which the goal moves at most."""


class Course(NamedTuple):
    """What is remembered of one tracker."""

    level: int
    """bytes/s; `MAX_LIMIT` where nobody needs to be held."""
    age: float
    """Seconds since it was set."""
    missed: float
    """What it has let through too little since then, in seconds' worth of the goal; below zero where too much."""
    carry: float
    """Smoothed use above the cap, as a part of it; below zero where less went through."""


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
        settles: limits are changed only where that is worth a write.
    """

    settles = True

    def __init__(self, options: Options) -> None:
        self._options = options
        self.overcommit = options.max_overcommit

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, AdaptiveState]:  # noqa: ANN401 - opaque
        """Give every torrent of `request` a limit; `state` is what the previous call returned."""
        state = state or AdaptiveState()
        if not len(request.infohash):
            return nothing(), state
        before = recall(request, state.torrents)
        claim = claims(request, before.claim)
        budget, loans = lent_budget(request, claim, before.reached, self._options, state.loans)
        # What sleepers may hold is not taken off: they use nothing, and the level falls as soon as one wakes.
        rates = np.maximum(budget.cap - request.outside, 0)
        courses = [state.courses.get(tracker) for tracker in request.tracker]
        carry = _carry(request, rates, request.pressing & (before.limit < budget.hi), courses)
        goal = rates * (1 - carry * np.where(carry > 0, CARRY_OVER, CARRY_GAIN))
        uses = _uses(request, budget)
        lo = _floors(request, budget, goal)
        level, age, missed = _levels(request, goal, lo, uses, courses)
        limit = self._limits(request, budget, lo, request.spread(level), claim, before.limit)
        after = zip(level.tolist(), age.tolist(), missed.tolist(), carry.tolist(), strict=True)
        return answer(request, budget, limit), AdaptiveState(
            Memory(request.infohash, limit, claim, before.score, before.reached),
            loans,
            {tracker: Course(*course) for tracker, course in zip(request.tracker, after, strict=True)},
        )

    def _limits(self, request: Request, budget: Budget, lo: Int64, level: Int64, claim: Float64, held: Int64) -> Int64:
        """(N,) the level for those that press, room above their rate for the others, bytes/s."""
        top = np.clip(level, lo, budget.hi)
        # Who uploads next to nothing gets what it will hold asleep: falling asleep is no write then.
        rows = np.flatnonzero(budget.sharing & ~request.pressing)
        standing, fitting = request.spread(budget.standing)[rows], round_up(np.ceil(claim[rows]).astype(np.int64))
        wanted = np.where(request.rate[rows] * HEADROOM <= standing, standing, fitting)
        need = top.copy()
        need[rows] = np.clip(wanted, lo[rows], top[rows])
        asleep = budget.cap - budget.total
        most = np.floor(budget.cap * self.overcommit).astype(np.int64) - asleep
        enough = budget.total >= budget.sharers
        total = np.where(enough, np.clip(request.total(need), budget.total, most), budget.sharers)
        smallest = np.where(budget.sharing, MIN_LIMIT, 0)
        limit = smallest + waterfill(
            total - budget.sharers, request.start, np.ones_like(lo), need - smallest, top - smallest
        )
        fits = (held >= np.maximum(lo, request.rate * TIGHT)) & (held <= top)
        keep = budget.sharing & ~request.pressing & fits & request.spread(enough)
        # What a torrent holds and does not use costs nothing, as long as the limits do not add up to too much.
        room = np.minimum(ROOM + ROOM_EACH * budget.sharers, min(ROOM_MOST, self.overcommit))
        most = np.floor(budget.cap * room).astype(np.int64) - asleep
        return np.where(budget.sharing, settle(limit, held, keep, request.start, most), budget.resting)


def _carry(request: Request, rates: Int64, wanting: Bool, courses: list[Course | None]) -> Float64:
    """(G,) how much more went through than the caps allow, smoothed, as a part of them.

    Args:
        request: the torrents.
        rates: (G,) what may go through, bytes/s.
        wanting: (N,) who could use a higher level: presses, and not on a bound of its own.
        courses: what is remembered of the trackers.
    """
    before = np.array([course.carry if course else 0.0 for course in courses])
    over = request.total(request.rate) / np.maximum(rates, 1) - 1
    over = np.where(request.total(wanting) > 0, over, np.maximum(over, 0.0))
    carry = before + (1 - np.exp(-request.elapsed / CARRY_TIME)) * (over - before)
    # No more than has an effect: what came long ago, or from a client that was not limited yet, must not last.
    bounded: Float64 = np.clip(carry, -CARRY_MOST / CARRY_GAIN, CARRY_MOST / CARRY_OVER)
    return bounded


def _uses(request: Request, budget: Budget) -> Int64:
    """(N,) what each torrent would use without a limit, as far as is known, bytes/s; nothing while it sleeps."""
    rate = np.where(request.awake, np.ceil(request.rate), 0).astype(np.int64)
    return np.where(request.pressing, budget.hi, np.minimum(rate, budget.hi))


def _floors(request: Request, budget: Budget, goal: Float64) -> Int64:
    """(N,) lower bounds, given up where they do not fit, bytes/s."""
    fit = request.spread(request.total(budget.lo) <= goal)
    return np.where(fit, budget.lo, np.minimum(budget.lo, MIN_LIMIT))


def _levels(
    request: Request, goal: Float64, lo: Int64, uses: Int64, courses: list[Course | None]
) -> tuple[Int64, Float64, Float64]:
    """(G,) the water levels, bytes/s, their ages in seconds, and what they missed, in seconds' worth of the goals."""
    fresh = _fresh_levels(request, np.floor(goal).astype(np.int64), lo, uses)
    held = np.array([course.level if course else 0 for course in courses], np.int64)
    age = np.array([course.age if course else 0.0 for course in courses]) + request.elapsed
    missed = np.array([course.missed if course else 0.0 for course in courses])
    off = 1 - _lets_through(request, held, lo, uses) / np.maximum(goal, 1)
    more = np.sign(off) * np.maximum(np.abs(off) - NEARLY, 0.0) * request.elapsed
    missed = missed + more
    missed = np.where(fresh > held, np.maximum(missed, 0.0), np.minimum(missed, 0.0))
    pressing = request.total(request.pressing)
    worth, too_much = WORTH_EACH * pressing, np.where(pressing > FEW, TOO_MUCH_OF_MANY, TOO_MUCH)
    # By the next request as much will have been missed again.
    stays_low = (age < RAISE_AFTER) | (missed + more < worth + WORTH_MORE)
    stays_high = (-off <= too_much - 1) & (-missed < np.maximum(worth, NEARLY))
    keep = (held > 0) & np.where(fresh > held, stays_low, stays_high)
    level = np.where(keep, held, fresh)
    same = level == held
    return level, np.where(same, age, 0.0), np.where(same, missed, 0.0)


def _lets_through(request: Request, level: Int64, lo: Int64, uses: Int64) -> Int64:
    """(G,) what levels let through, bytes/s."""
    through: Int64 = request.total(np.minimum(np.maximum(request.spread(level), lo), uses))
    return through


def _fresh_levels(request: Request, goal: Int64, lo: Int64, uses: Int64) -> Int64:
    """(G,) the highest levels that let no more than the goals through, bytes/s."""
    filled = waterfill(goal, request.start, np.ones_like(lo), np.minimum(lo, uses), uses, even=True)
    # The level is where those lie that could use more; the lowest, since floors lie higher.
    at_level = np.where(filled < uses, filled, MAX_LIMIT)
    return np.maximum(np.minimum.reduceat(at_level, request.start), MIN_LIMIT)


def within_cap(request: Request, given: Allocation) -> Int64:
    """(N,) the limits of an answer, lowered so that they add up to no more than the caps, with no loans, bytes/s.

    First what is not used, then the highest. For a clean stop: without qguard only limits hold, not rates.
    """
    counted = request.awake | (request.floor > 0)
    asleep = promised_rate(request, np.where(counted, 0, given.limit))
    cap = np.minimum(given.effective_cap, request.base_cap)  # nobody is left to take a loan back
    left = np.maximum(cap - request.outside - asleep - request.total(counted), 0)
    smallest = np.where(counted, MIN_LIMIT, 0)
    held = np.where(counted, given.limit, 0) - smallest
    needed = np.maximum(np.ceil(request.rate * HEADROOM).astype(np.int64), request.floor)
    used = np.where(request.pressing, held, np.minimum(held, needed))
    enough = request.spread(request.total(used) <= left)
    lowered = waterfill(
        left, request.start, np.ones_like(held), np.where(enough, used, 0), np.where(enough, held, used)
    )
    return np.where(counted, smallest + lowered, given.limit)

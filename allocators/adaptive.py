"""`adaptive`: one water level per tracker, above what its torrents use.

    demand_i = any amount, of a torrent that presses on its limit; its rate, of one that does not
    λ        = the level at which min(demand_i, λ) adds up to the budget
    limit    = λ for those that press; for the others their rate and some headroom, λ at most

A torrent that cannot use its share costs what it uses, not what it might use. So the *rates* add up to the cap, and the
limits to somewhat more: by the headroom of the torrents that do not press, and never above `max_overcommit` times the
cap, so that what is left behind by a qguard that dies is bounded. `within_cap` projects them for a clean stop.

Giving any amount to those that press makes the client carry out the steps of the exact solution: each cycle, those that
fall short of the level are found out, the level never falls by that, and it is over in two or three cycles. The level
aims at 98 % of the budget, since libtorrent lets 1 to 2 % more through than a limit says. It stays until what it is
expected to let through leaves 95 to 100 % of the budget; it is lowered at once, and raised every 15 s at most.

Effective caps: as `soft` (`allocators.lending`), the guaranteed rates included.

States: what each torrent was given and wanted, the loans and the levels by tracker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from allocators.base import MAX_LIMIT, MIN_LIMIT, Allocation, Float64, Int64, Options, Request, promised_rate
from allocators.budget import Budget, answer, make_budget, nothing
from allocators.claims import TIGHT, claims, demand, taken
from allocators.lending import Loan, lend
from allocators.link import caps_within_link
from allocators.memory import Memory, recall
from allocators.settle import settle
from allocators.waterfill import waterfill

AIM: Final = 0.98
"""The part of the budget that a new level is to let through."""

ENOUGH: Final = 0.95
"""The part of the budget below which a level is raised."""

RAISE_AFTER: Final = 15.0
"""Seconds between two raises of a level: one unchoke round, within which a rate follows a limit."""


class Level(NamedTuple):
    """The water level of one tracker."""

    limit: int
    """bytes/s; `MAX_LIMIT` where nobody needs to be held."""
    age: float
    """Seconds since it was set."""


@dataclass(frozen=True, slots=True, eq=False)
class AdaptiveState:
    """What one request leaves to the next."""

    torrents: Memory | None = None
    loans: Mapping[str, Loan] = field(default_factory=dict)
    levels: Mapping[str, Level] = field(default_factory=dict)


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
        _, resting_cap = caps_within_link(
            request.base_cap, request.priority, np.ones(len(request.tracker), np.bool_), request.link
        )
        claim = claims(request, before.claim)
        cap, loans = lend(
            request,
            demand(request, claim, before.limit),
            taken(request, claim, before.limit),
            resting_cap,
            self._options,
            state.loans,
        )
        budget = make_budget(request, cap, resting_cap)
        uses = _uses(request, budget)
        lo = _floors(request, budget)
        level, levels = _levels(request, budget, lo, uses, state.levels)
        limit = self._limits(request, budget, lo, request.spread(level), claim, before.limit)
        return answer(request, budget, limit), AdaptiveState(
            Memory(request.infohash, limit, claim, before.score), loans, levels
        )

    def _limits(self, request: Request, budget: Budget, lo: Int64, level: Int64, claim: Float64, held: Int64) -> Int64:
        """(N,) the level for those that press, room above their rate for the others, bytes/s."""
        top = np.clip(level, lo, budget.hi)
        need = np.where(request.pressing, top, np.clip(np.ceil(claim), lo, top)).astype(np.int64)
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


def _uses(request: Request, budget: Budget) -> Int64:
    """(N,) what each torrent would use without a limit, as far as is known, bytes/s."""
    rate = np.where(request.awake, np.ceil(request.rate), 0).astype(np.int64)
    return np.where(request.pressing, budget.hi, np.clip(rate, budget.lo, budget.hi))


def _floors(request: Request, budget: Budget) -> Int64:
    """(N,) lower bounds, given up where they do not fit, bytes/s."""
    fit = request.spread(request.total(budget.lo) <= AIM * budget.total)
    return np.where(fit, budget.lo, np.minimum(budget.lo, MIN_LIMIT))


def _levels(
    request: Request, budget: Budget, lo: Int64, uses: Int64, before: Mapping[str, Level]
) -> tuple[Int64, dict[str, Level]]:
    """(G,) the water levels, bytes/s, and what is to be remembered of them."""
    aim = np.floor(AIM * np.maximum(budget.total, 0)).astype(np.int64)
    filled = waterfill(aim, request.start, np.ones_like(lo), np.minimum(lo, uses), uses)
    short = filled < uses
    highest = np.maximum.reduceat(np.where(short, filled, 0), request.start)
    fresh = np.where(np.logical_or.reduceat(short, request.start), np.maximum(highest, MIN_LIMIT), MAX_LIMIT)

    known = [before.get(tracker) for tracker in request.tracker]
    held = np.array([level.limit if level else 0 for level in known], np.int64)
    age = np.array([level.age + request.elapsed if level else 0.0 for level in known])
    lets_through = request.total(np.minimum(np.maximum(request.spread(held), lo), uses))
    needs_no_raise = (fresh <= held) | (lets_through >= ENOUGH * budget.total) | (age < RAISE_AFTER)
    keep = (held > 0) & (lets_through <= budget.total) & needs_no_raise
    level = np.where(keep, held, fresh)
    age = np.where(level == held, age, 0.0)
    after = {
        tracker: Level(*row)
        for tracker, row in zip(request.tracker, zip(level.tolist(), age.tolist(), strict=True), strict=True)
    }
    return level, after


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

"""What is common to all strategies: who shares a cap, what sleepers hold, and what is left to be shared.

    reserve = min(K, sleepers) * s            s, K, and how sleepers are counted: see `allocators.standing`
    budget  = cap - used outside - reserve    shared by the torrents that are awake, and by downloads asleep

A download that sleeps is not put on a standing limit below its own floor: it holds the floor and counts in full.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allocators.base import MIN_LIMIT, Allocation, Bool, Int64, Request
from allocators.standing import keep_near, reserve_for, standing_limit
from allocators.waterfill import waterfill


@dataclass(frozen=True, slots=True, eq=False)
class Funds:
    """The part of each tracker's effective cap that a strategy has to hand out, and to whom."""

    cap: Int64
    """(G,) effective caps, bytes/s."""
    standing: Int64
    """(G,) standing limits, bytes/s."""
    total: Int64
    """(G,) what the sharing torrents may hold together, bytes/s; below their number where the cap is too small."""
    sharers: Int64
    """(G,) how many torrents share."""
    sharing: Bool
    """(N,) awake, or a download that sleeps."""


@dataclass(frozen=True, slots=True, eq=False)
class Budget(Funds):
    """The same, and what single torrents may hold."""

    resting: Int64
    """(N,) limits of those that do not share."""
    lo: Int64
    """(N,) what a sharing torrent is not squeezed below while the cap allows, `MIN_LIMIT` at least; else 0."""
    hi: Int64
    """(N,) what a sharing torrent may hold at most; else 0."""


def set_aside(request: Request, cap: Int64, resting_cap: Int64) -> Funds:
    """Set aside what the sleeping torrents need.

    Args:
        request: the torrents.
        cap: (G,) effective caps, bytes/s.
        resting_cap: (G,) the caps that standing limits are measured against, bytes/s.
    """
    sharing = request.awake | (request.floor > 0)
    sharers = request.total(sharing).astype(np.int64)
    standing = standing_limit(resting_cap, request.wakeups)
    reserve = reserve_for(request.count - sharers, standing, request.wakeups)
    return Funds(cap, standing, cap - request.outside - reserve, sharers, sharing)


def make_budget(request: Request, cap: Int64, resting_cap: Int64) -> Budget:
    """Set aside what the sleeping torrents need, and say what each torrent may hold; arguments as of `set_aside`."""
    funds = set_aside(request, cap, resting_cap)
    sharing = funds.sharing
    lo, hi = bounds(request, slice(None))
    return Budget(
        cap=cap,
        standing=funds.standing,
        total=funds.total,
        sharers=funds.sharers,
        sharing=sharing,
        resting=resting_limits(request, funds.standing, sharing),
        lo=lo * sharing,
        hi=hi * sharing,
    )


def bounds(request: Request, rows: slice | Int64) -> tuple[Int64, Int64]:
    """What torrents that share are not squeezed below, and what they may hold at most, bytes/s, in these rows."""
    ceiling = request.ceiling[rows]
    lo = np.minimum(np.maximum(request.floor[rows], MIN_LIMIT), ceiling)
    return lo, np.where(request.awake[rows], ceiling, lo)


def resting_limits(request: Request, standing: Int64, sharing: Bool) -> Int64:
    """(N,) what each torrent that does not share holds, (G,) standing limits given, bytes/s; most hold just theirs."""
    limit: Int64 = request.spread(standing)
    rows = np.flatnonzero((request.current != limit) & ~sharing)
    limit[rows] = keep_near(request.current[rows], limit[rows])
    rows = np.flatnonzero(request.ceiling < limit)
    limit[rows] = request.ceiling[rows]
    return limit


def share(
    request: Request, budget: Budget, weight: Int64, lo: Int64, tiers: Sequence[Int64], *, even: bool = False
) -> Int64:
    """Split the budget by weighted max-min, under the first upper bounds that can use it up.

    What torrents want comes before what they may have at most: where the first tier of upper bounds adds up to less
    than the budget, every torrent gets it and the rest is shared under the second, and so on.

    Args:
        request: the torrents.
        budget: what there is to share.
        weight: (N,) 1 to 2^20.
        lo: (N,) lower bounds, bytes/s; those that do not share have none.
        tiers: (N,) upper bounds each, bytes/s; the last one is what a torrent may hold at most.
        even: see `waterfill`.

    Returns:
        (N,) limits in bytes/s. Each sharing torrent has 1 B/s at least, because 0 is unlimited to the client; that byte
        is inside the sum.
    """
    smallest = MIN_LIMIT * budget.sharing
    left = np.maximum(budget.total - budget.sharers, 0)
    at_least, at_most = lo, tiers[0]
    for tier in tiers[1:]:
        unused = request.spread(request.total(at_most) < budget.total)
        at_least, at_most = np.where(unused, at_most, at_least), np.where(unused, np.maximum(tier, at_most), at_most)
    least, most = np.minimum(at_least, at_most) - smallest, np.maximum(at_most - smallest, 0)
    extra = waterfill(left, request.start, weight, least, most, even=even)
    return np.where(budget.sharing, smallest + extra, budget.resting)


def answer(request: Request, budget: Funds, limit: Int64) -> Allocation:
    """The limits as an answer, with a sentence for each cap that cannot be kept."""
    conflicts = {
        request.tracker[g]: _why(int(request.outside[g]), int(budget.cap[g]), int(request.count[g]))
        for g in np.flatnonzero(budget.total < budget.sharers)
    }
    return Allocation(limit, budget.cap, budget.standing, conflicts)


def nothing() -> Allocation:
    """The answer when there is no torrent."""
    empty = np.zeros(0, np.int64)
    return Allocation(empty, empty, empty)


def _why(outside: int, cap: int, torrents: int) -> str:
    if outside >= cap:
        return f"torrents that qguard may not change use {outside} B/s, the cap is {cap} B/s"
    return f"a cap of {cap} B/s is too small for {torrents} torrents: the awake ones hold 1 B/s, the smallest limit"

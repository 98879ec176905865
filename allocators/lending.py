"""Which tracker lends how much of its cap to which other.

    demand = what the torrents may want (`allocators.claims`) + standing limits, in steps of base / 16
    keep   = min(base, demand)                                 a lender's own part: all of base in the very next cycle,
                                                               and less only after `LENDS_AFTER` seconds
    pool   = min(link, sum of bases) - sum of keep
    room   = min(demand - base, max_borrow_fraction * base)    of trackers that have taken up their own cap
    grant  = pool shared by weighted max-min under `room`, with weights priority * (demand - base)
    bonus  = grant where that is less than before, else a step towards it
    effective cap = keep + bonus, and what nobody borrows goes back to its owners

Lenders keep what they need before anybody borrows, and a bonus is never above its grant. So the effective caps add up
to no more than there is, whatever was lent before: smoothing comes after the split but can only leave something over.
Where not even the owners' needs fit into the link, it is shared by weighted max-min with the priorities as weights, and
nothing is lent. Lower bounds are the guaranteed rates, standing limits, and what is used outside of our control.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from allocators.base import Bool, Float64, Int64, Options, Request
from allocators.budget import Budget, make_budget
from allocators.claims import demand, taken
from allocators.link import resting_caps
from allocators.standing import SHARE
from allocators.waterfill import MAX_WEIGHT, waterfill

STEPS: Final = 16
"""Demand counts in sixteenths of the cap: otherwise every change of a rate would move every cap."""

NOMINAL_INTERVAL: Final = 5.0
"""Seconds for which `smoothing_alpha` is the part of the way that a bonus grows."""

AT_ONCE: Final = 15.0
"""Seconds since a tracker was first seen in which its bonus does not grow in steps. Its torrents uploaded without
limits until then or have just begun, and after a first limit an upload stalls for up to 10 s: what it seems to want
rises late, and by much."""

LENDS_AFTER: Final = 8.0
"""Seconds for which a tracker must have wanted less until it lends more: two of the usual intervals. Uploads stall when
limits change, and a cap that is lent for a moment is soon missed."""

LEAVES_AT: Final = 0.1
"""How far what is taken falls below `borrow_threshold_ratio` until a tracker stops borrowing."""

_ONE: Final = np.zeros(1, np.int64)


class Loan(NamedTuple):
    """What is remembered of one tracker."""

    steps: int
    """Its demand, in sixteenths of its cap."""
    bonus: int
    """What it borrows, bytes/s."""
    borrows: bool
    """Whether it used up what it had."""
    age: float = AT_ONCE
    """Seconds since it was first seen, `AT_ONCE` at most."""
    low: float = 0.0
    """Seconds for which it has wanted less than its demand says."""


def lent_budget(
    request: Request, claim: Float64, reached: Float64, options: Options, loans: Mapping[str, Loan]
) -> tuple[Budget, dict[str, Loan]]:
    """What each tracker has to hand out after lending, and what is to be remembered.

    Args:
        request: the torrents.
        claim: (N,) see `allocators.claims`, bytes/s.
        reached: (N,) see `allocators.memory`, bytes/s.
        options: thresholds, bounds and smoothing.
        loans: what was returned for the previous request.
    """
    resting_cap = resting_caps(request)
    wanted = demand(request, claim, reached)
    cap, after = lend(request, wanted, taken(request, claim, reached), resting_cap, options, loans)
    return make_budget(request, cap, resting_cap), after


def lend(
    request: Request,
    wanted: Float64,
    taken: Float64,
    resting_cap: Int64,
    options: Options,
    loans: Mapping[str, Loan],
) -> tuple[Int64, dict[str, Loan]]:
    """(G,) effective caps in bytes/s, and what is to be remembered.

    Args:
        request: the trackers.
        wanted: (G,) what their torrents may want, bytes/s: `claims.demand`.
        taken: (G,) what they take up, bytes/s: `claims.taken`.
        resting_cap: (G,) the caps that standing limits are measured against, bytes/s.
        options: thresholds, bounds and smoothing.
        loans: what was returned for the previous request.
    """
    base = request.base_cap
    everything = int(base.sum()) if request.link is None else min(request.link, int(base.sum()))
    known = [loans.get(tracker) for tracker in request.tracker]
    demand, steps, low = _in_steps(wanted + resting_cap * SHARE, base, known, request.elapsed)

    keep = np.where(request.may_lend, np.minimum(base, demand), base)
    if int(keep.sum()) > everything:
        lo = np.minimum(np.maximum(request.guaranteed, request.outside + (resting_cap * SHARE).astype(np.int64)), keep)
        keep = waterfill(np.array([everything], np.int64), _ONE, request.priority, lo, keep)
    pool = everything - int(keep.sum())

    borrows = _borrows(request, taken, options.borrow_threshold_ratio, [bool(loan and loan.borrows) for loan in known])
    grant = _grants(request, demand, borrows, pool, options.max_borrow_fraction)
    age = [min(loan.age + request.elapsed, AT_ONCE) if loan else 0.0 for loan in known]
    before = np.where(np.array(age) < AT_ONCE, grant, [loan.bonus if loan else 0 for loan in known])
    bonus = _grow(before, grant, base, request.elapsed, options)
    # Owners first: what nobody borrows is headroom for those it belongs to.
    rest = np.array([pool - int(bonus.sum())], np.int64)
    returned = waterfill(rest, _ONE, request.priority, np.zeros_like(keep), base - keep)
    after = zip(steps.tolist(), bonus.tolist(), borrows.tolist(), age, low.tolist(), strict=True)
    return keep + bonus + returned, {tracker: Loan(*loan) for tracker, loan in zip(request.tracker, after, strict=True)}


def _in_steps(wanted: Float64, base: Int64, known: list[Loan | None], elapsed: float) -> tuple[Int64, Int64, Float64]:
    """(G,) demand rounded up to steps of the cap, the steps, and for how many seconds less has been wanted.

    One step less than before is no change, and several are one only after `LENDS_AFTER` seconds.
    """
    step = -(-base // STEPS)
    before = np.array([loan.steps if loan else 0 for loan in known], np.int64)
    steps = np.ceil(np.minimum(wanted, 4.0 * base) / step).astype(np.int64)
    low = np.where(steps < before - 1, np.array([loan.low if loan else 0.0 for loan in known]) + elapsed, 0.0)
    steps = np.where((steps == before - 1) | ((low > 0) & (low < LENDS_AFTER)), before, steps)
    return steps * step, steps, low


def _borrows(request: Request, taken: Float64, threshold: float, before: list[bool]) -> Bool:
    """(G,) who may borrow, and has nothing left of its own."""
    begins = np.where(before, threshold - LEAVES_AT, threshold) * request.base_cap
    return request.may_borrow & ~request.hard & (taken >= begins)


def _grants(request: Request, demand: Int64, borrows: Bool, pool: int, fraction: float) -> Int64:
    """(G,) the pool shared among those who borrow."""
    need = np.maximum(demand - request.base_cap, 0)
    room = np.where(borrows, np.minimum(need, np.floor(request.base_cap * fraction)), 0).astype(np.int64)
    # In proportion to the largest, so that priority (10 at most) times need stays within what the kernel takes.
    relative = need / max(int(need.max()), 1)
    weight = np.maximum(np.rint(relative * (MAX_WEIGHT // 10)).astype(np.int64), 1) * request.priority
    return waterfill(np.array([pool], np.int64), _ONE, weight, np.zeros_like(room), room)


def _grow(before: Int64, grant: Int64, base: Int64, elapsed: float, options: Options) -> Int64:
    """(G,) the bonus: down at once, up by a part of the way for each second, small raises not at all.

    A first loan is no small raise, and what is granted to a tracker in its first seconds it gets at once.
    """
    part = 1 - (1 - options.smoothing_alpha) ** (elapsed / NOMINAL_INTERVAL)
    small = options.min_effective_delta * base
    grown = before + np.floor(part * (grant - before)).astype(np.int64)
    # The last bit is not worth a cycle of its own.
    grown = np.where((grant - grown < small) & (part > 0), grant, grown)
    grown = np.where((before > 0) & (grant - before < small), before, grown)
    return np.minimum(grant, grown)

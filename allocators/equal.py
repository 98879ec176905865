"""`equal`: every awake torrent of a tracker gets the same limit.

    limit = budget / awake torrents           to the byte; the first torrents by info-hash get the odd bytes

The budget is the cap less what sleeping torrents need: see `allocators.budget`. A torrent with an upper bound of its
own below that share takes the bound and the others share the difference (max-min fairness). A torrent that is still
downloading does not go below its floor while the cap allows. Demand plays no part: a torrent that cannot use its share
leaves it unused.

States: none. Two equal requests get equal answers.
"""

from typing import Any

import numpy as np

from allocators.base import MAX_LIMIT, MIN_LIMIT, Allocation, Int64, Options, Request
from allocators.budget import Budget, answer, make_budget, nothing
from allocators.link import caps_within_link
from allocators.waterfill import waterfill


class Equal:
    """The equal split. Exact, stateless, easy to predict."""

    def __init__(self, options: Options) -> None:
        del options  # an equal split has nothing to choose

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, None]:  # noqa: ANN401 - opaque by design
        """Give every torrent of `request` a limit; `state` is not used."""
        del state
        if not len(request.infohash):
            return nothing(), None
        cap, resting_cap = caps_within_link(request)
        budget = make_budget(request, cap, resting_cap)
        return answer(request, budget, split_evenly(request, budget)), None


def split_evenly(request: Request, budget: Budget) -> Int64:
    """(N,) the max-min shares of torrents that all weigh the same, bytes/s; each has `MIN_LIMIT` at least.

    Most have no bound of their own. Those of a tracker are one row for the kernel, the last one, with their number as
    its weight.
    """
    alike = (budget.lo == MIN_LIMIT) & (budget.hi == MAX_LIMIT)
    number = request.total(alike).astype(np.int64)
    bounded = np.flatnonzero(budget.sharing ^ alike)
    size = budget.sharers - number + (number > 0)
    last = np.cumsum(size) - 1
    together = np.zeros(size.sum(), np.bool_)
    together[last[number > 0]] = True

    weight = np.ones(len(together), np.int64)
    lo, hi = np.zeros_like(weight), np.empty_like(weight)
    lo[~together], hi[~together] = budget.lo[bounded] - MIN_LIMIT, budget.hi[bounded] - MIN_LIMIT
    number = number[number > 0]
    weight[together], hi[together] = number, number * (MAX_LIMIT - MIN_LIMIT)
    left = np.maximum(budget.total - budget.sharers, 0)
    extra = waterfill(left[size > 0], (last - size + 1)[size > 0], weight, lo, hi)

    limit = budget.resting.copy()
    limit[bounded] = MIN_LIMIT + extra[~together]
    # What a row got in all, to each of its torrents: a byte more to the first.
    each, odd = np.divmod(extra[together], number)
    shares, holders = np.column_stack([each + 1, each]), np.column_stack([odd, number - odd])
    limit[alike] = MIN_LIMIT + np.repeat(shares, holders.ravel())
    return limit

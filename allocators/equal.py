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
from allocators.budget import Funds, answer, bounds, nothing, resting_limits, set_aside
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
        funds = set_aside(request, *caps_within_link(request))
        return answer(request, funds, split_evenly(request, funds)), None


def split_evenly(request: Request, funds: Funds) -> Int64:
    """(N,) the max-min shares of torrents that all weigh the same, bytes/s; each has `MIN_LIMIT` at least.

    Most have no bound of their own. Those of a tracker are one row for the kernel, the last one, with their number as
    its weight.
    """
    asleep = funds.sharing & ~request.awake
    has_bound = (request.floor > MIN_LIMIT) | (request.ceiling < MAX_LIMIT) | asleep
    bounded, alike = np.flatnonzero(funds.sharing & has_bound), request.awake & ~has_bound
    number = request.total(alike).astype(np.int64)
    some, size = number > 0, funds.sharers - number + (number > 0)
    last = np.cumsum(size) - 1
    together = np.zeros(size.sum(), np.bool_)
    together[last[some]] = True

    least, most = bounds(request, bounded)
    weight = np.ones(len(together), np.int64)
    lo, hi = np.zeros_like(weight), np.empty_like(weight)
    lo[~together], hi[~together] = least - MIN_LIMIT, most - MIN_LIMIT
    weight[together], hi[together] = number[some], number[some] * (MAX_LIMIT - MIN_LIMIT)
    left = np.maximum(funds.total - funds.sharers, 0)
    extra = waterfill(left[size > 0], (last - size + 1)[size > 0], weight, lo, hi)

    limit = resting_limits(request, funds.standing, funds.sharing)
    limit[bounded] = MIN_LIMIT + extra[~together]
    # What a row got in all, to each of its torrents: a byte more to the first.
    each, odd = np.divmod(extra[together], number[some])
    shares, holders = np.column_stack([each + 1, each]), np.column_stack([odd, number[some] - odd])
    limit[np.flatnonzero(alike)] = MIN_LIMIT + np.repeat(shares.ravel(), holders.ravel())
    return limit

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

from allocators.base import Allocation, Options, Request
from allocators.budget import answer, make_budget, nothing, share
from allocators.link import caps_within_link


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
        limit = share(request, budget, np.ones_like(budget.lo), budget.lo, [budget.hi])
        return answer(request, budget, limit), None

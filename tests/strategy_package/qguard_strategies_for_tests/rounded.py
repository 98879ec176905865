"""`rounded`: as `equal`, but rounded down to a power of two.

    limit = 2 ^ floor(log2(equal share))

Limits move only when the number of uploading torrents has doubled or halved, at the price of up to half of the cap.
"""

from typing import Any

import numpy as np

from allocators.base import Allocation, Options, Request
from allocators.budget import answer, make_budget, nothing, share
from allocators.link import caps_within_link


class Rounded:
    """Equal shares in round numbers. Stateless."""

    def __init__(self, options: Options) -> None:
        del options  # the strategy settings of the configuration; this one needs none

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, None]:
        """Give every torrent of `request` a limit."""
        if not len(request.infohash):
            return nothing(), None
        # The caps, held within the link where one is configured.
        cap, resting_cap = caps_within_link(request)
        # Less what sleeping torrents and torrents out of reach need; and the limits of the sleeping ones.
        budget = make_budget(request, cap, resting_cap)
        weight = np.ones_like(budget.lo)
        exact = share(request, budget, weight, budget.lo, [budget.hi])
        rounded = np.exp2(np.floor(np.log2(exact))).astype(np.int64)
        # A download keeps its floor where it has it.
        limit = np.where(budget.sharing, np.maximum(rounded, np.minimum(budget.lo, exact)), budget.resting)
        return answer(request, budget, limit), None

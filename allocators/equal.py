"""`equal`: every awake torrent of a tracker gets the same limit.

    reserve = min(K, sleepers) * s            s, K, and how sleepers are counted: see `allocators.standing`
    budget  = cap - used outside - reserve
    limit   = budget / awake torrents         to the byte; the first torrents by info-hash get the odd bytes

A torrent with an upper bound of its own below that share takes the bound and the others share the difference (max-min
fairness). A torrent that is still downloading does not go below its floor while the cap allows, awake or not. Demand
plays no part: a torrent that cannot use its share leaves it unused.

States: none. Two equal requests get equal answers.
"""

from typing import Any

import numpy as np

from allocators.base import MIN_LIMIT, Allocation, Options, Request
from allocators.link import caps_within_link
from allocators.standing import keep_near, reserve_for, standing_limit
from allocators.waterfill import waterfill


class Equal:
    """The equal split. Exact, stateless, easy to predict."""

    def __init__(self, options: Options) -> None:
        del options  # an equal split has nothing to choose

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, None]:  # noqa: ANN401 - opaque by design
        """Give every torrent of `request` a limit; `state` is not used."""
        del state
        if not len(request.infohash):
            empty = np.zeros(0, np.int64)
            return Allocation(empty, empty, empty), None
        busy = request.total(request.awake).astype(bool)
        cap, resting_cap = caps_within_link(request.base_cap, request.priority, busy, request.link)

        held_download = ~request.awake & (request.floor > 0)
        sharing = request.awake | held_download
        sleepers = request.total(~sharing)
        standing = standing_limit(resting_cap, request.wakeups)
        reserve = reserve_for(sleepers, standing, request.wakeups)
        budget = cap - request.outside - reserve

        lo = np.where(sharing, np.clip(request.floor, MIN_LIMIT, request.ceiling), 0)
        hi = np.where(sharing, np.where(held_download, lo, request.ceiling), 0)
        sharers = request.total(sharing)
        # Every torrent needs 1 B/s, because 0 is unlimited. That byte is inside the sum, not added after it.
        smallest = np.where(sharing, MIN_LIMIT, 0)
        extra = waterfill(
            np.maximum(budget - sharers, 0), request.start, np.ones_like(lo), lo - smallest, hi - smallest
        )
        limit = np.where(
            sharing,
            smallest + extra,
            np.minimum(keep_near(request.current, request.spread(standing)), request.ceiling),
        )

        conflicts = {
            request.tracker[g]: _why(int(request.outside[g]), int(cap[g]), int(request.count[g]))
            for g in np.flatnonzero(budget < sharers)
        }
        return Allocation(limit, cap, standing, conflicts), None


def _why(outside: int, cap: int, torrents: int) -> str:
    if outside >= cap:
        return f"torrents that qguard may not change use {outside} B/s, the cap is {cap} B/s"
    return f"a cap of {cap} B/s is too small for {torrents} torrents: the awake ones hold 1 B/s, the smallest limit"

"""`weighted`: torrents with more leechers, and with more upload, get more of their tracker's cap.

    limit = clip(λ * score, floor, most)      score: see `allocators.scoring`; λ so that the limits add up to the budget

`floor` is `min_torrent_upload_speed`, `most` is `max_torrent_share` of the cap. Floors yield to the cap. A torrent that
does not press on its limit gets no more than it may want (`allocators.claims`) while others want more; what is left
goes round again by score up to `most`, and what even then is left, as with one torrent alone, without regard to it.

The shares are brought onto a grid, so that many torrents share few different limits: see `allocators.grid`.

States: what each torrent was given, wanted and scored. Limits within a tenth of the share stay (`allocators.settle`),
so that jitter of rates rewrites nothing; at most 4 % of a cap goes unused by that.
"""

from typing import Any

import numpy as np

from allocators.base import Allocation, Float64, Int64, Options, Request
from allocators.budget import Budget, answer, make_budget, nothing, share
from allocators.claims import claims
from allocators.grid import on_grid
from allocators.link import caps_within_link
from allocators.memory import Memory, recall
from allocators.scoring import scores, weights
from allocators.settle import near, settle_fully


class Weighted:
    """The split by score."""

    settles = True
    """Limits that are near their share are kept."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, Memory | None]:  # noqa: ANN401 - opaque
        """Give every torrent of `request` a limit; `state` is what the previous call returned."""
        if not len(request.infohash):
            return nothing(), None
        before = recall(request, state)
        cap, resting_cap = caps_within_link(request)
        budget = make_budget(request, cap, resting_cap)
        claim = claims(request, before.claim)
        limit, after = split_by_score(request, budget, before, claim, self._options)
        return answer(request, budget, limit), after


def split_by_score(
    request: Request, budget: Budget, before: Memory, claim: Float64, options: Options
) -> tuple[Int64, Memory]:
    """The limits within each tracker, and what is to be remembered of them.

    Args:
        request: the torrents.
        budget: what there is to share.
        before: what is remembered, in the order of the request.
        claim: (N,) see `allocators.claims`, bytes/s.
        options: floor, largest share, and what scores are made of.
    """
    score = scores(request, options, before.score)
    # Only awake torrents can get more: of all others both bounds are the same.
    lo = np.clip(options.min_torrent_upload_speed, budget.lo, budget.hi)
    most = request.spread(np.ceil(budget.cap * options.max_torrent_share).astype(np.int64))
    most = np.clip(most, lo, budget.hi)
    wanted = np.where(request.pressing, most, np.clip(np.ceil(claim).astype(np.int64), lo, most))
    weight = weights(request, score, options.max_managed_torrents)
    even = share(request, budget, weight, lo, [wanted, most, budget.hi], even=True)
    even = np.where(budget.sharing, even, 0)
    highest = np.where(request.spread(request.total(most) < budget.total), budget.hi, most)
    total = np.minimum(np.maximum(budget.total, budget.sharers), request.total(highest))
    coarse = on_grid(even, total, request.start, lo, highest)
    bounded = (before.limit >= np.minimum(lo, even)) & (before.limit <= budget.hi)
    # Near to the share itself: a torrent that is a step above now and a step below in the next cycle keeps its limit.
    stays = budget.sharing & (before.limit > 0) & bounded & near(even, before.limit)
    settled = settle_fully(coarse, before.limit, stays, request.start, budget.total)
    limit = np.where(budget.sharing, settled, budget.resting)
    return limit, Memory(request.infohash, limit, claim, score, before.reached)

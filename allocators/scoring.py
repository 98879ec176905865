"""How much a torrent weighs within its tracker.

    score = a * min(leechers / 20, 1) + (1 - a) * min(rate / 1 MiB/s, 1)          a = 0.6

Leechers, not seeds: only those that lack something can be uploaded to. All three numbers can be configured.
"""

from typing import Final

import numpy as np

from allocators.base import Float64, Int64, Options, Request

UNIT: Final = 2**16
"""Weight of the full score: 1/65536 can be told apart."""

STEADY: Final = 0.25
"""A score counts as before while it is within this part of it; rates jitter by less."""


def scores(request: Request, options: Options, before: Float64) -> Float64:
    """(N,) scores, 0 to 1.

    Args:
        request: the torrents.
        options: what the score is made of.
        before: (N,) the scores of the request before, 0 where there is none; kept where they are near.
    """
    a = options.leechers_weight
    leechers = np.minimum(request.leechers / options.full_score_leechers, 1)
    rate = np.minimum(request.rate / options.full_score_rate, 1)
    score = a * leechers + (1 - a) * rate
    return np.where(np.abs(score - before) <= STEADY * before, before, score)


def weights(request: Request, score: Float64, most: int) -> Int64:
    """(N,) weights for the kernel. Beyond the best `most` awake torrents, all of a tracker weigh the same.

    Those that press share one common limit then, to the byte, and with it a call or two to the client. Of equals the
    first by row counts as better.

    Args:
        request: the torrents.
        score: (N,) 0 to 1.
        most: how many torrents are weighed one by one.
    """
    weight = np.maximum(np.rint(score * UNIT).astype(np.int64), 1)
    awake = np.flatnonzero(request.awake)
    if len(awake) > most:
        # As small integers: sorting those takes a tenth of the time.
        place = (UNIT - weight).astype(np.uint16)
        last = np.sort(place[awake], kind="stable")[most - 1]
        common = request.awake & (place >= last)
        equal = np.flatnonzero(common & (place == last))
        common[equal[: most - (len(awake) - np.count_nonzero(common))]] = False
        count = np.maximum(request.total(common.astype(np.int64)), 1)
        mean = np.maximum(np.rint(request.total(weight * common) / count), 1).astype(np.int64)
        weight = np.where(common, request.spread(mean), weight)
    return weight

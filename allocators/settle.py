"""Keep limits that are near enough, so that few torrents are rewritten, without breaking the sum.

Leaving out each change that is small would break a cap: decreases would be left out and raises made. So what torrents
hold is kept where it is near, and where that adds up to too much, those furthest above their share give up first: the
fewest writes that bring the sum back.
"""

from typing import Final

import numpy as np

from allocators.base import Bool, Int64

BAND: Final = 0.1
"""A limit within a tenth of a torrent's share may stay."""

UNUSED: Final = 0.04
"""The part of a tracker's limits that may be left unused by keeping what is near."""


def near(share: Int64, held: Int64) -> Bool:
    """(N,) whether what a torrent holds is within `BAND` of its share."""
    close: Bool = np.abs(held - share) <= BAND * share
    return close


def settle(share: Int64, held: Int64, keep: Bool, start: Int64, total: Int64) -> Int64:
    """Let torrents keep what they hold, as far as the sum allows.

    Args:
        share: (N,) limits that fit, bytes/s.
        held: (N,) limits that the torrents have, bytes/s.
        keep: (N,) whether a torrent may keep what it has.
        start: (G,) first row of each tracker.
        total: (G,) what the limits may add up to, bytes/s.

    Returns:
        (N,) each either `share` or `held`, adding up to no more than `total`, or than `share` does. Asked again with
        this answer as `held`, it gives the same answer.
    """
    if not len(share):
        return share
    x = np.where(keep, held, share)
    over = np.add.reduceat(x, start) - np.maximum(total, np.add.reduceat(share, start))
    if (over <= 0).all():
        return x
    rows = np.flatnonzero(np.repeat(over > 0, np.diff(np.append(start, len(x)))) & (x > share))
    slack, tracker = x[rows] - share[rows], np.searchsorted(start, rows, side="right") - 1
    order = np.lexsort((-slack, tracker))
    rows, slack, tracker = rows[order], slack[order], tracker[order]
    given_up = np.cumsum(slack) - slack
    # Less what was given up before the tracker's first row.
    given_up -= given_up[np.searchsorted(tracker, tracker)]
    gives_up = rows[given_up < over[tracker]]
    x[gives_up] = share[gives_up]
    return x


def settle_fully(share: Int64, held: Int64, keep: Bool, start: Int64, total: Int64) -> Int64:
    """As `settle`, but a tracker that would leave more than `UNUSED` of its limits unused gets its shares exactly."""
    if not len(share):
        return share
    x = settle(share, held, keep, start, total)
    goes_unused = np.add.reduceat(x, start) < (1 - UNUSED) * np.add.reduceat(share, start)
    if not goes_unused.any():
        return x
    return np.where(np.repeat(goes_unused, np.diff(np.append(start, len(x)))), share, x)

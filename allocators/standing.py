"""Standing limits: what sleeping torrents hold, so that they cannot burst when they wake.

A torrent that has a finite limit when its first leecher comes does not overshoot, and one without takes the whole
line until the next cycle. So every sleeping torrent of a capped tracker holds a small limit s, and the cap pays for K
of them waking within one interval: K * s <= 5 % of the cap. s is a power of two and each torrent keeps what it holds
while that is within a factor of two: otherwise every change of a cap would rewrite thousands of sleepers.
"""

from typing import Final

import numpy as np

from allocators.base import MAX_LIMIT, MIN_LIMIT, STANDING_SHARE, Int64

SHARE: Final = STANDING_SHARE

DEFAULT_WAKEUPS: Final = 48
"""K before more wake-ups than that were seen in one interval: a Pareto on/off swarm of 3,000 stays below it."""


def standing_limit(cap: Int64, wakeups: Int64) -> Int64:
    """(G,) the standing limit s of each tracker: the largest power of two with K * s <= 5 % of the cap, at least 1.

    Args:
        cap: (G,) bytes/s.
        wakeups: (G,) K, at least 1.
    """
    room = np.minimum(np.maximum(cap * SHARE / wakeups, MIN_LIMIT), MAX_LIMIT)
    return np.exp2(np.floor(np.log2(room))).astype(np.int64)


def wakeups_of(most: Int64, sleepers: Int64, before: Int64) -> Int64:
    """(G,) K: as many as ever woke at once, or all sleepers where there are fewer, in powers of two.

    A small tracker's sleepers can hold more, then, and are seen to wake sooner: below 16 KiB/s libtorrent saves up for
    a block for seconds before it sends anything at all. K stays while it is enough and less than four times too large:
    whenever it changes, all sleepers are rewritten.

    Args:
        most: (G,) most wake-ups in one interval, at least `DEFAULT_WAKEUPS`.
        sleepers: (G,) sleeping torrents.
        before: (G,) K of the request before, 0 where there was none.
    """
    fitting = np.exp2(np.ceil(np.log2(np.maximum(sleepers, 1)))).astype(np.int64)
    stays = (before > 0) & (before >= sleepers) & (before < 4 * fitting)
    return np.minimum(most, np.where(stays, before, fitting))


def reserve_for(sleepers: Int64, standing: Int64, wakeups: Int64) -> Int64:
    """(G,) what the cap keeps free for K sleepers to wake at once: s for each, or for all where there are fewer.

    Their number is rounded up to a power of two: otherwise, on a tracker with few torrents, every torrent that is added
    or falls asleep would change the share of all that are awake by a few bytes, and rewrite them.

    Args:
        sleepers: (G,) sleeping torrents.
        standing: (G,) s, bytes/s.
        wakeups: (G,) K.
    """
    rounded = np.exp2(np.ceil(np.log2(np.maximum(sleepers, 1)))).astype(np.int64)
    return np.where(sleepers > 0, np.minimum(wakeups, rounded), 0) * standing


def keep_near(current: Int64, standing: Int64) -> Int64:
    """(N,) the standing limit, or what the torrent holds already when that is at most 2x below it."""
    held = np.minimum(current, standing)
    return np.where(held > standing >> 1, held, standing)

"""Limits on a coarse grid, so that one call to the client can carry many torrents.

    g_k = floor(1.05^k)           every whole number up to 23, then steps of about a twentieth: 399 values in all

A limit off the grid is a value of its own, and each value is a call. Shares are rounded down to the grid, which costs
less than a twentieth of any, and what is left over by that is handed out again step by step, to those first that lost
the largest part of their share. The last torrent of a tracker to be lifted gets what is left and stays between two
steps, so that nothing is lost: the sum stays what it was, to the byte.

Torrents with equal shares may end up one step apart, then. That is worth it for many torrents and not for a few, whose
limits somebody may want to follow by hand: trackers with up to `FEW` torrents between their bounds keep their exact
shares.
"""

from typing import Final

import numpy as np

from allocators.base import MAX_LIMIT, Float64, Int64

STEP: Final = 0.05
"""How much larger a value of the grid is than the one before it, about."""

FEW: Final = 8
"""So many torrents of a tracker may have a value each."""

_LOG_STEP: Final = float(np.log(1 + STEP))
_STEPS: Final = np.floor((1 + STEP) ** np.arange(np.ceil(np.log(MAX_LIMIT) / _LOG_STEP))).astype(np.int64)
_GRID: Final = np.concatenate([[0], _STEPS, [MAX_LIMIT, MAX_LIMIT]])
"""0, the values, some of the small ones more than once, and the largest again: above that there is none."""

LOSSES: Final = 2**8 - 1
"""So many sizes of a loss are told apart: small integers are sorted in a fiftieth of the time."""


def round_down(value: Int64) -> Int64:
    """(N,) the largest values of the grid that are not above `value`, bytes/s; 0 only for 0."""
    return _GRID[_place(value)]


def round_up(value: Int64) -> Int64:
    """(N,) the smallest values of the grid that are not below `value`, bytes/s; 1 for 0, `MAX_LIMIT` at most."""
    return _GRID[_place(np.maximum(value, 1) - 1) + 1]


def on_grid(share: Int64, start: Int64, lo: Int64, hi: Int64) -> Int64:
    """Bring shares onto the grid without changing what they add up to.

    Args:
        share: (N,) exact shares, bytes/s; 0 for torrents that do not share.
        start: (G,) first row of each tracker.
        lo: (N,) what a torrent is not squeezed below, bytes/s, unless its share is below that already.
        hi: (N,) what a torrent may hold at most, bytes/s. One that has so much keeps it: it is common to many.

    Returns:
        (N,) bytes/s, less than one step from `share` and within the same bounds; the same sum for each tracker. All
        but one torrent of a tracker are on the grid or at a bound.
    """
    if not len(share):
        return share
    free = share < hi
    size = np.add.reduceat(free.astype(np.int64), start)
    many = size > FEW
    rows = np.flatnonzero(free & np.repeat(many, np.diff(np.append(start, len(share)))))
    x = share.copy()
    if not len(rows):
        return x
    size, share, lo = size[many], share[rows], lo[rows]
    place = _place(share)
    down = np.maximum(_GRID[place], np.where(lo <= share, lo, 0))
    step = np.minimum(_GRID[place + 1], hi[rows]) - down
    loss = share - down
    order = _largest_first(loss / np.maximum(share, 1), size)
    # Each in its turn gets what the torrents of its tracker before it left over.
    step = step[order]
    first, taken = np.cumsum(size) - size, np.cumsum(step) - step
    left = np.repeat(np.add.reduceat(loss, first) + taken[first], size) - taken
    down[order] += np.clip(left, 0, step)
    x[rows] = down
    return x


def _place(value: Int64) -> Int64:
    """Where in `_GRID` the largest value not above each one is: floor(1.05^k) <= x means that 1.05^k < x + 1."""
    place: Int64 = np.ceil(np.log(np.minimum(value, MAX_LIMIT) + 1.0) * (1 / _LOG_STEP)).astype(np.int64)
    return place + (value >= MAX_LIMIT)


def _largest_first(part: Float64, size: Int64) -> Int64:
    """The order by tracker, then from the largest part that was lost; of equals the first row first."""
    order = np.argsort(~np.ceil(part * (LOSSES / STEP)).astype(np.uint8), kind="stable")
    tracker = np.repeat(np.arange(len(size), dtype=np.min_scalar_type(len(size))), size)
    return order[np.argsort(tracker[order], kind="stable")]

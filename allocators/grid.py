"""Limits on a coarse grid, so that one call to the client can carry many torrents.

    g_k = floor(1.05^k)           every whole number up to 23, then steps of about a twentieth: 399 values in all

A limit off the grid is a value of its own, and each value is a call. Shares are rounded down to the grid, which costs
less than a twentieth of any. What is left over by that lifts all torrents of a tracker that came down to the same value
by a step, those values first whose torrents lost the largest part of their shares. The torrents of the last value that
can be lifted stay between two steps, at a level that uses up what there is. So nothing is lost, the sum stays what it
was to the byte, and torrents with equal shares stay equal to the byte.

That is worth it for many torrents and not for a few, whose limits somebody may want to follow by hand: trackers with up
to `FEW` torrents between their bounds keep their exact shares.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from allocators.base import MAX_LIMIT, Int64
from allocators.waterfill import waterfill

STEP: Final = 0.05
"""How much larger a value of the grid is than the one before it, about."""

FEW: Final = 8
"""So many torrents of a tracker may have a value each."""

_LOG_STEP: Final = float(np.log(1 + STEP))
_STEPS: Final = np.floor((1 + STEP) ** np.arange(np.ceil(np.log(MAX_LIMIT) / _LOG_STEP))).astype(np.int64)
_GRID: Final = np.concatenate([[0], _STEPS, [MAX_LIMIT, MAX_LIMIT]])
"""0, the values, some of the small ones more than once, and the largest again: above that there is none."""


def round_down(value: Int64) -> Int64:
    """(N,) the largest values of the grid that are not above `value`, bytes/s; 0 only for 0."""
    return _GRID[_place(value)]


def round_up(value: Int64) -> Int64:
    """(N,) the smallest values of the grid that are not below `value`, bytes/s; 1 for 0, `MAX_LIMIT` at most."""
    return _GRID[_place(np.maximum(value, 1) - 1) + 1]


def on_grid(share: Int64, total: Int64, start: Int64, lo: Int64, hi: Int64) -> Int64:
    """Bring shares onto the grid without changing what they add up to.

    Args:
        share: (N,) shares rounded down to whole bytes, bytes/s; 0 for torrents that do not share.
        total: (G,) what they add up to before they are rounded, bytes/s.
        start: (G,) first row of each tracker.
        lo: (N,) what a torrent is not squeezed below, bytes/s, unless its share is below that already.
        hi: (N,) what a torrent may hold at most, bytes/s. One that has so much keeps it: it is common to many.

    Returns:
        (N,) bytes/s, less than one step from `share` and within the same bounds, adding up to `total` for each tracker
        as far as that goes together. All torrents of a tracker are on the grid or at a bound, but for those of one
        value that stay between two steps.
    """
    if not len(share):
        return share
    count = np.diff(np.append(start, len(share)))
    free = share < hi
    number = np.add.reduceat(free.astype(np.int64), start)
    number *= number > FEW
    many = free & np.repeat(number > 0, count)
    rows = np.flatnonzero(many)
    exact, lowest = share[rows], lo[rows]
    value = _place(exact)
    base = _GRID[value]
    low = np.maximum(lowest - base, 0) * (lowest <= exact)
    room = np.minimum(_GRID[value + 1], hi[rows]) - base - low
    x, least, most = share.copy(), np.zeros_like(share), np.zeros_like(share)
    x[rows] = base + low
    left = total - np.add.reduceat(x, start)
    steps = _steps(np.repeat(np.arange(len(start)), number), value, exact - base - low, exact, room, left)
    x[rows] += room * (steps == 2)
    # Those of the last value come to one level, between two steps.
    part = np.flatnonzero(steps == 1)
    between = rows[part]
    x[between], least[between], most[between] = base[part], low[part], low[part] + room[part]
    # Of a few each may get a byte that is left over, those at a floor last: they have more than their due already.
    few = np.flatnonzero(free ^ many)
    least[few] = share[few] == lo[few]
    most[few] = least[few] + 1
    x[few] -= least[few]
    left = np.maximum(total - np.add.reduceat(x, start), np.add.reduceat(least, start))
    return x + waterfill(left, start, np.ones_like(x), least, most)


def _steps(tracker: Int64, value: Int64, loss: Int64, share: Int64, room: Int64, left: Int64) -> NDArray[np.int8]:
    """(M,) 2 for torrents that are lifted by a whole step, 1 for those that share what is left after that, else 0.

    Args:
        tracker: (M,) of each torrent, in order.
        value: (M,) where in `_GRID` it came down to.
        loss: (M,) how much it lost by that, bytes/s.
        share: (M,) what it lost that of, bytes/s.
        room: (M,) its step, bytes/s.
        left: (G,) what each tracker has to hand out, bytes/s.
    """
    cell = tracker * len(_GRID) + value
    # Floats add up whole numbers exactly up to 2^53.
    need, lost, shared = (np.bincount(cell, column, len(left) * len(_GRID)) for column in (room, loss, share))
    cells = np.flatnonzero(need > 0)
    owner = cells // len(_GRID)
    # A part is less than 1, so that trackers stay in order. Of equals the smaller value comes first.
    cells = cells[np.argsort(owner - lost[cells] / np.maximum(shared[cells], 1), kind="stable")]
    # All cells in one row: a tracker's begin where those before it end, and are paid for as far as its money goes.
    each = need.reshape(len(left), -1).sum(axis=1)
    paid = (np.cumsum(each) - each + left)[owner]
    until = np.cumsum(need[cells])
    steps = np.zeros(len(need), np.int8)
    steps[cells] = np.add(until <= paid, until - need[cells] < paid, dtype=np.int8)
    return steps.take(cell)


def _place(value: Int64) -> Int64:
    """Where in `_GRID` the largest value not above each one is: floor(1.05^k) <= x means that 1.05^k < x + 1."""
    place: Int64 = np.ceil(np.log(np.minimum(value, MAX_LIMIT) + 1.0) * (1 / _LOG_STEP)).astype(np.int64)
    return place + (value >= MAX_LIMIT)

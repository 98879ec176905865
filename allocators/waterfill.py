"""Exact integer weighted max-min: the kernel that all strategies share.

For each tracker find the water level λ at which `clip(λ * weight, lo, hi)` adds up to the cap, then round to whole
bytes so that nothing is lost. The level is found for all trackers at once by Newton's method on the piecewise-linear
sum, kept inside a bracket (the continuous quadratic knapsack; Kiwiel 2008 surveys the method). The last bytes go one
each to the first torrents with room, in row order, so that equal inputs give equal outputs.
"""

from typing import Final

import numpy as np

from allocators.base import Float64, Int64

MAX_WEIGHT: Final = 2**20
_MAX_PASSES: Final = 200  # a bracket of 2^62 halves to nothing in fewer; Newton needs about 5 in practice


def waterfill(cap: Int64, start: Int64, weight: Int64, lo: Int64, hi: Int64, *, even: bool = False) -> Int64:
    """Split each tracker's cap over its rows by weighted max-min with bounds.

    Args:
        cap: (G,) bytes/s, 0 to 2^42.
        start: (G,) first row of each tracker, strictly increasing from 0; the last one ends with the columns.
        weight: (N,) 1 to 2^20.
        lo: (N,) lower bounds, at least 0 and at most `hi`.
        hi: (N,) upper bounds.
        even: leave the last bytes over, fewer than there are rows, so that equal rows get the same to the byte.

    Returns:
        (N,) int64 `x` with sum(x) == min(cap, sum(hi)) for each tracker, to the byte, and lo <= x <= hi wherever the
        lower bounds fit into the cap. Where they do not, the cap wins: the lower bounds shrink by weighted max-min.

    Raises:
        ValueError: shapes, types or ranges are not as described.
    """
    _check(cap, start, weight, lo, hi)
    if not len(weight):
        return np.zeros(0, np.int64)
    count = np.diff(np.append(start, len(weight)))
    too_much = np.add.reduceat(lo, start) > cap
    if too_much.any():
        shrinks = np.repeat(too_much, count)
        lo, hi = np.where(shrinks, 0, lo), np.where(shrinks, lo, hi)
    target = np.minimum(cap, np.add.reduceat(hi, start))

    moves = lo < hi
    moving: Int64 = np.add.reduceat(moves.astype(np.int64), start)
    if moving.sum() > len(lo) // 2:
        return _fill(target, start, count, weight, lo, hi, even=even)
    # Most torrents sleep or want little: those have nothing to be decided, and the others are found faster alone.
    x = lo.copy()
    if moving.any():
        rows, some = np.flatnonzero(moves), moving > 0
        left = (target - np.add.reduceat(lo * ~moves, start))[some]
        size = moving[some]
        x[rows] = _fill(left, np.cumsum(size) - size, size, weight[rows], lo[rows], hi[rows], even=even)
    return x


def _fill(target: Int64, start: Int64, count: Int64, weight: Int64, lo: Int64, hi: Int64, *, even: bool) -> Int64:
    wish = _wishes(target, start, count, weight, lo, hi)
    return _whole_bytes(target, start, count, weight, lo, hi, wish, even=even)


def _check(cap: Int64, start: Int64, weight: Int64, lo: Int64, hi: Int64) -> None:
    for name, column in (("cap", cap), ("start", start), ("weight", weight), ("lo", lo), ("hi", hi)):
        if column.dtype != np.int64 or column.ndim != 1:
            raise ValueError(f"{name} must be a column of int64, not {column.dtype} of shape {column.shape}")
    if cap.shape != start.shape or not weight.shape == lo.shape == hi.shape:
        raise ValueError("cap and start, and weight, lo and hi, must be of the same length")
    if not len(weight):
        if len(start):
            raise ValueError("every tracker needs at least one row")
        return
    if not len(start) or start[0] != 0 or start[-1] >= len(weight) or (np.diff(start) <= 0).any():
        raise ValueError("start must increase strictly from 0 and stay below the number of rows")
    if weight.min() < 1 or weight.max() > MAX_WEIGHT:
        raise ValueError(f"weights must be from 1 to {MAX_WEIGHT}")
    if lo.min() < 0 or (lo > hi).any() or cap.min() < 0:
        raise ValueError("bounds must satisfy 0 <= lo <= hi, caps must not be negative")


def _wishes(target: Int64, start: Int64, count: Int64, weight: Int64, lo: Int64, hi: Int64) -> Float64:
    """(N,) λ * weight, at the level λ at which clip(λ * weight, lo, hi) adds up to `target`, to a quarter of a byte."""
    # Once, or every pass would turn integers into floats anew.
    w, least, most = weight.astype(np.float64), lo.astype(np.float64), hi.astype(np.float64)
    alike = weight.max() == 1  # as for most callers: a pass takes a fifth less without weights
    tolerance = np.maximum(0.25, 4e-16 * target)
    below: Float64 = np.zeros(len(target))
    above: Float64 = np.maximum.reduceat(most / w, start)  # here every row has its upper bound: never too little
    # Where all fits, Newton would come as near to that end as it likes and never be inside.
    level = np.where(target < np.add.reduceat(most, start), target / np.add.reduceat(w, start), above)
    level = np.minimum(level, above)
    for _ in range(_MAX_PASSES):
        wish = np.repeat(level, count)
        if not alike:
            wish *= w
        filled = np.minimum(np.maximum(wish, least), most)
        gap = target - np.add.reduceat(filled, start)
        off = np.abs(gap) > tolerance
        if not off.any():
            break
        below, above = np.where(gap > 0, level, below), np.where(gap < 0, level, above)
        free = filled == wish
        slope = np.add.reduceat(free if alike else w * free, start, dtype=np.float64)
        newton = level + gap / np.maximum(slope, 1)
        inside = (slope > 0) & (newton > below) & (newton < above)
        level = np.where(off, np.where(inside, newton, (below + above) / 2), level)
    return np.repeat(level, count) * w


def _whole_bytes(
    target: Int64, start: Int64, count: Int64, weight: Int64, lo: Int64, hi: Int64, wish: Float64, *, even: bool
) -> Int64:
    """(N,) integers that add up to `target`: bounded rows take their bound, the free ones share what is left.

    Rounded down, they add up to no more than that; with `even` that is all.
    """
    full = wish >= hi
    free = (wish > lo) & ~full
    x = np.where(full, hi, lo)
    left = np.maximum(target - np.add.reduceat(x * ~free, start), 0)
    rows, size = np.flatnonzero(free), np.add.reduceat(free.astype(np.int64), start)
    share = weight[rows] * np.repeat(left, size) // np.repeat(np.add.reduceat(weight * free, start), size)
    x[rows] = np.minimum(np.maximum(share, lo[rows]), hi[rows])
    while True:
        rest = target - np.add.reduceat(x, start)
        if even:
            rest = np.minimum(rest, 0)
        if not rest.any():
            return x
        has_room = np.where(np.repeat(rest > 0, count), x < hi, x > lo)
        # Rows at the water level first: one at its lower bound is above its share already.
        free_has_room = np.logical_or.reduceat(has_room & free, start)
        has_room &= free | np.repeat(~free_has_room, count)
        rank = np.cumsum(has_room)
        last = rank[start] - has_room[start] + np.abs(rest)
        x += np.repeat(np.sign(rest), count) * (has_room & (rank <= np.repeat(last, count)))

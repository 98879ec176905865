"""Weighted max-min by exact arithmetic: slow, obvious, and independent of the kernel."""

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction


def weighted_max_min(cap: int, weight: Sequence[int], lo: Sequence[int], hi: Sequence[int]) -> list[Fraction]:
    """The exact shares of one tracker: walk the breakpoints of the piecewise-linear sum."""
    if sum(lo) > cap:
        lo, hi = [0] * len(lo), lo
    target = min(cap, sum(hi))

    def shares(level: Fraction) -> list[Fraction]:
        return [min(max(level * w, Fraction(a)), Fraction(b)) for w, a, b in zip(weight, lo, hi, strict=True)]

    bounds = [*zip(lo, weight, strict=True), *zip(hi, weight, strict=True)]
    breakpoints = sorted({Fraction(0), *(Fraction(bound, w) for bound, w in bounds)})
    at = bisect_left(breakpoints, target, key=lambda level: sum(shares(level)))
    if at == 0:
        return shares(breakpoints[0])
    left, right = breakpoints[at - 1], breakpoints[at]
    below, above = sum(shares(left)), sum(shares(right))
    level = right if above == below else left + (target - below) * (right - left) / (above - below)
    return shares(level)


def by_sorting(cap: int, weight: Sequence[int], lo: Sequence[int], hi: Sequence[int]) -> list[int]:
    """The whole-byte shares of one tracker without any search: fix rows in the order in which the level passes them.

    Rows that would be at their upper bound are fixed from the smallest hi / weight up, those at their lower bound from
    the largest lo / weight down: whichever violation is larger is fixed for good (Bitran and Hax 1981). The rest shares
    what is left in proportion to the weights, and the last bytes go to the first rows with room.
    """
    if sum(lo) > cap:
        lo, hi = [0] * len(lo), lo
    left = min(cap, sum(hi))
    fixed: dict[int, int] = {}
    free = list(range(len(weight)))
    while free:
        total = sum(weight[i] for i in free)
        over = [i for i in free if left * weight[i] >= hi[i] * total]
        under = [i for i in free if left * weight[i] <= lo[i] * total]
        above = sum(Fraction(left * weight[i], total) - hi[i] for i in over)
        below = sum(lo[i] - Fraction(left * weight[i], total) for i in under)
        if not over and not under:
            break
        bound, rows = (hi, over) if above >= below and over else (lo, under)
        for i in rows:
            fixed[i] = bound[i]
            left -= bound[i]
        free = [i for i in free if i not in fixed]
    total = max(sum(weight[i] for i in free), 1)
    shares = {i: left * weight[i] // total for i in free}
    for i in free[: left - sum(shares.values())]:
        shares[i] += 1
    return [fixed.get(i, shares.get(i, 0)) for i in range(len(weight))]

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

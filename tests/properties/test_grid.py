"""The grid of limits against plain arithmetic."""

from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise
from math import ceil

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allocators.base import MAX_LIMIT
from allocators.grid import FEW, STEP, on_grid, round_down, round_up

Row = tuple[int, int, int]
"""Share, lower and upper bound."""

LOSSES = 255
"""So many sizes of a loss are told apart."""

GRID = sorted({int(Fraction(21, 20) ** k) for k in range(441)} | {0, MAX_LIMIT})


def below(value: int) -> int:
    return GRID[bisect_right(GRID, value) - 1]


def above(value: int) -> int:
    return GRID[bisect_right(GRID, value)]


def rounded(row: Row) -> int:
    """Down to the grid, but not below a bound that holds."""
    share, lo, hi = row
    if share == hi:
        return share
    return max(below(share), lo) if lo <= share else below(share)


rates = st.builds(lambda bits, value: min(value % 2**bits, MAX_LIMIT), st.integers(0, 31), st.integers(0, 2**31))


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Any bounds; most shares lie between them, some below the lower one, as where a cap is too small for floors."""
    lo, share, hi = sorted(draw(st.tuples(rates, rates, rates)))
    kind = draw(st.integers(0, 7))
    if kind < 4:
        lo, hi = min(lo, 1), MAX_LIMIT
    if kind == 7:
        lo = min(share + draw(rates), hi)
    return share, lo, hi


problems = st.lists(
    st.one_of(st.lists(rows(), min_size=1, max_size=24), st.builds(lambda r, n: [r] * n, rows(), st.integers(1, 24))),
    max_size=3,
)


def brought(problem: list[list[Row]]) -> list[list[int]]:
    share, lo, hi = np.array([row for part in problem for row in part], np.int64).reshape(-1, 3).T.copy()
    sizes = [len(part) for part in problem]
    start = (np.cumsum(sizes) - sizes).astype(np.int64)
    x = on_grid(share, start, lo, hi)
    assert x.dtype == np.int64
    if (lo <= share).all():
        assert on_grid(x, start, lo, hi).tolist() == x.tolist()
    return [part.tolist() for part in np.split(x, start[1:])] if sizes else []


def by_loops(part: list[Row]) -> list[int]:
    """One tracker, torrent by torrent."""
    x = [share for share, _, _ in part]
    free = [i for i, (share, _, hi) in enumerate(part) if share < hi]
    if len(free) <= FEW:
        return x
    lost = {}
    for i in free:
        x[i] = rounded(part[i])
        lost[i] = part[i][0] - x[i]
    left = sum(lost.values())
    classes = {i: ceil(lost[i] / max(part[i][0], 1) * (LOSSES / STEP)) for i in free}
    for i in sorted(free, key=lambda i: (-classes[i], i)):
        lift = min(left, min(above(part[i][0]), part[i][2]) - x[i]) if left else 0
        x[i], left = x[i] + lift, left - lift
    assert left == 0
    return x


@given(problems)
def test_it_is_what_plain_loops_give(problem: list[list[Row]]) -> None:
    assert brought(problem) == [by_loops(part) for part in problem]


@given(problems)
def test_sums_stay_and_bounds_hold_and_nobody_moves_by_a_step(problem: list[list[Row]]) -> None:
    for part, x in zip(problem, brought(problem), strict=True):
        assert sum(x) == sum(share for share, _, _ in part)
        free = [share < hi for share, _, hi in part]
        between = 0
        for (share, lo, hi), v in zip(part, x, strict=True):
            assert rounded((share, lo, hi)) <= v <= hi
            assert v == share or v <= above(share)
            assert (share - v) * 20 < max(share, 1)  # the loss: less than `STEP` of the share
            assert v == share or share < hi
            between += v not in {below(v), lo, hi} and share < hi
        assert sum(free) > FEW or x == [share for share, _, _ in part]
        assert sum(free) <= FEW or between <= 1


@given(problems)
def test_who_lost_the_larger_part_is_lifted_first(problem: list[list[Row]]) -> None:
    for part, x in zip(problem, brought(problem), strict=True):
        if sum(share < hi for share, _, hi in part) <= FEW:
            continue
        lost = [1 - rounded(row) / max(row[0], 1) for row in part]
        full = [lost[i] for i, (share, _, hi) in enumerate(part) if share < hi and x[i] == min(above(share), hi)]
        none = [lost[i] for i, (share, _, hi) in enumerate(part) if share < hi and x[i] < share]
        # Sizes of a loss are told apart to the 255th part of a step.
        assert min(full, default=1.0) >= max(none, default=0.0) - STEP / LOSSES - 1e-12


@given(share=rates, odd=st.integers(0, 300), count=st.integers(FEW + 1, 300))
def test_equal_shares_stay_equal_to_a_step(share: int, odd: int, count: int) -> None:
    """And Jain's index of fairness is no lower than two values can make it, however many have the one or the other."""
    equal = np.array([max(min(share + (i < odd), MAX_LIMIT - 1), 1) for i in range(count)], np.int64)
    x = on_grid(equal, np.zeros(1, np.int64), np.ones_like(equal), np.full_like(equal, MAX_LIMIT))
    assert x.max() <= above(int(x.min()))
    exact = [Fraction(v) for v in x.tolist()]
    jain = sum(exact) ** 2 / (count * sum(v * v for v in exact))
    one, two = int(x.min()), above(int(x.min()))
    assert jain >= Fraction(4 * one * two, (one + two) ** 2)  # Kantorovich
    assert share < 2000 or jain >= 0.9994


@given(st.lists(rates, min_size=1, max_size=50))
def test_values_are_rounded_to_their_neighbours_on_the_grid(values: list[int]) -> None:
    column = np.array(values, np.int64)
    assert round_down(column).tolist() == [below(v) for v in values]
    assert round_up(column).tolist() == [above(max(v, 1) - 1) for v in values]


def test_around_each_value_of_the_grid_nothing_is_rounded_the_wrong_way() -> None:
    for value in GRID[1:]:
        around = np.clip(np.arange(value - 2, value + 3), 0, MAX_LIMIT)
        assert round_down(around).tolist() == [below(v) for v in around.tolist()]
        assert round_up(around).tolist() == [above(max(v, 1) - 1) for v in around.tolist()]


def test_the_grid_has_a_few_hundred_values_a_step_apart() -> None:
    values = np.unique(round_down(np.array([*GRID, *range(2000)], np.int64)))
    assert values.tolist() == GRID
    assert len(GRID) == 400
    assert GRID[:24] == list(range(24))
    assert all(b <= a * (1 + STEP) + 1 for a, b in pairwise(GRID[1:]))

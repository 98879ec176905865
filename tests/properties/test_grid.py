"""The grid of limits against plain arithmetic."""

from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise, permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from allocators.base import MAX_LIMIT
from allocators.grid import FEW, STEP, on_grid, round_down, round_up

Row = tuple[int, int, int]
"""Share, lower and upper bound."""

Tracker = tuple[list[Row], int]
"""Its torrents, and how much more than their shares they are to add up to."""

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


def free(part: list[Row]) -> list[int]:
    """Those that are not at their upper bound."""
    return [i for i, (share, _, hi) in enumerate(part) if share < hi]


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


parts = st.one_of(
    st.lists(rows(), min_size=1, max_size=24),
    st.builds(lambda row, n: [row] * n, rows(), st.integers(1, 24)),
    st.builds(  # near to each other: several to each of a few values
        lambda share, lo, more: [(share + share * part // 100, lo, MAX_LIMIT) for part in more],
        rates.map(lambda rate: rate // 2),
        st.sampled_from([0, 1, 2**20]),
        st.lists(st.integers(0, 25), min_size=FEW + 1, max_size=24),
    ),
)


@st.composite
def trackers(draw: st.DrawFn, *, any_total: bool = False) -> Tracker:
    """With what rounding shares down to whole bytes can leave over, less than a byte for each that has room."""
    part = draw(parts)
    if any_total and draw(st.booleans()):
        return part, draw(st.integers(-sum(share for share, _, _ in part), 2**36))
    return part, draw(st.integers(0, len(free(part))))


problems = st.lists(trackers(), max_size=3)


def brought(problem: list[Tracker]) -> list[list[int]]:
    share, lo, hi = np.array([row for part, _ in problem for row in part], np.int64).reshape(-1, 3).T.copy()
    sizes = [len(part) for part, _ in problem]
    start = (np.cumsum(sizes) - sizes).astype(np.int64)
    total = np.array([sum(share for share, _, _ in part) + more for part, more in problem], np.int64)
    x = on_grid(share, total, start, lo, hi)
    assert x.dtype == np.int64
    return [part.tolist() for part in np.split(x, start[1:])] if sizes else []


def by_loops(part: list[Row], more: int) -> list[int]:
    """One tracker, value by value."""
    x, top = [share for share, _, _ in part], [min(share + 1, hi) for share, _, hi in part]
    values: dict[int, list[int]] = {}
    many = len(free(part)) > FEW
    for i in free(part):
        if many:
            x[i], top[i] = rounded(part[i]), min(above(part[i][0]), part[i][2])
        values.setdefault(below(part[i][0]) if many else 0, []).append(i)
    lost = {value: sum(part[i][0] - x[i] for i in rows) for value, rows in values.items()}
    shared = {value: sum(part[i][0] for i in rows) for value, rows in values.items()}
    left = max(sum(share for share, _, _ in part) + more - sum(x), 0)
    for value in sorted(values, key=lambda value: (-lost[value] / max(shared[value], 1), value)):
        bottom = {i: value if many else x[i] - (x[i] == part[i][1]) for i in values[value]}
        while left and (room := [i for i in values[value] if x[i] < top[i]]):
            # Those that have been given the least, until they are as high as the next ones, or can go no higher.
            height = min(x[i] - bottom[i] for i in room)
            lowest = [i for i in room if x[i] - bottom[i] == height]
            ends = [x[i] - bottom[i] for i in room if i not in lowest] + [top[i] - bottom[i] for i in lowest]
            each = min(left // len(lowest), min(ends) - height)
            for i in lowest if each else lowest[:left]:
                x[i] += max(each, 1)
                left -= max(each, 1)
    return x


@given(st.lists(trackers(any_total=True), max_size=3))
def test_it_is_what_plain_loops_give(problem: list[Tracker]) -> None:
    assert brought(problem) == [by_loops(*tracker) for tracker in problem]


def sums_are_right_to_the_byte(part: list[Row], more: int, x: list[int]) -> None:
    assert sum(x) == sum(share for share, _, _ in part) + more


def bounds_hold_and_nobody_moves_by_a_step(part: list[Row], x: list[int]) -> None:
    between = set()
    for (share, lo, hi), v in zip(part, x, strict=True):
        assert rounded((share, lo, hi)) <= v <= hi
        assert v == share or v <= above(share)
        assert (share - v) * 20 < max(share, 1)  # the loss: less than `STEP` of the share
        assert v == share or share < hi
        if v not in {below(v), lo, hi} and share < hi:
            between.add(below(share))
    assert len(free(part)) <= FEW or len(between) <= 1


def who_has_the_larger_share_gets_no_less(part: list[Row], x: list[int]) -> None:
    """But for a byte, and for bounds, which are kept where others are rounded."""
    for i, j in permutations(free(part), 2):
        (one, lo_one, hi_one), (two, lo_two, hi_two) = part[i], part[j]
        if one <= two and lo_one <= lo_two <= two and hi_one <= hi_two:
            assert x[i] <= x[j] + 1


def a_few_keep_their_exact_shares(part: list[Row], more: int, x: list[int]) -> None:
    """The bytes that were left over go one each to the first that have room, to those at a floor after the others."""
    if len(free(part)) <= FEW:
        raised = sorted(free(part), key=lambda i: part[i][0] == part[i][1])[:more]
        assert x == [share + (i in raised) for i, (share, _, _) in enumerate(part)]


def what_lost_the_larger_part_is_lifted_first(part: list[Row], x: list[int]) -> None:
    """Value by value; one of them may be lifted by a part of its step."""
    if len(free(part)) <= FEW:
        return
    values: dict[int, list[int]] = {}
    for i in free(part):
        values.setdefault(below(part[i][0]), []).append(i)
    shared = {value: max(sum(part[i][0] for i in rows), 1) for value, rows in values.items()}
    lost = {v: Fraction(sum(part[i][0] - rounded(part[i]) for i in rows), shared[v]) for v, rows in values.items()}
    full = {v for v, rows in values.items() if all(x[i] == min(above(part[i][0]), part[i][2]) for i in rows)}
    none = {v for v, rows in values.items() if all(x[i] == rounded(part[i]) for i in rows)}
    last = values.keys() - full - none
    assert len(last) <= 1
    ranks = [[lost[value] for value in rank] for rank in (full, last, none) if rank]
    for larger, smaller in pairwise(ranks):
        assert min(larger) >= max(smaller) - Fraction(1, 2**45)  # it is floats that are compared


@given(problems)
def test_limits_are_where_they_should_be(problem: list[Tracker]) -> None:
    for (part, more), x in zip(problem, brought(problem), strict=True):
        sums_are_right_to_the_byte(part, more, x)
        bounds_hold_and_nobody_moves_by_a_step(part, x)
        who_has_the_larger_share_gets_no_less(part, x)
        a_few_keep_their_exact_shares(part, more, x)
        what_lost_the_larger_part_is_lifted_first(part, x)


@given(trackers(any_total=True))
def test_what_does_not_go_together_is_met_as_far_as_it_can_be(tracker: Tracker) -> None:
    part, more = tracker
    (x,) = brought([tracker])
    if len(free(part)) > FEW:
        least = [rounded(row) for row in part]
        most = [share if share == hi else min(above(share), hi) for share, _, hi in part]
    else:
        least, most = [share for share, _, _ in part], [min(share + 1, hi) for share, _, hi in part]
    total = sum(share for share, _, _ in part) + more
    assert sum(x) == min(max(total, sum(least)), sum(most))
    assert all(a <= v <= b for v, a, b in zip(x, least, most, strict=True))


@given(st.lists(trackers(), min_size=1, max_size=3), st.integers(2, 4))
def test_p06_equal_torrents_stay_equal_to_a_byte(problem: list[Tracker], copies: int) -> None:
    problem = [([row for row in part for _ in range(copies)], more * copies) for part, more in problem]
    for x in brought(problem):
        for i in range(0, len(x), copies):
            assert max(x[i : i + copies]) <= min(x[i : i + copies]) + 1


@given(share=st.integers(0, MAX_LIMIT - 1), odd=st.integers(0, 300), count=st.integers(1, 300))
def test_torrents_that_are_all_equal_get_their_exact_shares(share: int, odd: int, count: int) -> None:
    odd %= count
    ((*x,),) = brought([([(share, 0, MAX_LIMIT)] * count, odd)])
    assert x == [share + 1] * odd + [share] * (count - odd)


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

"""The kernel against exact arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocators.waterfill import MAX_WEIGHT, waterfill
from tests.properties.oracle import by_sorting, weighted_max_min

Row = tuple[int, int, int]
Problem = list[tuple[int, list[Row]]]

ROW = 14


@st.composite
def problems(draw: st.DrawFn, most_rows: int = 8) -> Problem:
    """Caps and their rows of weight, lower and upper bound; every order of magnitude, weights from 1 to 2^20."""
    problem = []
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(1, most_rows))
        raw = draw(st.binary(min_size=size * ROW + 7, max_size=size * ROW + 7))
        cap = int.from_bytes(raw[1:7], "little") % 2 ** (raw[0] % 43) + (raw[0] == 255) * 2**41
        rows = []
        for at in range(7, len(raw), ROW):
            one, two = (
                min(int.from_bytes(raw[i + 1 : i + 5], "little") % 2 ** (raw[i] % 32), 2**31 - 2)
                for i in (at + 4, at + 9)
            )
            weight = min(1 + int.from_bytes(raw[at + 1 : at + 4], "little") % 2 ** (raw[at] % 21), MAX_WEIGHT)
            rows.append((2 ** (raw[at] % 21) if raw[at] > 200 else weight, min(one, two), max(one, two)))
        problem.append((cap, rows))
    return problem


def fill(problem: Problem, *, even: bool = False) -> list[list[int]]:
    sizes = [len(r) for _, r in problem]
    columns = np.array([row for _, r in problem for row in r], np.int64).reshape(-1, 3).T.copy()
    start = np.cumsum([0, *sizes[:-1]], dtype=np.int64)[: len(sizes)]
    x = waterfill(np.array([cap for cap, _ in problem], np.int64), start, *columns, even=even)
    return [part.tolist() for part in np.split(x, np.cumsum(sizes)[:-1])] if sizes else []


def p01_the_sum_is_exact(cap: int, rows: list[Row], x: list[int]) -> None:
    _, lo, hi = zip(*rows, strict=True)
    assert sum(x) == min(cap, sum(hi if sum(lo) <= cap else lo))


def p02_bounds_hold_where_they_fit(cap: int, rows: list[Row], x: list[int]) -> None:
    _, lo, hi = zip(*rows, strict=True)
    if sum(lo) <= cap:
        assert all(a <= v <= b for v, a, b in zip(x, lo, hi, strict=True))


def p03_the_cap_wins_where_they_do_not(cap: int, rows: list[Row], x: list[int]) -> None:
    _, lo, _ = zip(*rows, strict=True)
    if sum(lo) > cap:
        assert sum(x) == cap
        assert all(0 <= v <= a for v, a in zip(x, lo, strict=True))


def p05_within_a_byte_of_exact_arithmetic(cap: int, rows: list[Row], x: list[int]) -> None:
    exact = weighted_max_min(cap, *zip(*rows, strict=True))
    assert sum(x) == sum(exact)
    assert all(abs(a - b) <= 1 for a, b in zip(x, exact, strict=True))


def p10_within_a_byte_of_sorting(cap: int, rows: list[Row], x: list[int]) -> None:
    other = by_sorting(cap, *zip(*rows, strict=True))
    assert sum(x) == sum(other)
    assert all(abs(a - b) <= 1 for a, b in zip(x, other, strict=True))


@given(problem=problems())
def test_p01_p02_p03_p05_p10_the_split_is_the_exact_one(problem: Problem) -> None:
    for (cap, rows), x in zip(problem, fill(problem), strict=True):
        p01_the_sum_is_exact(cap, rows, x)
        p02_bounds_hold_where_they_fit(cap, rows, x)
        p03_the_cap_wins_where_they_do_not(cap, rows, x)
        p05_within_a_byte_of_exact_arithmetic(cap, rows, x)
        p10_within_a_byte_of_sorting(cap, rows, x)


@given(problem=problems(), data=st.data())
def test_p06_equals_differ_by_a_byte_and_order_moves_no_more(problem: Problem, data: st.DataObject) -> None:
    twice = [(cap, [row for row in rows for _ in range(2)]) for cap, rows in problem]
    for x in fill(twice):
        assert all(abs(a - b) <= 1 for a, b in zip(x[::2], x[1::2], strict=True))
    orders = [data.draw(st.permutations(range(len(rows)))) for _, rows in problem]
    turned = [(cap, [rows[i] for i in order]) for (cap, rows), order in zip(problem, orders, strict=True)]
    for x, y, order in zip(fill(problem), fill(turned), orders, strict=True):
        assert all(abs(x[i] - v) <= 1 for i, v in zip(order, y, strict=True))


@given(problem=problems(), copies=st.integers(1, 4))
def test_p06_equals_get_the_very_same_where_the_last_bytes_are_left_over(problem: Problem, copies: int) -> None:
    """Of each less than a byte, and no more than there is to be shared."""
    problem = [(cap, [row for row in rows for _ in range(copies)]) for cap, rows in problem]
    for (cap, rows), x, full in zip(problem, fill(problem, even=True), fill(problem), strict=True):
        assert all(len(set(x[i : i + copies])) == 1 for i in range(0, len(x), copies))
        assert sum(full) - len(rows) < sum(x) <= sum(full)
        assert all(b - 1 <= a <= b for a, b in zip(x, full, strict=True))
        p02_bounds_hold_where_they_fit(cap, rows, x)


@given(problem=problems(), more=st.integers(0, 2**20))
def test_p07_a_larger_cap_takes_from_nobody(problem: Problem, more: int) -> None:
    raised = [(min(cap + more, 2**42), rows) for cap, rows in problem]
    for x, y in zip(fill(problem), fill(raised), strict=True):
        assert all(b >= a - 1 for a, b in zip(x, y, strict=True))


@given(problem=problems(), which=st.integers(0, 7))
def test_p08_another_torrent_raises_nobody(problem: Problem, which: int) -> None:
    problem = [(cap, rows) for cap, rows in problem if len(rows) > 1]
    without = [(cap, rows[: which % len(rows)] + rows[which % len(rows) + 1 :]) for cap, rows in problem]
    for (cap, rows), x, alone in zip(problem, fill(problem), fill(without), strict=True):
        if sum(lo for _, lo, _ in rows) > cap:
            continue  # lower bounds become upper ones: then it is another problem
        beside = x[: which % len(rows)] + x[which % len(rows) + 1 :]
        assert all(a <= b + 1 for a, b in zip(beside, alone, strict=True))


@given(problem=problems(), factor=st.integers(1, 16))
def test_p09_units_of_weights_and_of_bytes_do_not_matter(problem: Problem, factor: int) -> None:
    problem = [(cap // 16, [(max(w // 16, 1), lo // 16, hi // 16) for w, lo, hi in rows]) for cap, rows in problem]
    heavier = [(cap, [(w * factor, lo, hi) for w, lo, hi in rows]) for cap, rows in problem]
    larger = [(cap * factor, [(w, lo * factor, hi * factor) for w, lo, hi in rows]) for cap, rows in problem]
    for x, by_weight, by_bytes in zip(fill(problem), fill(heavier), fill(larger), strict=True):
        assert all(abs(a - b) <= 1 for a, b in zip(x, by_weight, strict=True))
        assert all(abs(a * factor - b) <= factor + 1 for a, b in zip(x, by_bytes, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.array([0], np.int64)}, "weights"),
        ({"weight": np.array([1.0])}, "int64"),
        ({"lo": np.array([5], np.int64), "hi": np.array([4], np.int64)}, "lo <= hi"),
        ({"cap": np.array([-1], np.int64)}, "negative"),
        ({"start": np.array([1], np.int64)}, "start"),
        ({"hi": np.array([1, 2], np.int64)}, "same length"),
        ({"hi": np.array([[1]], np.int64)}, "shape"),
    ],
)
def test_wrong_columns_are_refused_in_words(change, words: str) -> None:
    good = {name: np.array([1], np.int64) for name in ("cap", "weight", "lo", "hi")} | {
        "start": np.array([0], np.int64)
    }
    with pytest.raises(ValueError, match=words):
        waterfill(**(good | change))

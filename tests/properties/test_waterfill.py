"""The kernel against exact arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocators.waterfill import MAX_WEIGHT, waterfill
from tests.properties.oracle import weighted_max_min

weights = st.one_of(st.integers(1, 10), st.integers(0, 20).map(lambda e: 2**e), st.integers(1, MAX_WEIGHT))
bounds = st.one_of(st.integers(0, 20), st.integers(0, 2**31 - 2))
rows = st.tuples(weights, bounds, bounds).map(lambda r: (r[0], min(r[1], r[2]), max(r[1], r[2])))
caps = st.one_of(st.integers(0, 100), st.integers(0, 2**32), st.integers(0, 2**42))
trackers = st.lists(st.tuples(caps, st.lists(rows, min_size=1, max_size=8)), max_size=4)


def fill(problem: list[tuple[int, list[tuple[int, int, int]]]]) -> list[list[int]]:
    sizes = [len(r) for _, r in problem]
    columns = np.array([row for _, r in problem for row in r], np.int64).reshape(-1, 3).T.copy()
    start = np.cumsum([0, *sizes[:-1]], dtype=np.int64)[: len(sizes)]
    x = waterfill(np.array([cap for cap, _ in problem], np.int64), start, *columns)
    return [part.tolist() for part in np.split(x, np.cumsum(sizes)[:-1])] if sizes else []


@given(problem=trackers)
def test_within_a_byte_of_the_exact_solution_and_exact_in_sum(problem) -> None:
    for (cap, rows), x in zip(problem, fill(problem), strict=True):
        weight, lo, hi = zip(*rows, strict=True)
        exact = weighted_max_min(cap, weight, lo, hi)
        assert sum(x) == sum(exact)
        assert all(abs(a - b) <= 1 for a, b in zip(x, exact, strict=True))


@given(problem=trackers)
def test_the_cap_wins_over_lower_bounds_and_bounds_hold_where_they_fit(problem) -> None:
    for (cap, rows), x in zip(problem, fill(problem), strict=True):
        _, lo, hi = zip(*rows, strict=True)
        assert sum(x) == min(cap, sum(hi if sum(lo) <= cap else lo))
        if sum(lo) <= cap:
            assert all(a <= v <= b for v, a, b in zip(x, lo, hi, strict=True))
        else:
            assert all(0 <= v <= a for v, a in zip(x, lo, strict=True))


@given(problem=trackers, more=st.integers(0, 2**20))
def test_a_larger_cap_takes_from_nobody(problem, more: int) -> None:
    raised = [(min(cap + more, 2**42), rows) for cap, rows in problem]
    for (_, rows), x, y in zip(problem, fill(problem), fill(raised), strict=True):
        if sum(r[1] for r in rows) <= sum(x):
            assert all(b >= a - 1 for a, b in zip(x, y, strict=True))


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

"""I3: at every prefix of the calls the sum of the limits is at most the larger of before and after."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qguard.plan import HASHES_PER_CALL, KEEP, Why, height, ordered

limits = st.one_of(st.just(0), st.integers(1, 20), st.integers(1, 2147483646))
columns = st.lists(st.tuples(limits, st.one_of(st.just(KEEP), limits)), max_size=60)


@given(columns=columns)
def test_no_prefix_exceeds_both_ends(columns: list[tuple[int, int]]) -> None:
    current = np.array([c for c, _ in columns], np.int64)
    wanted = np.array([w for _, w in columns], np.int64)
    plan = ordered(current, wanted, np.full(len(columns), Why.SHARE, np.int64))
    after = np.where(wanted == KEEP, current, wanted)

    def total(column: np.ndarray) -> int:
        return sum(map(int, height(column)))

    bound = max(total(current), total(after))
    now = current.copy()
    for call in plan.calls:
        # A call sets one torrent after the other: every state in between counts.
        for row in call.rows:
            now[row] = call.limit
            assert total(now) <= bound
    assert (now == after).all()


@given(columns=columns)
def test_one_call_per_value_and_direction(columns: list[tuple[int, int]]) -> None:
    current = np.array([c for c, _ in columns], np.int64)
    wanted = np.array([w for _, w in columns], np.int64)
    plan = ordered(current, wanted, np.full(len(columns), Why.SHARE, np.int64))
    raised = height(plan.new) > height(plan.old)
    assert len(plan.calls) == len(set(zip(plan.new.tolist(), raised.tolist(), strict=True)))
    assert np.concatenate([np.zeros(0, np.int64), *(c.rows for c in plan.calls)]).tolist() == plan.rows.tolist()
    assert len(set(plan.rows.tolist())) == len(plan.rows)


def test_calls_are_of_bounded_size() -> None:
    many = 2 * HASHES_PER_CALL + 1
    plan = ordered(np.zeros(many, np.int64), np.full(many, 5, np.int64), np.ones(many, np.int64))
    assert [len(call.rows) for call in plan.calls] == [HASHES_PER_CALL, HASHES_PER_CALL, 1]

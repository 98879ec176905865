"""What is written now, what may wait, and in which order."""

import numpy as np

from qguard.plan import KEEP, SMALL_RAISE_WAIT, Plan, Why, make


def plan(current: list[int], wanted: list[int], **more: object) -> Plan:
    n = len(current)
    options = {
        "why": np.full(n, Why.SHARE, np.int64),
        "since_written": np.full(n, np.inf),
        "first_contact": np.zeros(n, np.bool_),
        "heat": np.zeros(n, np.int64),
        "small_raise": 0.2,
        "first_contact_batch": 500,
    } | more
    why = options.pop("why")
    return make(np.array(current, np.int64), np.array(wanted, np.int64), why, **options)


def written(made: Plan) -> dict[int, int]:
    return dict(zip(made.rows.tolist(), made.new.tolist(), strict=True))


def test_equal_values_and_kept_torrents_are_not_written() -> None:
    assert written(plan([5, 5, 0], [5, KEEP, 0])) == {}


def test_a_small_raise_waits_until_a_while_after_the_last_write() -> None:
    just, long_ago = np.array([1.0]), np.array([SMALL_RAISE_WAIT])
    assert written(plan([1000], [1100], since_written=just)) == {}
    assert plan([1000], [1100], since_written=just).waiting == 1
    assert written(plan([1000], [1100], since_written=long_ago)) == {0: 1100}
    assert written(plan([1000], [1200], since_written=just)) == {0: 1200}


def test_a_decrease_never_waits_however_small() -> None:
    assert written(plan([1000], [999], since_written=np.array([0.0]))) == {0: 999}


def test_a_limit_where_there_was_none_never_waits() -> None:
    assert written(plan([0], [2_000_000_000], since_written=np.array([0.0]))) == {0: 2_000_000_000}


def test_an_original_never_waits() -> None:
    back = np.array([Why.LEFT_ROLLOUT], np.int64)
    assert written(plan([1000], [1001], why=back, since_written=np.array([0.0]))) == {0: 1001}


def test_first_standing_limits_are_staged_hottest_first() -> None:
    first = np.array([True, True, True, True, False])
    made = plan([0] * 5, [8] * 5, first_contact=first, heat=np.array([0, 3, 9, 3, 0]), first_contact_batch=2)
    assert set(written(made)) == {1, 2, 4}
    assert made.unstaged == 2


def test_decreases_come_first_each_value_in_one_call() -> None:
    made = plan([10, 0, 10, 1, 1, 0], [5, 5, 20, 5, 20, 7])
    assert [(call.limit, call.rows.tolist()) for call in made.calls] == [
        (5, [0, 1]),
        (7, [5]),
        (5, [3]),
        (20, [2, 4]),
    ]

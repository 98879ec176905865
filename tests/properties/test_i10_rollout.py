"""I10: raising the percentage only adds torrents; the managed ones get the limits they would get at 100 %."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qguard.plan import KEEP
from qguard.rollout import BUCKETS, buckets
from qguard.snapshot import Torrents
from tests.properties.scenes import TRACKERS, caps, clients
from tests.support.columns import applied, changes, decide, rules

percentages = st.integers(0, 100)


@given(client=clients, cap=caps, low=percentages, high=percentages)
def test_a_higher_percentage_only_adds(client: Torrents, cap: int, low: int, high: int) -> None:
    low, high = sorted((low, high))
    fewer, more = (decide(client, rules(TRACKERS % cap, rollout_percentage=p)).planned.managed for p in (low, high))
    assert not (fewer & ~more).any()


@given(client=clients, cap=caps, percentage=percentages)
def test_those_inside_get_the_very_limits_of_100_percent(client: Torrents, cap: int, percentage: int) -> None:
    part = decide(client, rules(TRACKERS % cap, rollout_percentage=percentage)).planned
    whole = decide(client, rules(TRACKERS % cap)).planned
    assert (part.wanted[part.managed] == whole.wanted[part.managed]).all()


@given(client=clients, cap=caps, high=percentages, low=percentages)
def test_those_that_leave_get_their_originals_back(client: Torrents, cap: int, high: int, low: int) -> None:
    low, high = sorted((low, high))
    inside = decide(client, rules(TRACKERS % cap, rollout_percentage=high))
    limited, claims = applied(inside)
    after, _ = applied(decide(limited, rules(TRACKERS % cap, rollout_percentage=low), claims, inside.state, at=5.0))
    left = buckets(client.infohash) >= low
    assert (after.up_limit[left] == client.up_limit[left]).all()


@given(client=clients, cap=caps)
def test_zero_percent_writes_nothing(client: Torrents, cap: int) -> None:
    decided = decide(client, rules(TRACKERS % cap, rollout_percentage=0))
    assert changes(decided) == {}
    assert (decided.planned.wanted == KEEP).all()


def test_buckets_are_even_and_do_not_move() -> None:
    hashes = np.array([f"{i * 0x9E3779B97F4A7C15 % 2**160:040x}" for i in range(100_000)], "S40")
    counts = np.bincount(buckets(hashes), minlength=BUCKETS)
    # Binomial with mean 1000 and deviation 31: six deviations.
    assert counts.min() > 810
    assert counts.max() < 1190
    # Written down: these must never change, or an update would move torrents in and out of the rollout.
    written_down = {"0" * 40: 42, "f" * 40: 12, "0123456789abcdef0123456789abcdef01234567": 40}
    assert buckets(np.array(list(written_down), "S40")).tolist() == list(written_down.values())

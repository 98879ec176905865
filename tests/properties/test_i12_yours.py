"""I12: never above the owner's limit, untouched stays unwritten, what becomes uncapped gets its original."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qguard.plan import height
from qguard.snapshot import Torrents
from tests.properties.scenes import TRACKERS, caps, clients
from tests.support.columns import applied, changes, claim, decide, infohash, rules, torrents

NO_CAPS = """
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


@given(client=clients, cap=caps, speeds=st.lists(st.integers(0, 10**7), min_size=3, max_size=3))
def test_never_above_the_owners_limit(client: Torrents, cap: int, speeds: list[int]) -> None:
    owner, claims, state = client.up_limit, {}, None
    for turn, speed in enumerate(speeds):
        now = replace(client, upspeed=np.where(client.upspeed > 0, speed, 0))
        decided = decide(now, rules(TRACKERS % cap), claims, state, at=300.0 * turn)
        client, claims = applied(decided, claims)
        state = decided.state
        assert (height(client.up_limit) <= height(owner)).all()


@given(client=clients, cap=caps)
def test_torrents_of_uncapped_and_unmanaged_trackers_are_never_written(client: Torrents, cap: int) -> None:
    decided = decide(client, rules(TRACKERS % cap))
    names = np.array(decided.policy.ids)[decided.matched.rule]
    assert not np.isin(names[decided.planned.plan.rows], ["counted", "rest"]).any()


@given(client=clients, cap=caps)
def test_what_becomes_uncapped_gets_its_original_back(client: Torrents, cap: int) -> None:
    first = decide(client, rules(TRACKERS % cap))
    limited, claims = applied(first)
    after, _ = applied(decide(limited, rules(NO_CAPS), claims, first.state, at=5.0))
    assert (after.up_limit == client.up_limit).all()


def test_an_owner_may_ask_for_more_than_their_own_limits() -> None:
    one = torrents([{"upspeed": 50_000, "up_limit": 123_456}])
    assert changes(decide(one, rules())) == {}
    assert changes(decide(one, rules(respect_original_limits="false"))) == {infohash(0): 1_000_000}


def test_what_somebody_else_set_is_left_to_them() -> None:
    two = torrents([{"upspeed": 50_000, "up_limit": 77_777}, {"upspeed": 50_000, "up_limit": 500_000}])
    claims = dict([claim(0, written=500_000), claim(1, written=500_000)])
    decided = decide(two, rules(), claims)
    assert infohash(0) not in changes(decided)
    assert decided.matched.findings.foreign == {(infohash(0), two.added_on[0]): 77_777}
    assert decided.matched.own.foreign.tolist() == [True, False]

"""A tracker's torrents as a whole: shares, downloads, foreign use, the link."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from qguard.ledger import Control
from qguard.snapshot import Torrents
from tests.support.columns import ADDED_ON, TWO_TRACKERS, applied, changes, claim, decide, infohash, rules, torrents


def limits(client: list[dict], trackers: str | None = None, claims: dict | None = None, **keys: object) -> list[int]:
    seen = torrents(client)
    decided = decide(seen, rules(trackers, **keys) if trackers else rules(**keys), claims)
    return applied(decided)[0].up_limit.tolist()


def test_awake_torrents_share_the_cap_to_the_byte() -> None:
    busy = [{"upspeed": 50_000}] * 3
    assert limits(busy) == [333_334, 333_333, 333_333]


def test_sleeping_torrents_hold_standing_limits_that_the_cap_pays_for() -> None:
    one_awake = [{"upspeed": 50_000}, {}, {}]
    # 5 % of 1 MB/s for two sleepers are 25,000 B/s, 16384 on the grid of powers of two; two sleepers are reserved for.
    assert limits(one_awake) == [1_000_000 - 2 * 16_384, 16_384, 16_384]
    # 64 sleepers: no more than 48 of them are taken to wake at once. 1041 B/s are 1024 on the grid.
    assert limits([*one_awake[:1], *[{}] * 64]) == [1_000_000 - 48 * 1024, *[1024] * 64]


def test_a_torrent_more_asleep_does_not_rewrite_those_that_are_awake() -> None:
    awake = [{"upspeed": 50_000}] * 3
    first = decide(torrents([*awake, *[{}] * 5]), rules())
    limited, claims = applied(first)
    grown = [{"upspeed": 50_000 * (n < 3), "up_limit": int(v)} for n, v in enumerate(limited.up_limit)]
    assert list(changes(decide(torrents([*grown, {}]), rules(), claims, first.state, at=5.0))) == [infohash(8)]


def test_downloads_keep_their_floor_awake_or_not() -> None:
    some = [{"upspeed": 50_000, "downloading": True}, {"downloading": True}, *[{"upspeed": 50_000}] * 98]
    floor, first_share = 20_480, (1_000_000 - 2 * 20_480) / 98
    got = limits(some)
    assert got[:2] == [floor, floor]
    assert all(abs(limit - first_share) <= 1 for limit in got[2:])
    assert sum(got) == 1_000_000


def test_floors_yield_to_the_cap() -> None:
    got = limits([{"upspeed": 50_000, "downloading": True}] * 100)
    assert got == [10_000] * 100


def test_a_cap_smaller_than_the_number_of_torrents_is_a_named_conflict() -> None:
    tiny = TWO_TRACKERS.replace("1000000", "2")
    decided = decide(torrents([{"upspeed": 50_000}] * 3), rules(tiny))
    assert list(changes(decided).values()) == [1, 1, 1]
    assert "too small for 3 torrents" in decided.allocated.conflicts["alpha"]


def test_what_foreign_torrents_use_comes_off_the_cap_in_coarse_steps() -> None:
    client = [{"upspeed": 200_000, "up_limit": 77}, {"upspeed": 50_000}]
    claims = dict([claim(0, written=500, hold="foreign", hold_value=77)])
    got = limits(client, claims=claims)
    assert got[0] == 77
    step = 1_000_000 // 64
    assert got[1] == 1_000_000 - 13 * step  # 200 kB/s are 12.8 steps


def test_lumps_of_bytes_around_a_foreign_limit_are_that_limit() -> None:
    """The client looks at its counters each 1.5 s; two readings soon after each other see all of that in no time."""
    claims = dict([claim(0, written=500, hold="foreign", hold_value=200_000)])
    state = None
    readings = ((0.0, 0), (1.4, 0), (1.6, 300_000), (2.9, 300_000), (3.1, 600_000), (4.5, 600_000), (6.0, 900_000))
    for at, uploaded in readings:
        client = torrents([{"upspeed": 200_000, "up_limit": 200_000, "uploaded": uploaded}, {"upspeed": 50_000}])
        # Others have just been given back, so that no earlier use is remembered.
        decided = decide(client, rules(), claims, state and replace(state, held={"alpha": 9}), at=at)
        state = decided.state
        assert decided.estimated.outside[0] == 13 * (1_000_000 // 64)
    # Twice as much is let through by the limit that was there a moment ago.
    lowered = torrents([{"upspeed": 200_000, "up_limit": 100_000, "uploaded": 900_000}, {"upspeed": 50_000}])
    assert decide(lowered, rules(), claims, state, at=6.1).estimated.outside[0] == 13 * (1_000_000 // 64)


def test_a_foreign_torrent_that_takes_the_whole_cap_is_a_named_conflict() -> None:
    client = torrents([{"upspeed": 2_000_000, "up_limit": 0}, {"upspeed": 50_000}])
    decided = decide(client, rules(), dict([claim(0, written=500, hold="foreign", hold_value=0)]))
    assert changes(decided) == {infohash(1): 1}
    assert "may not change use 1000000 B/s" in decided.allocated.conflicts["alpha"]


def test_what_was_held_does_not_count_twice_once_it_is_given_back() -> None:
    def client(at: float) -> Torrents:
        return torrents([{"upspeed": 500_000, "uploaded": int(500_000 * at)}] * 4)

    held = dict(claim(n, original=None, hold="rollback") for n in range(4))
    state = None
    for turn in range(12):
        state = decide(client(5.0 * turn), rules(), held, state, at=5.0 * turn).state
    assert list(changes(decide(client(60.0), rules(), {}, state, at=60.0)).values()) == [250_000] * 4


def test_the_link_is_shared_and_holds_uncapped_trackers_too() -> None:
    client = [{"upspeed": 50_000}, {"upspeed": 50_000, "host": "other.example"}]
    assert limits(client, link_upload_speed=800_000) == [400_000, 400_000]
    assert limits(client) == [1_000_000, 0]


def test_an_idle_tracker_leaves_its_part_of_the_link_but_for_its_standing_limits() -> None:
    client = [{}, {"upspeed": 50_000, "host": "other.example"}]
    first, second = limits(client, link_upload_speed=800_000)
    assert second == 800_000 - int(0.05 * 400_000)
    assert first <= 0.05 * 400_000


def test_paused_torrents_are_neither_written_nor_given_back() -> None:
    client = torrents([{"upspeed": 50_000, "up_limit": 5}])
    pause = {("pause", "alpha"): Control({"until": None}, 0.0, "me", "")}
    decided = decide(client, rules(controls=pause), dict([claim(0, original=0, written=5)]))
    assert changes(decided) == {}
    assert not decided.planned.managed.any()


def test_what_has_its_original_again_is_let_go() -> None:
    client = torrents([{"up_limit": 9}])
    claims = dict([claim(0, original=9, written=9)])
    assert decide(client, rules(rollout_percentage=0), claims).planned.back.tolist() == [0]
    assert decide(client, rules(), claims).planned.back.tolist() == []


@pytest.mark.parametrize("order", [1, -1])
def test_the_answer_does_not_depend_on_the_order_of_the_listing(order: int) -> None:
    rows = [{"infohash": infohash(n), "upspeed": 50_000 * (n % 2)} for n in range(7)]
    decided = decide(torrents(rows[::order]), rules())
    assert [h.decode() for h in decided.reading.torrents.infohash.tolist()] == [infohash(n) for n in range(7)]
    assert decided.planned.wanted.tolist() == decide(torrents(rows), rules()).planned.wanted.tolist()


def test_a_torrent_added_again_is_claimed_anew() -> None:
    again = torrents([{"up_limit": 0, "upspeed": 50_000, "added_on": ADDED_ON + 1}])
    decided = decide(again, rules(), dict([claim(0, original=44, written=22)]))
    assert not decided.matched.own.claimed.any()
    assert changes(decided) == {infohash(0): 1_000_000}


def test_more_wakeups_in_one_interval_than_expected_raise_k() -> None:
    asleep = torrents([{} for _ in range(160)])
    first = decide(asleep, rules())
    limited, claims = applied(first)
    assert first.estimated.wakeups.tolist()[0] == 48
    awake = torrents([{"upspeed": 50_000 * (n < 60), "up_limit": int(v)} for n, v in enumerate(limited.up_limit)])
    second = decide(awake, rules(), claims, first.state, at=5.0)
    assert second.estimated.wakeups.tolist()[0] == 60
    late = decide(awake, rules(), claims, first.state, at=3600.0)
    assert late.estimated.wakeups.tolist()[0] == 48
    # However many woke at once, there is no need of room for more than sleep.
    few = torrents([{"upspeed": 50_000 * (n < 155), "up_limit": int(v)} for n, v in enumerate(limited.up_limit)])
    third = decide(few, rules(), claims, second.state, at=10.0)
    assert (third.estimated.wakeups.tolist()[0], third.state.wakeups["alpha"]) == (8, 95)
    assert np.isfinite(second.estimated.demand.rate).all()


@pytest.mark.parametrize(("strategy", "raised"), [("equal", False), ("weighted", True)])
def test_a_small_raise_waits_where_the_strategy_remembers_nothing(strategy: str, raised: bool) -> None:
    """Ten torrents share a cap that rises by a seventh, a second after they were limited."""
    busy = [{"upspeed": 100_000, "leechers": 5, "up_limit": 0} for _ in range(10)]
    first = decide(torrents(busy), rules(allocation_strategy=strategy))
    limited, claims = applied(first)
    just = {key: msgspec.structs.replace(claim, written_at=1e6) for key, claim in claims.items()}
    more = TWO_TRACKERS.replace("1000000", "1143000")
    second = decide(limited, rules(more, allocation_strategy=strategy), just, first.state, at=1.0)
    assert bool(changes(second)) is raised
    assert second.planned.plan.waiting == (0 if raised else 10)

"""Limits on the grid, number by number. All in bytes/s."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from allocators.base import MAX_LIMIT, Options, Request, check, load_strategy
from allocators.grid import FEW, on_grid, round_down, round_up


def column(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_values_are_rounded_to_the_grid() -> None:
    values = column(0, 1, 2, 23, 24, 25, 29, 30, 1000, 1048576, MAX_LIMIT - 1, MAX_LIMIT)
    assert round_down(values).tolist() == [0, 1, 2, 23, 23, 25, 28, 30, 972, 1041743, 2105191417, MAX_LIMIT]
    assert round_up(values).tolist() == [1, 1, 2, 23, 25, 25, 30, 30, 1020, 1093831, MAX_LIMIT, MAX_LIMIT]
    assert round_up(column(MAX_LIMIT + 1, 2**40)).tolist() == [MAX_LIMIT, MAX_LIMIT]
    assert round_down(column()).tolist() == []


def gridded(share: Sequence[int], lo: Sequence[int], hi: Sequence[int], *, more: int = 0) -> list[int]:
    return on_grid(column(*share), column(sum(share) + more), column(0), column(*lo), column(*hi)).tolist()


ANY = [MAX_LIMIT] * 10


def test_values_that_lose_most_are_lifted_first_and_the_last_one_as_far_as_there_is_something_left() -> None:
    # On the grid are 926, 972, 1020 and 1071. What comes down to 926 loses 2.9 % and goes up to 972 for 46 each. To 972
    # 2.3 % are lost: of the 205 that were lost in all these five get the other 67. To 1020 it is half of a per cent.
    share = [1000, 1010, 990, 1000, 950, 950, 960, 972, 1021, 1030, 0]
    none, bounds = [0] * 11, [*ANY, 0]
    assert gridded(share, none, bounds) == [986, 986, 985, 985, 972, 972, 972, 985, 1020, 1020, 0]
    # One that is kept above the level of the others by its floor does not get more than that.
    floors = [0, 0, 990, *[0] * 8]
    assert gridded(share, floors, bounds) == [985, 984, 990, 984, 972, 972, 972, 984, 1020, 1020, 0]
    # Lower bounds above the shares are some that were given up.
    assert gridded(share, [2000] * 11, bounds) == gridded(share, none, bounds)
    # Nobody is lifted above an upper bound, and who holds it keeps it.
    bounds[:2] = [1005, 1010]
    bounds[4] = 955
    assert gridded(share, none, bounds) == [984, 1010, 984, 983, 955, 972, 972, 983, 1020, 1020, 0]
    assert gridded([1000] * 9 + [960] * 2, [0] * 11, [1002] * 9 + [965] * 2) == [999] * 8 + [998] + [965] * 2


def test_the_part_that_was_lost_counts_and_not_how_much() -> None:
    # 4 % of nine times 24, and 1 % of 984.
    assert gridded([24] * 9 + [984], [0] * 10, ANY) == [25] * 9 + [975]


def test_equal_torrents_stay_equal_to_a_byte() -> None:
    assert gridded([1000] * 9, [0] * 9, ANY[:9]) == [1000] * 9
    assert gridded([1000] * 9, [0] * 9, ANY[:9], more=2) == [1001] * 2 + [1000] * 7
    assert gridded([1000, 990] * 5, [0] * 10, ANY) == [995] * 10


def test_what_is_to_be_added_up_to_is_met_as_far_as_bounds_and_steps_allow() -> None:
    for more in (20 * 9, 2**36):
        assert gridded([1000] * 9, [0] * 9, ANY[:9], more=more) == [1020] * 9
    for less in (28 * 9, 28 * 9 + 1, 9000):
        assert gridded([1000] * 9, [0] * 9, ANY[:9], more=-less) == [972] * 9
    assert gridded([1000] * 9, [0] * 9, ANY[:9], more=1 - 28 * 9) == [973] + [972] * 8
    assert gridded([1000, 1000, 1000], [0] * 3, [1500, 1000, 1500], more=2000) == [1001, 1000, 1001]
    # A step of a byte is one, too.
    assert gridded([1000] * 9 + [5], [0] * 10, ANY, more=2**36) == [1020] * 9 + [6]


def test_a_few_torrents_keep_their_exact_shares() -> None:
    assert FEW == 8
    share = [1000, 1000, 1000, *[990] * 6]
    assert gridded(share[1:], [0] * 8, ANY[:8]) == share[1:]
    assert gridded(share, [0] * 9, [1000] + [MAX_LIMIT] * 8) == share
    assert gridded(share, [0] * 9, [1000] + [MAX_LIMIT] * 8, more=3) == [1000, 1001, 1001, 991, *[990] * 5]
    assert gridded(share, [0] * 9, ANY[:9]) == [994] * 3 + [993] * 6
    # Who is at a floor has more than its due already.
    assert gridded([10, 700, 700], [10, 5, 5], ANY[:3], more=1) == [10, 701, 700]
    assert gridded([10, 700, 700], [10, 5, 5], ANY[:3], more=3) == [11, 701, 701]
    assert on_grid(column(), column(), column(), column(), column()).tolist() == []


def test_trackers_come_onto_the_grid_one_by_one() -> None:
    nine, few = [1000, 1000, 1000, *[990] * 6], [1000, 700]
    share = column(*nine, *few, *nine, 24, *nine)
    start = column(0, 9, 11, 21)
    total = column(8940, 1701, 8940 + 24 + 2, 8940 + 3)
    x = on_grid(share, total, start, np.zeros_like(share), np.full_like(share, MAX_LIMIT))
    assert x.tolist() == [*[994] * 3, *[993] * 6, 1001, 700, *[994] * 4, *[993] * 5, 25, *[994] * 6, *[993] * 3]


def test_who_is_at_a_floor_that_is_not_on_the_grid_is_not_below_it_nor_above_others() -> None:
    assert gridded([1010, *[1000] * 9], [1010, *[0] * 9], ANY) == [1010] + [1000] * 9
    assert gridded([990, *[1000] * 9], [990, *[0] * 9], ANY) == [999] * 10


# As `weighted` and `soft` use it


def ask(caps: Sequence[int], rate: np.ndarray, **columns: Any) -> Request:
    """Trackers with as many torrents each; all that upload press on their limits."""
    trackers, count = len(caps), len(rate)
    plain = {
        "leechers": np.full(count, 5),
        "awake": rate > 0,
        "pressing": rate > 0,
        "current": np.zeros(count, np.int64),
        "floor": np.zeros(count, np.int64),
        "ceiling": np.full(count, MAX_LIMIT),
    }
    return Request(
        tracker=tuple("abcdefghij"[:trackers]),
        start=np.arange(0, count, count // trackers),
        base_cap=column(*caps),
        outside=np.zeros(trackers, np.int64),
        wakeups=np.full(trackers, 48),
        priority=np.ones(trackers, np.int64),
        guaranteed=np.zeros(trackers, np.int64),
        hard=np.zeros(trackers, np.bool_),
        may_lend=np.ones(trackers, np.bool_),
        may_borrow=np.ones(trackers, np.bool_),
        infohash=np.array([f"{n:040x}" for n in range(count)], "S40"),
        rate=rate,
        **(plain | columns),
    )


def limits(request: Request, name: str = "weighted", **options: Any) -> list[int]:
    answer = load_strategy(name, Options(**options)).allocate(request, None)[0]
    check(name, request, answer)
    return answer.limit.tolist()


@pytest.mark.parametrize("name", ["weighted", "soft"])
def test_thousands_of_torrents_have_a_hundred_limits(name: str) -> None:
    random = np.random.default_rng(7)
    rate = random.lognormal(np.log(40_000), 1.5, 3000)
    caps = rate.reshape(10, 300).sum(axis=1).astype(np.int64).tolist()
    request = ask(caps, rate, leechers=random.geometric(0.3, 3000), pressing=random.random(3000) < 0.5)
    given = limits(request, name)
    assert len(set(given)) <= 150
    assert request.total(column(*given)).tolist() == caps


def test_nobody_is_lifted_above_the_largest_share_that_one_may_have() -> None:
    request = ask([12_000_000], np.full(12, 500_000.0), leechers=column(*[7] * 4, *[6] * 4, *[5] * 4))
    assert sorted(set(limits(request))) == [914_033, 992_136, 1_093_831]
    assert max(limits(request, max_torrent_share=0.0905)) == 1_086_000
    many = ask([12_000_000], np.full(12, 500_000.0), leechers=column(20, *[1] * 11))
    assert limits(many, max_torrent_share=0.2)[0] == 2_400_000


@pytest.mark.parametrize("name", ["weighted", "soft"])
def test_equal_torrents_on_both_sides_of_a_value_stay_equal_to_a_byte(name: str) -> None:
    # The first twelve have shares a byte below 1,041,743 or on it, by where the last bytes go; the others less.
    request = ask([24_721_903], np.array([500_000.0] * 12 + [480_000.0] * 12))
    assert limits(request, name) == [1_030_080] * 7 + [1_030_079] * 17


def test_limits_at_a_bound_are_kept_while_they_are_near() -> None:
    rate = np.full(12, 500_000.0)
    at_floor = ask([12 * 11_000], rate, current=column(10_240, *[11_000] * 11))
    assert limits(at_floor)[0] == 10_240
    ceiling = column(*[MAX_LIMIT] * 11, 1_040_000)
    at_ceiling = ask([12_000_000], rate, current=column(*[990_000] * 11, 1_040_000), ceiling=ceiling)
    assert limits(at_ceiling)[-1] == 1_040_000


def test_what_sleeps_does_not_count_as_used() -> None:
    request = ask([2_000_000], np.array([5e5, 5e5] + [0.0] * 198))
    fresh = limits(request)
    least = -(-96 * sum(fresh[:2]) // 100)  # a twenty-fifth may go unused
    held = replace(request, current=column(fresh[0], least - fresh[0], *fresh[2:]))
    assert limits(held) == held.current.tolist()
    held.current[1] -= 2
    assert limits(held) == fresh

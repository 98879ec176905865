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


def gridded(share: Sequence[int], lo: Sequence[int], hi: Sequence[int]) -> list[int]:
    return on_grid(column(*share), column(0), column(*lo), column(*hi)).tolist()


def test_those_that_lose_most_are_lifted_first_and_the_last_gets_what_is_left() -> None:
    # On the grid are 926, 972 and 1020. Of 1000 they lose 28 each, of 990 18, of 970 44, in all 246. That is a step of
    # 46 for the last two, one of 48 for the first three, and 10 for the next.
    share = [1000, 1000, 1000, 1000, 990, 1000, 972, 970, 970, 0]
    none, any_ = [0] * 10, [MAX_LIMIT] * 10
    assert gridded(share, none, any_) == [1020, 1020, 1020, 982, 972, 972, 972, 972, 972, 0]
    floors = [0, 0, 990, *[0] * 7]
    assert gridded(share, floors, any_) == [1020, 1020, 990, 1012, 972, 972, 972, 972, 972, 0]
    # Lower bounds above the shares are some that were given up.
    assert gridded(share, [2000] * 10, any_) == gridded(share, none, any_)
    # Nobody is lifted above an upper bound, and who holds it keeps it.
    bounds = [1010, 1000, *any_[2:]]
    assert gridded(share, none, bounds) == [1010, 1000, 1020, 1012, 972, 972, 972, 972, 972, 0]


def test_a_few_torrents_keep_their_exact_shares() -> None:
    assert FEW == 8
    assert gridded([1000] * 8, [0] * 8, [MAX_LIMIT] * 8) == [1000] * 8
    assert gridded([1000] * 9, [0] * 9, [1000] + [MAX_LIMIT] * 8) == [1000] * 9
    assert gridded([1000] * 9, [0] * 9, [MAX_LIMIT] * 9) == [1020] * 5 + [984] + [972] * 3
    assert gridded([], [], []) == []


def test_trackers_come_onto_the_grid_one_by_one() -> None:
    nine, few = [1000] * 9, [1000, 700]
    share = column(*nine, *few, *nine, 24, *nine)
    start = column(0, 9, 11, 21)
    x = on_grid(share, start, np.zeros_like(share), np.full_like(share, MAX_LIMIT))
    alone = [1020] * 5 + [984] + [972] * 3
    assert x.tolist() == [*alone, *few, *[1020] * 5, 983, *[972] * 3, 25, *alone]


def test_who_is_at_a_floor_that_is_not_on_the_grid_stays_there() -> None:
    assert gridded([990, *[1000] * 9], [990, *[0] * 9], [MAX_LIMIT] * 10)[0] == 990


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
    request = ask([12_000_000], np.full(12, 500_000.0))
    assert max(limits(request)) == 1_041_743
    assert max(limits(request, max_torrent_share=11 / 128)) == 1_031_250
    many = ask([12_000_000], np.full(12, 500_000.0), leechers=column(20, *[1] * 11))
    assert limits(many, max_torrent_share=0.2)[0] == 2_400_000


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
    least = -(-98 * sum(fresh[:2]) // 100)  # a fiftieth may go unused
    held = replace(request, current=column(fresh[0], least - fresh[0], *fresh[2:]))
    assert limits(held) == held.current.tolist()
    held.current[1] -= 2
    assert limits(held) == fresh

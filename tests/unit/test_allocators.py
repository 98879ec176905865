"""The strategies, number by number. Rates, caps and limits are in bytes/s."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from allocators.adaptive import CARRY_GAIN, CARRY_MOST, NEARLY, RAISE_AFTER, AdaptiveState, within_cap
from allocators.base import (
    MAX_CAP,
    MAX_LIMIT,
    Allocation,
    BadAllocationError,
    Options,
    Request,
    UnknownStrategyError,
    check,
    check_request,
    load_strategy,
    overcommit_of,
    promised_rate,
)
from allocators.budget import make_budget
from allocators.claims import claims, demand, taken
from allocators.grid import round_up
from allocators.lending import AT_ONCE, LENDS_AFTER, Loan, lend
from allocators.link import caps_within_link, resting_caps
from allocators.memory import Memory, recall
from allocators.scoring import scores, weights
from allocators.settle import near, settle, settle_fully
from allocators.standing import keep_near, reserve_for, standing_limit
from allocators.waterfill import MAX_WEIGHT, waterfill

MIB = 2**20
STRATEGIES = ("equal", "weighted", "soft", "adaptive")

strategy = cache(load_strategy)  # to look through what is installed takes longer than all these tests


@dataclass(frozen=True)
class Tracker:
    """One tracker of a request, and its torrents' columns; a column left out is the plain value for all."""

    cap: int
    rate: Sequence[float]
    pressing: str = ""
    leechers: Sequence[int] = ()
    current: Sequence[int] = ()
    floor: Sequence[int] = ()
    ceiling: Sequence[int] = ()
    awake: Sequence[int] = ()
    more: dict[str, Any] = field(default_factory=dict)


def ask(*trackers: Tracker, link: int | None = None, elapsed: float = 0.0) -> Request:
    def rows(name: str, default: Any) -> np.ndarray:
        return np.array(
            [value for t in trackers for value in (getattr(t, name) or [default(rate) for rate in t.rate])], np.int64
        )

    def of_trackers(name: str, default: int, kind: type = np.int64) -> np.ndarray:
        return np.array([t.more.get(name, default) for t in trackers], kind)

    sizes = [len(t.rate) for t in trackers]
    awake = rows("awake", lambda rate: rate > 0).astype(bool)
    return Request(
        tracker=tuple("abcdefgh"[: len(trackers)]),
        start=np.cumsum([0, *sizes[:-1]], dtype=np.int64)[: len(sizes)],
        base_cap=np.array([t.cap for t in trackers], np.int64),
        outside=of_trackers("outside", 0),
        wakeups=of_trackers("wakeups", 48),
        priority=of_trackers("priority", 1),
        guaranteed=of_trackers("guaranteed", 0),
        hard=of_trackers("hard", 0, np.bool_),
        may_lend=of_trackers("may_lend", 1, np.bool_),
        may_borrow=of_trackers("may_borrow", 1, np.bool_),
        infohash=np.array([f"{n:040x}" for n in range(sum(sizes))], "S40"),
        rate=np.array([rate for t in trackers for rate in t.rate], np.float64),
        leechers=rows("leechers", lambda _: 5),
        awake=awake,
        pressing=np.array([c == "p" for t in trackers for c in t.pressing.ljust(len(t.rate))], np.bool_),
        current=rows("current", lambda _: 0),
        floor=rows("floor", lambda _: 0),
        ceiling=rows("ceiling", lambda _: MAX_LIMIT),
        link=link,
        elapsed=elapsed,
    )


def first(name: str, request: Request, **options: Any) -> Allocation:
    return strategy(name, Options(**options)).allocate(request, None)[0]


def column(*values: float) -> np.ndarray:
    return np.array(values, np.int64)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


# The kernel


def fill(cap: int, weight: Sequence[int], lo: Sequence[int], hi: Sequence[int]) -> list[int]:
    return waterfill(column(cap), column(0), column(*weight), column(*lo), column(*hi)).tolist()


ANY = 2**31 - 2


@pytest.mark.parametrize(
    ("cap", "weight", "lo", "hi", "wanted"),
    [
        (10, [1, 1, 1], [0, 0, 0], [ANY, ANY, ANY], [4, 3, 3]),
        (11, [1, 1, 1], [0, 0, 0], [ANY, ANY, ANY], [4, 4, 3]),
        (12, [1, 2, 3], [0, 0, 0], [ANY, ANY, ANY], [2, 4, 6]),
        (8, [1, 1, 1, 1], [0] * 4, [1, 2, ANY, ANY], [1, 2, 3, 2]),
        (100, [1, 1], [0, 0], [30, 40], [30, 40]),
        (70, [1, 1], [0, 0], [30, 40], [30, 40]),
        (69, [1, 1], [0, 0], [30, 40], [30, 39]),
        (100, [1, 1, 1], [60, 0, 0], [ANY, ANY, ANY], [60, 20, 20]),
        (100, [1, 1, 1], [60, 50, 0], [ANY, ANY, ANY], [50, 50, 0]),
        (110, [1, 1, 1], [60, 50, 0], [ANY, ANY, ANY], [60, 50, 0]),
        (111, [1, 1, 1], [60, 50, 0], [ANY, ANY, ANY], [60, 50, 1]),
        (0, [1, 5], [0, 0], [9, 9], [0, 0]),
        (0, [1, 5], [3, 3], [9, 9], [0, 0]),
        (2**42, [1, MAX_WEIGHT], [0, 0], [2**42, 2**42], [4194301, 4398042316803]),
        (1000, [MAX_WEIGHT, 1, 1], [0, 0, 0], [ANY, ANY, ANY], [1000, 0, 0]),
        (7, [1] * 9, [0] * 9, [ANY] * 9, [1] * 7 + [0] * 2),
        (50, [3, 1, 1, 1], [5, 5, 5, 5], [5, 5, 5, 100], [5, 5, 5, 35]),
    ],
)
def test_waterfill(cap: int, weight: list[int], lo: list[int], hi: list[int], wanted: list[int]) -> None:
    assert fill(cap, weight, lo, hi) == wanted


def test_waterfill_splits_each_tracker_on_its_own() -> None:
    x = waterfill(
        column(10, 5, 100), column(0, 2, 5), column(1, 1, 1, 1, 1, 2), column(0, 0, 5, 0, 0, 0), column(*[99] * 6)
    )
    assert x.tolist() == [5, 5, 5, 0, 0, 99]
    assert waterfill(column(), column(), column(), column(), column()).tolist() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": column(0)}, "weights must be from 1 to 1048576"),
        ({"weight": column(MAX_WEIGHT + 1)}, "weights must be from 1 to 1048576"),
        ({"weight": floats(1)}, "weight must be a column of int64, not float64"),
        ({"lo": column(-1)}, "0 <= lo <= hi"),
        ({"lo": column(2)}, "0 <= lo <= hi"),
        ({"cap": column(-1)}, "caps must not be negative"),
        ({"cap": column(1, 1)}, "same length"),
        ({"start": column(1)}, "start must increase"),
        ({"hi": column(1, 2)}, "same length"),
        ({"hi": np.ones((1, 1), np.int64)}, "shape"),
    ],
)
def test_waterfill_refuses(change: dict[str, np.ndarray], words: str) -> None:
    good = dict.fromkeys(("cap", "weight", "lo", "hi"), column(1)) | {"start": column(0)}
    assert waterfill(**good).tolist() == [1]
    with pytest.raises(ValueError, match=words):
        waterfill(**(good | change))


@pytest.mark.parametrize("start", [column(0, 0), column(0, 2), column(1, 0), column()])
def test_waterfill_refuses_trackers_without_rows(start: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"start|length"):
        waterfill(np.ones(len(start), np.int64), start, column(1, 1), column(0, 0), column(1, 1))
    with pytest.raises(ValueError, match="every tracker needs at least one row"):
        waterfill(column(1), column(0), column(), column(), column())


# Standing limits


@pytest.mark.parametrize(
    ("cap", "wakeups", "wanted"),
    [
        (4 * MIB, 48, 4096),
        (48 * 20 * 4096, 48, 4096),
        (48 * 20 * 4096 - 1, 48, 2048),
        (960, 48, 1),
        (1919, 48, 1),
        (1920, 48, 2),
        (1, 48, 1),
        (MAX_CAP, 1, 2**30),
        (4 * MIB, 96, 2048),
    ],
)
def test_standing_limit(cap: int, wakeups: int, wanted: int) -> None:
    assert standing_limit(column(cap), column(wakeups)).tolist() == [wanted]


def test_reserve_counts_sleepers_in_powers_of_two_up_to_k() -> None:
    sleepers = column(0, 1, 2, 3, 4, 5, 31, 33, 48, 64, 3000)
    reserve = reserve_for(sleepers, np.full(11, 10), np.full(11, 48))
    assert reserve.tolist() == [0, 10, 20, 40, 40, 80, 320, 480, 480, 480, 480]


def test_a_sleeper_keeps_what_it_holds_within_a_factor_of_two() -> None:
    assert keep_near(column(0, 512, 513, 800, 1023, 1024, 1025, 4096), np.full(8, 1024)).tolist() == [
        1024, 1024, 513, 800, 1023, 1024, 1024, 1024,
    ]  # fmt: skip


# Claims, scores, memory


def test_a_claim_is_rate_and_headroom_and_stays_while_it_fits() -> None:
    request = ask(Tracker(10**6, [10_000.0] * 6))
    before = floats(0, 11_999, 12_000, 20_000, 33_192, 33_193)
    assert claims(request, before).tolist() == [16_596, 16_596, 12_000, 20_000, 33_192, 16_596]


def test_demand_doubles_what_those_that_press_have() -> None:
    request = ask(
        Tracker(12_000, [100, 300, 1700, 0, 0, 0], "ppp", floor=[0, 0, 0, 0, 50, 0], more={"outside": 7}),
        Tracker(48_000, [900, 900, 3], "pp", ceiling=[MAX_LIMIT, 1200, MAX_LIMIT], floor=[0, 0, 40]),
    )
    claim = floats(1, 1, 1, 1, 1, 1, 1, 1, 30)
    # An equal part of the cap twice, twice the rate, a sleeping download's floor; then a third, a ceiling, a floor.
    assert demand(request, claim, np.zeros(9)).tolist() == [2000 + 2000 + 3400 + 50 + 7, 16_000 + 1200 + 40]
    # Twice what it may upload by now where it does not upload that yet.
    reached = floats(0, 1600, 600, 9999, 9999, 9999, 30_000, 0, 9999)
    assert demand(request, claim, reached).tolist() == [2000 + 3200 + 3400 + 50 + 7, 60_000 + 1200 + 40]


@pytest.mark.parametrize(("torrents", "part"), [(1, 1), (15, 15), (16, 16), (17, 16), (300, 16)])
def test_one_that_presses_is_taken_to_want_an_equal_part_or_a_sixteenth(torrents: int, part: int) -> None:
    request = ask(Tracker(240_000, [1.0] + [0.0] * (torrents - 1), "p"))
    assert demand(request, np.zeros(torrents), np.zeros(torrents)).tolist() == [240_000 / part]


def test_what_a_rate_can_have_reached_follows_the_limit_within_seconds_and_not_within_the_same_moment() -> None:
    request = ask(Tracker(MIB, [1, 2], current=[7, 8]))
    assert recall(request, None).reached.tolist() == [7, 8]
    unlimited = ask(Tracker(MIB, [100, 2], current=[0, 8]))  # it is faster than nothing when it gets its first limit
    assert recall(unlimited, None).reached.tolist() == [100, 8]
    memory = Memory(request.infohash, column(100, 100), floats(0, 0), floats(0, 0), floats(20, 180))
    assert recall(request, memory).reached.tolist() == [20, 180]
    later = recall(replace(request, elapsed=2.0), memory)
    assert later.reached.tolist() == pytest.approx([100 - 80 / np.e, 100 + 80 / np.e])
    assert recall(replace(request, elapsed=60.0), memory).reached.tolist() == pytest.approx([100, 100])


def test_taken_is_all_that_those_may_upload_that_press_and_the_claims_of_the_others() -> None:
    request = ask(Tracker(16_000, [100, 300, 50, 60, 0, 0], "pp", floor=[0, 0, 0, 0, 20, 0], more={"outside": 7}))
    claim = floats(1, 1, 90, 40, 5, 5)
    assert taken(request, claim, np.zeros(6)).tolist() == [100 + 300 + 90 + 40 + 20 + 7]
    reached = floats(120, 200, 999, 999, 999, 999)
    assert taken(request, claim, reached).tolist() == [120 + 300 + 90 + 40 + 20 + 7]


def test_scores_are_those_of_the_reference_document() -> None:
    request = ask(Tracker(6 * MIB, [0.8 * MIB, 0.2 * MIB, 3 * MIB, 0], leechers=[40, 5, 0, 20]))
    score = scores(request, Options(), np.zeros(4))
    assert score.tolist() == pytest.approx([0.92, 0.23, 0.4, 0.6])
    assert weights(request, score, 1000).tolist() == [60293, 15073, 26214, 39322]
    other = scores(
        request, Options(leechers_weight=0.25, full_score_leechers=80, full_score_rate=MIB // 2), np.zeros(4)
    )
    assert other.tolist() == pytest.approx([0.875, 0.315625, 0.75, 0.0625])


def test_a_score_within_a_quarter_of_what_it_was_stays() -> None:
    request = ask(Tracker(MIB, [0.5 * MIB] * 5, leechers=[10] * 5))
    assert scores(request, Options(), floats(0.41, 0.39, 0.66, 0.67, 0)).tolist() == [0.41, 0.5, 0.66, 0.5, 0.5]


def test_torrents_beyond_the_most_managed_weigh_their_trackers_mean() -> None:
    request = ask(Tracker(MIB, [1, 1, 1, 0]), Tracker(MIB, [1, 1, 1]))
    score = floats(0.5, 0.25, 1, 1, 0.125, 0.75, 0.0)
    assert weights(request, score, 6).tolist() == [32768, 16384, 65536, 65536, 8192, 49152, 1]
    assert weights(request, score, 2).tolist() == [24576, 24576, 65536, 65536, 4096, 49152, 4096]
    # Of equals the first counts as better.
    assert weights(request, np.full(7, 0.5), 1).tolist() == [32768] * 7


def test_memory_follows_info_hashes() -> None:
    request = ask(Tracker(MIB, [1, 2, 3], current=[7, 8, 9]))
    new = recall(request, None)
    assert (new.limit.tolist(), new.claim.tolist(), new.score.tolist()) == ([7, 8, 9], [0, 0, 0], [0, 0, 0])
    kept = Memory(request.infohash[[2, 0]], column(30, 10), floats(3, 1), floats(0.3, 0.1), floats(30, 10))
    known = recall(request, kept)
    assert known.infohash.tolist() == request.infohash.tolist()
    assert (known.limit.tolist(), known.claim.tolist(), known.score.tolist()) == ([10, 0, 30], [1, 0, 3], [0.1, 0, 0.3])
    nobody = recall(request, Memory(request.infohash[:0], column(), floats(), floats(), floats()))
    assert (nobody.limit.tolist(), nobody.limit.dtype) == ([0, 0, 0], np.int64)


# Settling


def test_near_is_a_tenth() -> None:
    assert near(np.full(6, 100), column(89, 90, 100, 110, 111, 0)).tolist() == [False, True, True, True, False, False]


def test_those_furthest_above_give_up_first() -> None:
    share, held, keep = column(100, 100, 100, 100), column(110, 105, 101, 95), np.ones(4, np.bool_)
    one = column(0)

    def settled(total: int) -> list[int]:
        return settle(share, held, keep, one, column(total)).tolist()

    assert settled(411) == [110, 105, 101, 95]
    assert settled(410) == [100, 105, 101, 95]
    assert settled(401) == [100, 105, 101, 95]
    assert settled(0) == [100, 100, 101, 95]  # the shares' own sum always fits
    assert settle(share, held, np.array([False, True, True, True]), one, column(400)).tolist() == [100, 100, 101, 95]
    two = settle(np.full(4, 100), column(110, 110, 110, 90), keep, column(0, 2), column(210, 200))
    assert two.tolist() == [100, 110, 110, 90]


def test_no_more_than_a_twenty_fifth_goes_unused_by_settling() -> None:
    share, keep, one = column(500, 500), np.ones(2, np.bool_), column(0)
    assert settle_fully(share, column(460, 500), keep, one, column(1000)).tolist() == [460, 500]
    assert settle_fully(share, column(459, 500), keep, one, column(1000)).tolist() == [500, 500]
    assert settle_fully(column(), column(), np.zeros(0, np.bool_), column(), column()).tolist() == []


# The line above the caps


def test_caps_that_fit_the_link_stay() -> None:
    request = ask(Tracker(600, [1]), Tracker(400, [0]), link=1000)
    cap, resting = caps_within_link(request)
    assert (cap.tolist(), resting.tolist()) == ([600, 400], [600, 400])
    assert resting_caps(replace(request, link=None)).tolist() == [600, 400]
    assert resting_caps(replace(request, link=999)).tolist() == [599, 400]


def test_the_link_is_split_by_priority_among_those_that_upload() -> None:
    trackers = (
        Tracker(1000, [1], more={"priority": 3}),
        Tracker(1000, [1]),
        Tracker(1000, [0], more={"priority": 4}),
    )
    cap, resting = caps_within_link(ask(*trackers, link=800))
    assert resting.tolist() == [300, 100, 400]
    assert cap.tolist() == [585, 195, 20]
    asleep = ask(*(replace(t, rate=[0]) for t in trackers), link=800)
    assert caps_within_link(asleep)[0].tolist() == [15, 5, 20]
    used = ask(*trackers[:2], replace(trackers[2], more={"priority": 4, "outside": 500}), link=800)
    assert caps_within_link(used)[0].tolist() == [225, 75, 500]
    download = ask(*trackers[:2], replace(trackers[2], floor=[10]), link=800)
    assert caps_within_link(download)[0].tolist() == [300, 100, 400]


# Budgets


def test_a_budget_is_the_cap_less_what_is_outside_and_asleep() -> None:
    request = ask(
        Tracker(
            1_000_000,
            [5, 5, 0, 0, 0, 0],
            current=[0, 0, 0, 700, 3, 0],
            floor=[0, 300, 0, 0, 0, 20480],
            ceiling=[9000, MAX_LIMIT, MAX_LIMIT, MAX_LIMIT, 600, 15000],
            more={"outside": 1000},
        )
    )
    budget = make_budget(request, request.base_cap, request.base_cap)
    assert budget.standing.tolist() == [1024]
    assert budget.total.tolist() == [1_000_000 - 1000 - 4 * 1024]  # three sleepers count as four
    assert budget.sharers.tolist() == [3]
    assert budget.sharing.tolist() == [True, True, False, False, False, True]
    assert budget.resting.tolist() == [1024, 1024, 1024, 700, 600, 1024]
    assert budget.lo.tolist() == [1, 300, 0, 0, 0, 15000]
    assert budget.hi.tolist() == [9000, MAX_LIMIT, 0, 0, 0, 15000]


# Every strategy


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_asked_nothing_given(name: str) -> None:
    answer = first(name, ask())
    for part in (answer.limit, answer.effective_cap, answer.standing):
        assert (part.tolist(), part.dtype) == ([], np.int64)
    assert answer.conflicts == {}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_cap_smaller_than_its_torrents_is_named(name: str) -> None:
    answer = first(name, ask(Tracker(3, [1.0] * 4, "pppp")))
    assert answer.limit.tolist() == [1, 1, 1, 1]
    assert answer.conflicts == {
        "a": "a cap of 3 B/s is too small for 4 torrents: the awake ones hold 1 B/s, the smallest limit"
    }
    answer = first(name, ask(Tracker(4, [1.0] * 4, "pppp")))
    assert (answer.limit.tolist(), answer.conflicts) == ([1, 1, 1, 1], {})
    answer = first(name, ask(Tracker(900, [1.0] * 4, more={"outside": 900})))
    assert answer.limit.tolist() == [1, 1, 1, 1]
    assert answer.conflicts == {"a": "torrents that qguard may not change use 900 B/s, the cap is 900 B/s"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_all_asleep_hold_standing_limits(name: str) -> None:
    answer = first(name, ask(Tracker(4 * MIB, [0.0] * 3, current=[0, 2049, 2048], ceiling=[1000, ANY, ANY])))
    assert answer.limit.tolist() == [1000, 2049, 4096]
    assert (answer.standing.tolist(), answer.effective_cap.tolist()) == ([4096], [4 * MIB])


@pytest.mark.parametrize("name", STRATEGIES)
def test_one_torrent_alone_has_the_cap(name: str) -> None:
    assert first(name, ask(Tracker(1_000_000, [5e5]))).limit.tolist() == [1_000_000]
    assert first(name, ask(Tracker(MAX_CAP, [5e5]))).limit.tolist() == [MAX_LIMIT]
    assert first(name, ask(Tracker(1_000_000, [5e5], "p"))).limit.tolist() == [1_000_000]


@pytest.mark.parametrize("name", STRATEGIES)
def test_more_torrents_than_bytes_and_huge_caps(name: str) -> None:
    answer = first(name, ask(Tracker(50, [1.0] * 60, "p" * 60)))
    assert (answer.limit.tolist(), list(answer.conflicts)) == ([1] * 60, ["a"])
    answer = first(name, ask(Tracker(MAX_CAP, [1e8] * 60, "p" * 60)))
    assert (answer.limit.tolist(), answer.conflicts) == ([MAX_LIMIT] * 60, {})


# Equal


def test_equal_gives_odd_bytes_to_the_first() -> None:
    assert first("equal", ask(Tracker(11, [1.0] * 4))).limit.tolist() == [3, 3, 3, 2]
    bounds = ask(Tracker(1000, [1.0] * 4, floor=[0, 0, 0, 400], ceiling=[100, MAX_LIMIT, MAX_LIMIT, MAX_LIMIT]))
    assert first("equal", bounds).limit.tolist() == [100, 250, 250, 400]
    crowded = ask(Tracker(1000, [1.0] * 4, floor=[900, 0, 0, 400]))
    assert first("equal", crowded).limit.tolist() == [598, 1, 1, 400]


def test_a_floor_of_the_smallest_limit_is_no_bound() -> None:
    # A row of its own would come before those that share one, and take the odd byte from the first.
    assert first("equal", ask(Tracker(1001, [1.0, 1.0], floor=[0, 1]))).limit.tolist() == [501, 500]


def test_equal_within_the_link() -> None:
    request = ask(Tracker(1000, [1.0, 1.0]), Tracker(1000, [1.0], more={"priority": 3}), link=1000)
    answer = first("equal", request)
    assert answer.limit.tolist() == [125, 125, 750]
    assert answer.effective_cap.tolist() == [250, 750]


# Weighted


def test_weighted_is_the_reference_documents_example_with_the_surplus_given_back() -> None:
    request = ask(Tracker(6 * MIB, [0.8 * MIB, 0.2 * MIB], leechers=[40, 5]))
    # 60 % of 6 MiB/s are 3.6 MiB/s, and B has the rest.
    assert first("weighted", request).limit.tolist() == [3774874, 2516582]
    assert first("weighted", replace(request, pressing=np.ones(2, np.bool_))).limit.tolist() == [3774874, 2516582]


def test_weighted_by_score_when_all_press() -> None:
    request = ask(Tracker(1_150_000, [0.8 * MIB, *[0.2 * MIB] * 3], "pppp", leechers=[40, 5, 5, 5]))
    limit = first("weighted", request).limit
    assert limit.sum() == 1_150_000
    assert limit[0] / limit[1] == pytest.approx(4, rel=0.001)
    assert np.ptp(limit[1:]) <= 1


def test_weighted_gives_those_content_their_claim_while_others_want_more() -> None:
    request = ask(Tracker(1_000_000, [100_000, 40_000, 500_000], "  p", leechers=[20, 20, 20]))
    # 1.25 times the rate and 4096; the third would take all but has 60 % at most. What is left goes by score.
    few = first("weighted", request, max_torrent_share=1.0)
    assert few.limit.tolist() == [129_096, 54_096, 816_808]
    most = first("weighted", request)
    assert most.limit[2] == 600_000
    assert most.limit.sum() == 1_000_000


def test_weighted_floors_yield_to_the_cap() -> None:
    request = ask(Tracker(60_000, [1e6, 1.0, 1.0], "ppp", leechers=[20, 0, 0]))
    assert first("weighted", request).limit.tolist() == [36_000, 12_000, 12_000]
    assert first("weighted", request, max_torrent_share=1.0).limit.tolist() == [39_520, 10_240, 10_240]
    assert first("weighted", request, max_torrent_share=1.0, min_torrent_upload_speed=0).limit.tolist() == [
        59_997,
        2,
        1,
    ]
    small = first("weighted", replace(request, base_cap=column(15_000))).limit
    assert small.tolist() == [10_240, 2380, 2380]


def test_weighted_shares_beyond_the_most_managed_are_common_to_a_byte_and_within_the_cap() -> None:
    request = ask(Tracker(1_000_000, [1e5] * 10, "p" * 10, leechers=[20, 18, *range(8)]))
    limit = first("weighted", request, max_managed_torrents=2).limit
    assert limit.sum() == 1_000_000
    assert limit[0] > limit[1] > limit[2:].max()
    assert np.ptp(limit[2:]) <= 1
    assert len(set(first("weighted", request).limit.tolist())) == 10


def test_weighted_rewrites_nothing_for_jitter() -> None:
    one = strategy("weighted", Options())
    request = ask(Tracker(1_000_000, [2e5, 3e5, 1e5], " p ", leechers=[10, 10, 3]))
    answer, state = one.allocate(request, None)
    for jitter in (1.03, 0.97, 1.02, 0.98):
        again, state = one.allocate(replace(request, rate=request.rate * jitter, elapsed=5.0), state)
        assert again.limit.tolist() == answer.limit.tolist()


def held_before(limit: list[int]) -> Memory:
    none = np.zeros(len(limit))
    return Memory(ask(Tracker(1, [1.0] * len(limit))).infohash, column(*limit), none, none, none)


@pytest.mark.parametrize(
    ("held", "ceiling", "wanted"),
    [
        ([500_000, 500_000], ANY, [500_000, 500_000]),
        ([460_000, 540_000], ANY, [460_000, 540_000]),
        ([540_000, 460_000], ANY, [540_000, 460_000]),
        ([440_000, 540_000], ANY, [500_000, 500_000]),
        ([0, 0], ANY, [500_000, 500_000]),
        ([0, 500_000], ANY, [500_000, 500_000]),
        ([540_000, 540_000], ANY, [500_000, 500_000]),
        ([495_000, 490_000], ANY, [495_000, 490_000]),
        ([475_000, 480_000], ANY, [500_000, 500_000]),
        ([440_000, 440_000], 400_000, [400_000, 400_000]),
    ],
)
def test_weighted_lets_limits_stay_that_are_near_as_far_as_the_sum_allows(
    held: list[int], ceiling: int, wanted: list[int]
) -> None:
    request = ask(Tracker(1_000_000, [5e5, 5e5], "pp", ceiling=[ceiling] * 2))
    answer, after = strategy("weighted", Options()).allocate(request, held_before(held))
    assert answer.limit.tolist() == after.limit.tolist() == wanted


# Lending


def soft_cycle(request: Request, state: Any, **options: Any) -> tuple[Allocation, Any]:
    return strategy("soft", Options(**options)).allocate(request, state)


def busy_and_quiet(**more: Any) -> Request:
    """A has 4 MiB/s and uses 1; B has 2 and wants more."""
    request = ask(
        Tracker(4 * MIB, [MIB], current=[4 * MIB]),
        Tracker(2 * MIB, [2 * MIB], "p", current=[2 * MIB], more={"priority": 10}),
    )
    return replace(request, **more)


def test_soft_is_the_reference_documents_example_without_lending_twice() -> None:
    answer, state = soft_cycle(busy_and_quiet(), None)
    assert answer.effective_cap.tolist() == [3 * MIB, 3 * MIB]
    assert answer.limit.tolist() == [3 * MIB, 3 * MIB]
    assert state.loans == {"a": Loan(6, 0, borrows=False, age=0.0), "b": Loan(33, MIB, borrows=True, age=0.0)}
    assert answer.effective_cap[0] >= MIB  # A keeps what it uses


def test_a_lender_that_wakes_has_its_cap_back_in_the_next_cycle() -> None:
    answer, state = soft_cycle(busy_and_quiet(), None)
    woken = busy_and_quiet(
        rate=answer.limit.astype(float), current=answer.limit, pressing=np.ones(2, np.bool_), elapsed=5.0
    )
    answer, state = soft_cycle(woken, state)
    assert answer.effective_cap.tolist() == [4 * MIB, 2 * MIB]
    assert answer.limit.tolist() == [4 * MIB, 2 * MIB]
    assert state.loans["b"].bonus == 0


@pytest.mark.parametrize(
    ("more", "caps"),
    [
        ({}, [3.0, 3.0]),
        ({"hard": np.array([False, True])}, [4.0, 2.0]),
        ({"hard": np.array([True, False])}, [3.0, 3.0]),
        ({"may_lend": np.array([False, True])}, [4.0, 2.0]),
        ({"may_borrow": np.array([True, False])}, [4.0, 2.0]),
        ({"pressing": np.zeros(2, np.bool_), "rate": floats(MIB, 0.5 * MIB)}, [4.0, 2.0]),
    ],
)
def test_who_lends_and_who_borrows(more: dict[str, Any], caps: list[float]) -> None:
    answer, _ = soft_cycle(busy_and_quiet(**more), None)
    assert (answer.effective_cap / MIB).tolist() == caps


@pytest.mark.parametrize(("fraction", "bonus"), [(0.5, 1.0), (0.25, 0.5), (0.0, 0.0), (1.0, 2.0)])
def test_nobody_borrows_more_than_a_part_of_its_own_cap(fraction: float, bonus: float) -> None:
    answer, _ = soft_cycle(busy_and_quiet(), None, max_borrow_fraction=fraction)
    assert (answer.effective_cap / MIB).tolist() == [4 - bonus, 2 + bonus]


def loaned(bonus: int, *, grant: float = 1.0, elapsed: float = 5.0, age: float = 60.0, **options: Any) -> int:
    """What B, which borrowed `bonus`, borrows next when `grant` MiB/s are there for it."""
    before = {"a": Loan(16, 0, borrows=False, low=LENDS_AFTER), "b": Loan(32, bonus, borrows=True, age=age)}
    request = replace(busy_and_quiet(elapsed=elapsed), base_cap=column(4 * MIB, 2 * MIB))
    wanted = floats((4 - grant) * MIB, 4 * MIB)
    cap, after = lend(request, wanted, floats(0, 2 * MIB), column(0, 0), Options(**options), before)
    assert cap.sum() == 6 * MIB
    assert cap[1] == 2 * MIB + after["b"].bonus
    assert after["b"].age == min(age + elapsed, AT_ONCE)
    return after["b"].bonus


def test_in_its_first_seconds_a_tracker_is_lent_at_once_what_it_is_found_to_want() -> None:
    assert loaned(0, elapsed=1.5, age=0.0) == MIB
    assert loaned(MIB // 2, elapsed=1.5, age=13.4) == MIB
    assert loaned(MIB // 2, elapsed=1.5, age=13.5) == MIB // 2 + int((1 - 0.6**0.3) * (MIB // 2))
    assert loaned(MIB, grant=0.5, elapsed=1.5, age=0.0) == MIB // 2


def test_a_bonus_grows_by_time_and_falls_at_once() -> None:
    assert loaned(0) == int(0.4 * MIB)
    assert loaned(0, elapsed=10.0) == int(0.64 * MIB)
    assert loaned(0, elapsed=0.0) == 0
    assert loaned(MIB // 2) == int(0.7 * MIB)
    assert loaned(MIB, grant=0.5) == MIB // 2
    assert loaned(MIB, grant=0.0) == 0
    assert loaned(0, smoothing_alpha=0.0) == 0
    assert loaned(0, smoothing_alpha=1.0) == MIB
    assert loaned(0, smoothing_alpha=1.0, elapsed=0.0) == 0
    # The last tenth of the cap (0.2 MiB/s) is not worth a cycle of its own, nor is a raise by less.
    assert loaned(int(0.7 * MIB)) == MIB
    assert loaned(int(0.81 * MIB)) == int(0.81 * MIB)
    assert loaned(int(0.81 * MIB), min_effective_delta=0.0) == int(0.81 * MIB) + int(0.4 * (MIB - int(0.81 * MIB)))
    assert loaned(int(0.5 * MIB), min_effective_delta=1.0) == int(0.5 * MIB)
    # From nothing, all that is small is given at once.
    assert loaned(0, grant=0.5, min_effective_delta=0.4) == MIB // 2


def test_a_cap_is_not_lent_that_is_wanted_less_for_a_moment() -> None:
    """Uploads stall for seconds when limits change. What is wanted again is there at once."""
    request, loans, demand = busy_and_quiet(elapsed=1.5), {"a": Loan(16, 0, borrows=False)}, []
    for wanted in (4.0, 1.0, 1.0, 3.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0):
        _, after = lend(request, floats(wanted * MIB, 2 * MIB), floats(0, 0), column(0, 0), Options(), loans)
        loans = {"a": after["a"]}
        demand.append(after["a"].steps / 4)
    assert demand == [4.0] * 9 + [1.0] * 2 + [4.0]


@pytest.mark.parametrize(
    ("elapsed", "wanted", "steps"),
    [(8.0, 1.0, 4), (7.9, 1.0, 16), (0.5, 1.0, 16), (7.9, 3.5, 16), (8.0, 3.5, 14), (8.0, 3.75, 16), (0.0, 1.0, 4)],
)
def test_it_is_lent_after_eight_seconds_unless_it_is_a_sixteenth_only(
    elapsed: float, wanted: float, steps: int
) -> None:
    request, loans = busy_and_quiet(elapsed=elapsed), {"a": Loan(16, 0, borrows=False)}
    _, after = lend(request, floats(wanted * MIB, 2 * MIB), floats(0, 0), column(0, 0), Options(), loans)
    assert after["a"].steps == steps


def test_five_cycles_of_a_second_are_one_of_five() -> None:
    bonus = 0
    for _ in range(5):
        bonus = loaned(bonus, elapsed=1.0)
    assert bonus == pytest.approx(loaned(0, elapsed=5.0), abs=5)


def test_a_bonus_does_not_freeze_above_its_grant() -> None:
    # A full loan of 1.5 times the cap, of which a gate after smoothing would keep 1.3 for ever.
    bonus = loaned(MIB, grant=0.0)
    for _ in range(3):
        assert bonus == 0
        bonus = loaned(bonus, grant=0.0)


def test_borrowing_begins_at_the_threshold_and_ends_a_tenth_below() -> None:
    def borrows(part: float, before: bool, **options: float) -> bool:
        loans = {"a": Loan(16, 0, borrows=False), "b": Loan(32, 0, borrows=before)}
        request = busy_and_quiet(elapsed=5.0)
        wanted = floats(MIB, 4 * MIB)
        return lend(request, wanted, floats(0, part * 2 * MIB), column(0, 0), Options(**options), loans)[1]["b"].borrows

    assert [borrows(part, before=False) for part in (0.89, 0.9)] == [False, True]
    assert [borrows(part, before=True) for part in (0.79, 0.81)] == [False, True]
    assert [borrows(part, before=False, borrow_threshold_ratio=0.5) for part in (0.49, 0.5)] == [False, True]


def test_demand_counts_in_sixteenths_and_one_less_is_no_change() -> None:
    def steps(wanted: float, before: int) -> int:
        request = ask(Tracker(1600, [1.0]))
        return lend(request, floats(wanted), floats(0), column(0), Options(), {"a": Loan(before, 0, borrows=False)})[1][
            "a"
        ].steps

    assert [steps(wanted, 50) for wanted in (0, 1, 100, 101, 1600, 6400, 9999)] == [0, 1, 1, 2, 16, 64, 64]
    assert [steps(401, before) for before in (4, 5, 6, 7)] == [5, 5, 6, 5]


def test_two_borrowers_share_by_priority_times_need() -> None:
    quiet = Tracker(4 * MIB, [2.6 * MIB])
    request = ask(
        quiet,
        Tracker(2 * MIB, [1.0], more={"priority": 3}),
        Tracker(2 * MIB, [1.0]),
    )
    cap, _ = lend(
        request, floats(3.2 * MIB, 4 * MIB, 4 * MIB), floats(0, 2 * MIB, 2 * MIB), column(0, 0, 0), Options(), {}
    )
    lent = 4 * MIB - 13 * MIB // 4
    assert cap.tolist() == [13 * MIB // 4, 2 * MIB + lent * 3 // 4, 2 * MIB + lent // 4]
    cap, _ = lend(
        request, floats(3.2 * MIB, 4 * MIB, 3 * MIB), floats(0, 2 * MIB, 2 * MIB), column(0, 0, 0), Options(), {}
    )
    assert (cap[1] - 2 * MIB) / (cap[2] - 2 * MIB) == pytest.approx(6, rel=1e-4)


def test_where_needs_exceed_the_link_guarantees_come_first() -> None:
    def caps(**more: Any) -> list[int]:
        request = ask(Tracker(800, [1.0], more={"priority": 9}), Tracker(800, [1.0], more=more), link=1000)
        return lend(request, floats(800, 800), floats(800, 800), column(800, 200), Options(), {})[0].tolist()

    assert caps() == [800, 200]
    assert caps(guaranteed=500) == [500, 500]
    assert caps(outside=300) == [690, 310]
    assert caps(priority=9) == [500, 500]


# Adaptive


def level_of(state: AdaptiveState) -> tuple[int, float]:
    course = state.courses["a"]
    return course.level, course.age


def test_adaptive_costs_what_torrents_use() -> None:
    request = ask(Tracker(1_000_000, [25_000] * 8 + [100_000] * 2, " " * 8 + "pp"))
    answer, state = strategy("adaptive", Options()).allocate(request, None)
    # The cap, less what eight use, for two; the others have a quarter and 4096 above their rates, on the grid.
    assert answer.limit.tolist() == [int(round_up(column(35_346))[0])] * 8 + [400_000] * 2
    assert level_of(state) == (400_000, 0.0)
    assert answer.limit.sum() > 1_000_000


def test_adaptive_never_hands_out_more_than_may_be_left_behind() -> None:
    request = ask(Tracker(1_000_000, [90_000] * 8 + [50_000], " " * 8 + "p"))
    assert first("adaptive", request).limit.tolist() == [int(round_up(column(116_596))[0])] * 8 + [280_000]
    bound = first("adaptive", request, max_overcommit=1.1).limit
    assert bound.sum() == 1_100_000
    check("adaptive", request, replace(first("adaptive", request, max_overcommit=1.1)), overcommit=1.1)
    assert first("adaptive", request, max_overcommit=1.0).limit.sum() == 1_000_000
    assert overcommit_of(strategy("adaptive", Options(max_overcommit=1.2)), Options(max_overcommit=1.1)) == 1.1
    assert overcommit_of(strategy("equal", Options()), Options()) == 1.0


@pytest.mark.parametrize("said", [float("nan"), float("inf")])
def test_an_overcommit_that_is_no_number_is_refused(said: float) -> None:
    one = load_strategy("adaptive", Options())
    one.overcommit = said
    with pytest.raises(ValueError, match="overcommit must be a number"):
        overcommit_of(one, Options())


def test_a_download_that_presses_on_its_floor_lifts_no_level() -> None:
    request = ask(Tracker(60_000, [20_000, *[5_000] * 10], "p" * 11, floor=[20_480] + [0] * 10))
    answer, state = strategy("adaptive", Options()).allocate(request, None)
    assert answer.limit.tolist() == [20_480] + [3_952] * 10
    assert level_of(state) == (3_952, 0.0)


def test_a_level_is_raised_after_a_while_and_lowered_at_once() -> None:
    one = strategy("adaptive", Options())
    busy = ask(Tracker(1_000_000, [250_000] * 4, "pppp"), elapsed=1.0)
    _, state = one.allocate(busy, None)
    assert level_of(state) == (250_000, 0.0)
    quiet = replace(busy, pressing=np.array([True, True, False, False]), rate=floats(250e3, 250e3, 1e3, 1e3))
    levels = []
    for _ in range(4):
        _, state = one.allocate(quiet, state)
        levels.append(level_of(state))
    assert [age for _, age in levels] == [1.0, 2.0, 0.0, 1.0]
    assert [level for level, _ in levels[:2]] == [250_000] * 2
    assert 499_000 < levels[2][0] <= 500_000 * (1 + CARRY_MOST)
    _, state = one.allocate(busy, state)
    assert level_of(state)[0] <= 250_000 * (1 + CARRY_MOST)
    assert level_of(state)[1] == 0.0


@pytest.mark.parametrize(
    ("pressing", "part", "seconds"),
    [
        (2, 0.5, 3.5),  # no sooner than a limit is in force
        (20, 0.52, 3.5),
        (40, 0.52, 6.0),  # 0.2 and 40 * 0.07 s' worth, of which 0.46 are missed in a second
        (40, 0.78, 15.0),
        (80, 0.78, 29.0),
        (40, 0.95, 99.0),
        (40, 0.985, None),
    ],
)
def test_a_level_is_raised_when_what_it_missed_is_worth_the_writes(
    pressing: int, part: float, seconds: float | None
) -> None:
    """Half of the torrents stop to press and use so much that `part` of the cap is let through."""
    one = strategy("adaptive", Options())
    busy = ask(Tracker(1_000_000, [500_000 / pressing] * pressing * 2, "p" * pressing * 2), elapsed=0.5)
    half = np.arange(2 * pressing) < pressing
    _, state = one.allocate(busy, None)
    used = np.where(half, 500_000, 1_000_000 * part - 500_000) / pressing
    less = replace(busy, pressing=half, rate=used)
    state = replace(state, courses={"a": state.courses["a"]._replace(carry=0.0)})
    first_level, waited = level_of(state)[0], 0.0
    while level_of(state)[0] == first_level and waited < 600:
        waited += 0.5
        _, state = one.allocate(less, state)
        state = replace(state, courses={"a": state.courses["a"]._replace(carry=0.0)})
    if seconds is None:
        assert waited == 600
    else:
        assert waited == pytest.approx(seconds, rel=0.1, abs=0.5)  # whole bytes make a part of a hundredth
        assert waited >= RAISE_AFTER


def test_a_level_that_lets_a_little_too_much_through_is_lowered_in_the_end() -> None:
    one = strategy("adaptive", Options())
    busy = ask(Tracker(1_000_000, [250_000] * 4, "pppp"), elapsed=1.5)
    _, state = one.allocate(busy, None)
    state = replace(state, courses={"a": state.courses["a"]._replace(level=258_000)})
    levels = []
    for _ in range(20):
        # What goes through is known to be 1.032 of the cap: below the part from which a level falls at once.
        _, state = one.allocate(replace(busy, rate=np.full(4, 258_000.0)), state)
        levels.append(level_of(state)[0])
    assert levels[0] == 258_000
    assert levels[-1] < 250_000


def test_what_is_carried_over_is_bounded_and_torrents_at_bounds_of_their_own_miss_nothing() -> None:
    one = strategy("adaptive", Options())
    owned = ask(Tracker(1_000_000, [100_000], "p", ceiling=[100_000]), elapsed=5.0)
    state = None
    for _ in range(30):
        _, state = one.allocate(owned, state)
    assert state.courses["a"].carry == pytest.approx(0.0, abs=0.001)
    assert state.courses["a"].missed == 0.0
    idle = ask(Tracker(1_000_000, [100_000, 100_000], "pp"), elapsed=5.0)
    for _ in range(30):
        _, state = one.allocate(idle, state)
    assert state.courses["a"].carry == pytest.approx(-CARRY_MOST / CARRY_GAIN)


def test_what_went_through_above_or_below_the_cap_is_carried_over() -> None:
    one = strategy("adaptive", Options())

    def level_after(rate: float, pressing: str = "pp", seconds: int = 60) -> float:
        """The level of a new torrent's arrival, after some time of using the cap by that part."""
        used = ask(Tracker(1_000_000, [rate / 2 * 1_000_000] * 2, pressing), elapsed=1.0)
        state = None
        for _ in range(seconds):
            _, state = one.allocate(used, state)
        state = replace(state, courses={"a": state.courses["a"]._replace(level=0)})  # let it be set anew
        return level_of(one.allocate(replace(used, elapsed=0.0, pressing=np.ones(2, np.bool_)), state)[1])[0] / 500_000

    assert level_after(1.0) == 1.0
    # What was too much, or half of what was too little, and no more than a twentieth.
    assert level_after(1.04) == pytest.approx(0.96, abs=0.001)
    assert level_after(0.96) == pytest.approx(1.02, abs=0.001)
    assert level_after(1.04, seconds=10) == pytest.approx(1 - 0.04 * (1 - np.exp(-1)), abs=0.002)
    assert level_after(1.5) == 1 - CARRY_MOST
    assert level_after(9.0) == 1 - CARRY_MOST
    assert level_after(0.5) == 1 + CARRY_MOST
    # Nobody pressed: there was no use to be missed.
    assert level_after(0.5, "") == 1.0
    assert level_after(1.5, "") == 1 - CARRY_MOST


def test_within_cap_lowers_what_is_not_used_and_then_the_highest() -> None:
    few = ask(
        Tracker(1000, [1.0] * 3 + [0.0], "ppp", floor=[0, 0, 0, 5], more={"outside": 100}), Tracker(10, [1.0, 0.0], "p")
    )
    given = Allocation(column(500, 700, 90, 60, 9, 1), column(1000, 10), column(1, 1))
    lowered = within_cap(few, given)
    # The download sleeps: of what it holds, its floor is needed (and the byte that a limit has at least).
    assert lowered.tolist() == [402, 402, 90, 6, 9, 1]
    assert promised_rate(few, lowered).tolist() == [900, 10]
    free = ask(Tracker(1000, [100.0, 100.0, 100.0, 600.0], "   p"))
    given = Allocation(column(300, 200, 126, 600), column(1000), column(1))
    # 126 each are used, headroom included; what is left above that is shared.
    assert within_cap(free, given).tolist() == [137, 137, 126, 600]
    given = replace(given, effective_cap=column(900))
    assert within_cap(free, given).tolist() == [126, 126, 126, 522]
    # Nobody is left to take a loan back: what it has borrowed is not counted.
    assert within_cap(free, replace(given, effective_cap=column(1500))).tolist() == [137, 137, 126, 600]
    assert within_cap(free, replace(given, limit=column(100, 100, 126, 600), effective_cap=column(1000))).tolist() == [
        100,
        100,
        126,
        600,
    ]


# What is refused


@pytest.mark.parametrize(
    ("column_", "value"),
    [
        ("rate", floats(np.nan, 1)),
        ("rate", floats(np.inf, 1)),
        ("rate", floats(-1, 1)),
        ("rate", floats(1)),
        ("rate", column(1, 1)),
        ("rate", floats(2.0**53 * 2, 1)),
        ("base_cap", column(0)),
        ("base_cap", column(MAX_CAP + 1)),
        ("base_cap", floats(5)),
        ("base_cap", column(5, 5)),
        ("outside", column(-1)),
        ("wakeups", column(0)),
        ("priority", column(0)),
        ("priority", column(11)),
        ("guaranteed", column(-1)),
        ("hard", column(1)),
        ("may_lend", column(1)),
        ("may_borrow", [True]),
        ("leechers", column(-1, 0)),
        ("awake", column(1, 1)),
        ("pressing", np.ones(3, np.bool_)),
        ("pressing", np.ones((2, 1), np.bool_)),
        ("pressing", np.array([False, True])),
        ("current", column(-1, 0)),
        ("floor", column(-1, 0)),
        ("floor", column(MAX_LIMIT + 1, 0)),
        ("ceiling", column(0, 1)),
        ("ceiling", column(1, MAX_LIMIT + 1)),
        ("infohash", column(1, 2)),
        ("start", column(1)),
        ("start", column(0, 1)),
        ("link", 0),
        ("link", MAX_CAP + 1),
        ("elapsed", -1.0),
        ("elapsed", float("nan")),
        ("elapsed", float("inf")),
    ],
)
def test_a_request_that_no_strategy_could_make_sense_of_is_refused(column_: str, value: object) -> None:
    good = ask(Tracker(1000, [1.0, 0.0]))
    check_request(good)
    with pytest.raises(ValueError, match=rf"^(column )?{column_}\b"):
        replace(good, **{column_: value})


@pytest.mark.parametrize("start", [column(0, 0), column(0, 2), column(1, 0), column(0, -1)])
def test_trackers_without_torrents_are_refused(start: np.ndarray) -> None:
    good = ask(Tracker(1000, [1.0]), Tracker(1000, [1.0]))
    with pytest.raises(ValueError, match="column start must increase strictly from 0"):
        replace(good, start=start)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limit": column(500, 501, 1)}, "limits that add up to 1002 B/s, over its cap of 1000 B/s"),
        ({"limit": column(500, 500, 1)}, "limits that add up to 1001 B/s"),
        ({"limit": column(0, 1, 1)}, "limits from 0 to 1, outside of 1 to 2147483646"),
        ({"limit": column(1, 1, 2**31 - 1)}, "outside of 1 to 2147483646"),
        ({"limit": floats(1, 1, 1)}, "limit as float64 of shape"),
        ({"limit": column(1, 1)}, "limit as int64 of shape"),
        ({"effective_cap": column(1001)}, "effective caps that add up to 1001 B/s, more than the 1000 B/s there are"),
        ({"effective_cap": column(1, 1)}, "effective_cap as int64"),
        ({"standing": column()}, "standing as int64"),
        ({"limit": column(2, 1000, 1), "conflicts": {"a": "why"}}, "limits that add up to"),
    ],
)
def test_an_answer_that_breaks_a_guarantee_is_refused(change: dict[str, Any], words: str) -> None:
    request = ask(Tracker(1000, [1.0, 1.0, 0.0]))
    good = Allocation(column(500, 499, 1), column(1000), column(1))
    check("mine", request, good)
    check("mine", request, replace(good, limit=column(750, 749, 1)), overcommit=1.5)
    with pytest.raises(
        BadAllocationError, match=rf"strategy 'mine' is refused, nothing was written: it gave .*{words}"
    ):
        check("mine", request, replace(good, **change))


def test_a_hard_cap_is_not_exceeded_and_the_link_not_either() -> None:
    request = ask(Tracker(500, [1.0], more={"hard": 1}), Tracker(500, [1.0]), link=900)
    good = Allocation(column(500, 400), column(500, 400), column(1, 1))
    check("mine", request, good)
    with pytest.raises(BadAllocationError, match="tracker 'a' 501 B/s, more than its own cap"):
        check("mine", request, replace(good, effective_cap=column(501, 399)))
    with pytest.raises(BadAllocationError, match="more than the 900 B/s"):
        check("mine", request, replace(good, effective_cap=column(500, 401)))


def test_a_strategy_that_nobody_offers_is_named() -> None:
    with pytest.raises(UnknownStrategyError, match=r"no strategy 'fair' is installed; there are .*adaptive.*equal"):
        load_strategy("fair", Options())


# In a closed loop without noise: a torrent uploads what it wants or what its limit lets through, whichever is less


@dataclass
class Loop:
    """Torrents that want `wanted`; pressing as `qguard.demand` has it: from 0.90 of the limit, until 0.70."""

    name: str
    caps: list[int]
    wanted: list[list[float]]
    limit: np.ndarray | None = None
    state: Any = None
    written: list[int] = field(default_factory=list)
    used: list[list[float]] = field(default_factory=list)

    def run(self, cycles: int, interval: float = 5.0) -> None:
        want = floats(*(w for part in self.wanted for w in part))
        one = strategy(self.name, Options())
        pressing = np.zeros(len(want), np.bool_)
        for _ in range(cycles):
            limit = np.full(len(want), np.inf) if self.limit is None else self.limit.astype(float)
            rate = np.minimum(want, limit)
            pressing = rate >= np.where(pressing, 0.70, 0.90) * limit
            request = ask(*(Tracker(cap, part) for cap, part in zip(self.caps, self.wanted, strict=True)))
            current = np.zeros(len(want), np.int64) if self.limit is None else self.limit
            request = replace(
                request, rate=rate, pressing=pressing, current=current, elapsed=interval if self.state else 0.0
            )
            answer, self.state = one.allocate(request, self.state)
            self.written.append(int((answer.limit != current).sum()))
            self.limit = answer.limit
            self.used.append(request.total(np.minimum(want, answer.limit)).tolist())


MORE = [[1e5] * 2 + [1e6] * 3, [3e5] * 8, [2e4 * n for n in range(1, 20)], [1e6, 1e3, 1e3], [1e6]]


@pytest.mark.parametrize("wanted", [[5e4] * 4, [9e5], *MORE])
def test_adaptive_fills_the_cap_within_a_few_cycles_and_then_writes_nothing(wanted: list[float]) -> None:
    loop = Loop("adaptive", [1_000_000], [wanted])
    loop.run(100)
    # A level may miss some of its goal for a while; where less is wanted than the cap, all of that is let through.
    used = [used for (used,) in loop.used]
    by_then = 10
    assert min(used[by_then:]) >= (1 - 2 * NEARLY) * min(1_000_000, sum(wanted))
    assert max(used) <= 1_000_000 * (1 + CARRY_MOST)
    assert sum(used[by_then:]) / len(used[by_then:]) <= 1_000_000
    assert loop.written[60:] == [0] * 40


@pytest.mark.parametrize("name", ["equal", "weighted", "soft"])
@pytest.mark.parametrize("wanted", [[[1e5] * 2 + [1e6] * 3, [5e4] * 3], [[3e5] * 8, [1e3]], [[1e6] * 3, [1e6] * 3]])
def test_limits_settle_within_the_caps(name: str, wanted: list[list[float]]) -> None:
    loop = Loop(name, [1_000_000, 1_000_000], wanted)
    loop.run(30)
    assert loop.written[-20:] == [0] * 20
    assert all(sum(used) <= 2_000_000 for used in loop.used)


def test_soft_lends_what_is_not_used() -> None:
    loop = Loop("soft", [1_000_000, 1_000_000], [[1e6] * 4, [1e5, 1e5]])
    loop.run(30)
    assert loop.used[-1] == [pytest.approx(1_500_000, rel=0.02), 200_000]
    loop.wanted[1] = [6e5, 6e5]
    loop.run(8)
    assert loop.used[-1] == [pytest.approx(1_000_000, rel=0.02), pytest.approx(1_000_000, rel=0.02)]

"""What lies just on a border, and what only shows with several trackers. Rates, caps and limits are in bytes/s."""

import re
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from allocators.base import (
    MAX_CAP,
    MAX_LIMIT,
    Allocation,
    BadAllocationError,
    Options,
    Request,
    UnknownStrategyError,
    check,
    installed_strategies,
    load_strategy,
    overcommit_of,
    promised_rate,
    settles,
    steers_rates,
)
from allocators.budget import make_budget, share
from allocators.equal import Equal
from allocators.grid import on_grid, round_down, round_up
from allocators.lending import Loan, lend
from allocators.link import caps_within_link
from allocators.memory import REACHED_IN, Memory, recall
from allocators.scoring import scores, weights
from allocators.settle import near, settle
from allocators.soft import Soft
from allocators.standing import DEFAULT_WAKEUPS, standing_limit, wakeups_of
from allocators.waterfill import MAX_WEIGHT, waterfill
from allocators.weighted import Weighted
from tests.unit.test_allocators import Tracker, ask, column, floats

MIB = 2**20
ANY = MAX_LIMIT
TOP = 2**42
"""The largest cap, as a number: what a border is compared with must not move with it."""


def refusal(request: Request, given: Allocation, **more: Any) -> str:
    """Why an answer is refused, "" when it is not."""
    try:
        check("mine", request, given, **more)
    except BadAllocationError as error:
        return str(error).removeprefix("strategy 'mine' is refused, nothing was written: it gave ")
    return ""


# Which strategies there are


def test_a_program_of_another_distribution_is_no_strategy() -> None:
    # `pytest` is an entry point, of a group that has nothing to do with strategies.
    with pytest.raises(UnknownStrategyError, match="no strategy 'pytest' is installed"):
        load_strategy("pytest", Options())


def test_all_installed_strategies_are_named_where_one_is_missing() -> None:
    names = re.escape(", ".join(installed_strategies()))
    with pytest.raises(UnknownStrategyError, match=rf"there are {names}$"):
        load_strategy("fair", Options())


def test_a_strategy_may_not_say_that_limits_add_up_to_no_number() -> None:
    one = load_strategy("equal", Options())
    one.overcommit = float("nan")
    with pytest.raises(ValueError, match=r"^a strategy's overcommit must be a number, not nan$"):
        overcommit_of(one, Options())


def test_a_strategy_settles_that_says_so() -> None:
    class Silent:
        pass

    one = Silent()
    assert settles(one) is False
    one.settles = True
    assert settles(one) is True
    ours = ("adaptive", "equal", "soft", "weighted")
    assert [settles(load_strategy(name, Options())) for name in ours] == [True, False, True, True]


def test_a_strategy_steers_rates_that_says_how_far_its_limits_may_add_up() -> None:
    options = Options(max_overcommit=1.0)
    assert steers_rates(load_strategy("adaptive", options))  # be it by nothing
    assert not steers_rates(load_strategy("soft", options))


# Which requests and answers are refused


def test_caps_and_the_link_go_up_to_four_tebibytes_per_second() -> None:
    request = ask(Tracker(TOP, [1.0], more={"outside": TOP, "guaranteed": TOP}), link=TOP)
    assert request.base_cap.tolist() == [TOP]
    with pytest.raises(ValueError, match=f"^column base_cap must be from 1 to {TOP}, not {TOP + 1}"):
        replace(request, base_cap=column(TOP + 1))
    with pytest.raises(ValueError, match=f"^link must be from 1 to {TOP}, not {TOP + 1}"):
        replace(request, link=TOP + 1)


def test_torrents_without_a_tracker_are_refused() -> None:
    nobody, one = ask(), ask(Tracker(1000, [1.0]))
    columns = ("infohash", "rate", "leechers", "awake", "pressing", "current", "floor", "ceiling")
    with pytest.raises(ValueError, match=r"^column start: every torrent needs a tracker, and every tracker a torrent$"):
        replace(nobody, **{name: getattr(one, name) for name in columns})


def test_a_column_that_is_no_array_is_named_by_its_type() -> None:
    request = ask(Tracker(1000, [1.0, 1.0]))
    given = Allocation(column(500, 500), column(1000), column(1))
    assert refusal(request, replace(given, limit=[500, 500])) == "limit as list; 2 values of int64 are wanted"


def test_the_largest_limit_and_the_largest_cap_may_be_given() -> None:
    request = ask(Tracker(MAX_CAP, [1.0]))
    given = Allocation(column(MAX_LIMIT), column(MAX_CAP), column(1))
    assert refusal(request, given) == ""
    assert refusal(request, replace(given, limit=column(MAX_LIMIT + 1))).startswith("limits from 2147483647")


def test_a_torrent_may_hold_its_own_upper_bound_and_no_byte_more() -> None:
    request = ask(Tracker(1000, [1.0, 1.0], ceiling=[MAX_LIMIT, 300]))
    given = Allocation(column(700, 300), column(1000), column(1))
    assert refusal(request, given) == ""
    above = replace(given, limit=column(699, 301))
    assert refusal(request, above) == "a limit of 301 B/s to a torrent that may hold 300 B/s at most"


@pytest.mark.parametrize("cap", [-1, MAX_CAP + 1])
def test_an_effective_cap_outside_of_what_can_be_added_up_is_refused(cap: int) -> None:
    request = ask(Tracker(1000, [1.0]), Tracker(1000, [1.0]))
    given = Allocation(column(1, 1), column(cap, 1000), column(1, 1), {"a": "why"})
    assert refusal(request, given).startswith("effective caps from ")


def test_a_cap_may_be_lent_down_to_nothing() -> None:
    request = ask(Tracker(1000, [1.0]), Tracker(1000, [1.0]))
    given = Allocation(column(1, 1500), column(0, 1500), column(1, 1), {"a": "why"})
    assert refusal(request, given) == ""


def test_standing_limits_of_k_torrents_take_a_twentieth_of_the_cap_at_most() -> None:
    # 5 % of 96,000 B/s are 100 B/s for each of 48 torrents.
    request = ask(Tracker(96_000, [1.0, 0.0]), Tracker(96_000, [1.0, 0.0]))
    given = Allocation(column(1, 1, 1, 1), column(96_000, 96_000), column(1, 100))
    assert refusal(request, given) == ""
    words = "outside of 1 to 5% of its cap for 48 torrents"
    for standing in (101, 0, -5):
        found = refusal(request, replace(given, standing=column(1, standing)))
        assert found == f"tracker 'b' a standing limit of {standing} B/s, {words}"


def test_the_smallest_standing_limit_is_good_for_any_cap() -> None:
    request = ask(Tracker(10, [1.0, 0.0]))
    given = Allocation(column(1, 1), column(10), column(1))
    assert refusal(request, given) == ""
    assert refusal(request, replace(given, standing=column(2))).startswith("tracker 'a' a standing limit of 2 B/s")


def test_what_is_used_outside_comes_off_the_cap() -> None:
    request = ask(Tracker(1000, [1.0, 1.0], more={"outside": 100}))
    given = Allocation(column(450, 450), column(1000), column(1))
    assert refusal(request, given) == ""
    assert refusal(request, replace(given, limit=column(450, 451))) == (
        "tracker 'a' limits that add up to 901 B/s, over its cap of 900 B/s"
    )
    assert refusal(request, replace(given, limit=column(700, 700)), overcommit=1.5) == ""
    assert refusal(request, replace(given, limit=column(700, 701)), overcommit=1.5) == (
        "tracker 'a' limits that add up to 1401 B/s, over its cap of 1400 B/s"
    )


def three_trackers() -> tuple[Request, Allocation]:
    """The cap of the one in the middle is too small: two awake torrents, a sleeper, and a download that sleeps."""
    request = ask(
        Tracker(96_000, [1.0, 0.0]),
        Tracker(96_000, [1.0, 1.0, 0.0, 0.0], floor=[0, 0, 0, 1], more={"outside": 96_000}),
        Tracker(96_000, [1.0, 0.0]),
    )
    limit = column(500, 64, 1, 1, 64, 700, 500, 64)
    return request, Allocation(limit, request.base_cap, column(64, 64, 64), {"b": "why"})


def test_a_cap_that_cannot_be_kept_is_accepted_from_a_strategy_that_says_so() -> None:
    request, given = three_trackers()
    # The awake ones hold 1 B/s, the sleeper its standing limit; what the download holds is its own matter.
    assert refusal(request, given) == ""
    over = "tracker 'b' limits that add up to 766 B/s, over its cap of 0 B/s"
    assert refusal(request, replace(given, conflicts={})) == over
    assert refusal(request, replace(given, conflicts={"a": "why", "c": "why"})) == over


@pytest.mark.parametrize(("row", "limit"), [(2, 2), (3, 2), (4, 65)])
def test_where_a_cap_cannot_be_kept_nobody_may_hold_more_than_the_least(row: int, limit: int) -> None:
    request, given = three_trackers()
    more = given.limit.copy()
    more[row] = limit
    assert refusal(request, replace(given, limit=more)).startswith("tracker 'b' limits that add up to 7")


def test_a_tracker_promises_what_is_awake_its_downloads_and_its_k_highest_sleepers() -> None:
    request = ask(
        Tracker(1000, [1.0, 0.0, 0.0, 0.0, 0.0], floor=[0, 1, 0, 0, 0], more={"wakeups": 2}),
        Tracker(1000, [0.0, 0.0, 0.0, 2.0], floor=[0, 0, 0, 9], more={"wakeups": 1}),
        Tracker(1000, [0.0, 0.0], more={"wakeups": 3}),
    )
    limit = column(1000, 200, 4, 8, 6, 30, 50, 40, 900, 11, 22)
    assert promised_rate(request, limit).tolist() == [1000 + 200 + 8 + 6, 900 + 50, 33]


# The kernel

Split = tuple[int, list[int], list[int], list[int], list[int]]

SPLITS: dict[str, Split] = {
    # Cap, weights, lower bounds, upper bounds, what each gets. Where bounds lie like this, the level is hard to find.
    "a steep piece above the level at which the search begins": (
        8 + 10 * 2**20, [1, 2**20, 2**18], [0, 9 * 2**20, 0], [ANY, 10 * 2**20, 0], [10, 10 * 2**20 - 2, 0],
    ),
    "a steep piece below it": (
        3 * 2**20 + 2**40 + 2, [1, 2**20, 1], [0, 2**40 - 2**20, 3 * 2**20 + 1], [TOP, 2**40, TOP],
        [2**20, 2**40 - 2**20 + 1, 3 * 2**20 + 1],
    ),
    "a little one": (1530, [1, 100, 52], [0, 1500, 0], [ANY, 1520, 0], [16, 1514, 0]),
    "a little one below": (3060, [1, 100, 1], [0, 1500, 1530], [ANY, 1520, ANY], [16, 1514, 1530]),
    "a steep piece of 20 B/s far away": (
        2 * 2**40 + 21, [1, 1, 2**20], [0, 2**40, 0], [TOP, 2**40 + 20, 1], [2**40 + 10, 2**40 + 10, 1],
    ),
    "one of 64 B/s, of greater weight": (
        2**11 * 10**9 + 65, [2**10, 2**10, 2**20], [0, 2**10 * 10**9, 0], [TOP, 2**10 * 10**9 + 64, 1],
        [2**10 * 10**9 + 32, 2**10 * 10**9 + 32, 1],
    ),
    "nothing but two narrow pieces": (
        1 + 2**20 + 128 + 2**19 + 64, [2**20, 2**10, 2**9], [0, 2**20, 2**19], [1, 2**20 + 256, 2**19 + 128],
        [1, 2**20 + 128, 2**19 + 64],
    ),
    "a long way without any piece": (
        10 + 2**30 + 2**31 + 600, [1, 1, 2], [0, 2**30, 2**31], [10, TOP, TOP], [10, 2**30 + 200, 2**31 + 400],
    ),
    "a byte for the lower of two that have theirs": (
        1602, [1, 1, 1, 1000], [0, 900, 700, 0], [1, 1000, 800, 0], [1, 900, 701, 0],
    ),
    "a cap of a few bytes for great weights": (
        150, [1, MAX_WEIGHT, MAX_WEIGHT // 2], [0, 0, 0], [ANY, 226, 226], [1, 100, 49],
    ),
    "a level between two that pass their bounds at once": (47, [2, 5, 11], [0, 17, 24], [25, 21, 28], [5, 17, 25]),
    "one at each bound": (74, [3, 3, 2, 4], [9, 27, 15, 10], [12, 10_000, 39, 21], [12, 27, 15, 20]),
    "large numbers": (
        185_789_777, [21, 178_419, 256, 4], [0, 129_489, 3, 19_023], [197_786, 349_811, 464_843_465, 38_181_169],
        [197_786, 349_811, 182_392_301, 2_849_879],
    ),
    "one just at its lower bound gets none of the last bytes": (10, [2, 1, 1], [5, 0, 0], [ANY] * 3, [5, 3, 2]),
    "nor one above it": (
        5_336_073, [3, 36_884, 24_890], [783, 7948, 788_211], [152_592_126, 3_621_138, 115_879_234],
        [783, 3_185_594, 2_149_696],
    ),
    "one just at its upper bound has it": (6, [3, 4, 1], [0, 0, 1], [ANY, 3, ANY], [2, 3, 1]),
    "none of the last bytes goes above an upper bound": (
        17, [2, 2, 4, 1, 3, 3], [0, 0, 0, 0, 0, 6], [1, 3, 1, 5, 5, 8], [1, 3, 1, 2, 4, 6],
    ),
    "to a quarter of a byte": (7, [12, 5, 10, 8, 8], [0, 1, 0, 0, 0], [2, 2, 3, 0, 10_000], [2, 2, 2, 0, 1]),
    "a quarter of a byte off": (20, [4, 5, 7], [5, 4, 0], [10_000, 6, 10_000], [5, 6, 9]),
}  # fmt: skip


def split(*problems: Split) -> list[list[int]]:
    """What the torrents of each tracker get, all trackers at once."""
    sizes = np.array([len(weight) for _, weight, *_ in problems])
    cap = column(*(cap for cap, *_ in problems))
    rows = [column(*(value for problem in problems for value in problem[at])) for at in (1, 2, 3)]
    x = waterfill(cap, np.cumsum(sizes) - sizes, *rows)
    return [part.tolist() for part in np.split(x, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("name", SPLITS)
def test_thirty_passes_find_any_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst that was met in thousands of problems made to be hard took 25: halving a bracket would take 40."""
    monkeypatch.setattr("allocators.waterfill._MAX_PASSES", 30)
    assert split(SPLITS[name]) == [SPLITS[name][-1]]


def test_what_a_tracker_gets_does_not_depend_on_the_others() -> None:
    problems = list(SPLITS.values())
    assert split(*problems) == [wanted for *_, wanted in problems]
    for problem in problems:
        assert split(problem, problems[0], problem)[::2] == [problem[-1]] * 2
        assert split(problems[1], problem)[1] == problem[-1]
        assert split(problem, SPLITS["one at each bound"])[0] == problem[-1]


def test_the_last_bytes_go_to_the_first_of_each_tracker() -> None:
    three, six = (3, [1] * 2, [0] * 2, [9] * 2, [2, 1]), (6, [1] * 7, [0] * 7, [9] * 7, [1] * 6 + [0])
    assert split(three, six, three, six) == [three[-1], six[-1], three[-1], six[-1]]


def test_of_nothing_whole_numbers_are_given() -> None:
    assert waterfill(column(), column(), column(), column(), column()).dtype == np.int64


@pytest.mark.parametrize("name", ["cap", "start", "weight", "lo", "hi"])
def test_a_column_that_is_not_of_whole_numbers_is_named(name: str) -> None:
    good = dict.fromkeys(("cap", "weight", "lo", "hi"), column(1)) | {"start": column(0)}
    with pytest.raises(ValueError, match=rf"^{name} must be a column of int64, not float64 of shape \(1,\)$"):
        waterfill(**(good | {name: floats(1)}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cap": column(1, 1)}, "cap and start, and weight, lo and hi, must be of the same length"),
        (dict.fromkeys(("weight", "lo", "hi"), column()), "every tracker needs at least one row"),
        ({"start": column(1)}, "start must increase strictly from 0 and stay below the number of rows"),
        ({"lo": column(2)}, "bounds must satisfy 0 <= lo <= hi, caps must not be negative"),
    ],
)
def test_the_kernel_says_what_is_wrong(change: dict[str, np.ndarray], words: str) -> None:
    good = dict.fromkeys(("cap", "weight", "lo", "hi"), column(1)) | {"start": column(0)}
    with pytest.raises(ValueError, match=f"^{words}$"):
        waterfill(**(good | change))


# Standing limits and budgets


def test_at_first_48_torrents_may_wake_at_once() -> None:
    # 48 times 4096 B/s are 5 % of this cap, to the byte.
    cap = 48 * 4096 * 20
    assert standing_limit(column(cap, cap - 1), np.full(2, DEFAULT_WAKEUPS)).tolist() == [4096, 2048]


def test_no_more_torrents_may_wake_than_sleep_in_powers_of_two() -> None:
    sleepers = column(0, 1, 2, 3, 4, 5, 32, 33, 48, 3000)
    k = wakeups_of(np.full(10, 48), sleepers, np.zeros(10, np.int64))
    assert (k.tolist(), k.dtype) == ([1, 1, 2, 4, 4, 8, 32, 48, 48, 48], np.int64)


def test_room_for_wake_ups_stays_while_it_is_enough_and_less_than_four_times_too_large() -> None:
    sleepers, before = column(8, 9, 8, 5, 4, 3, 0, 40), column(8, 8, 16, 16, 16, 8, 2, 48)
    assert wakeups_of(np.full(8, 48), sleepers, before).tolist() == [8, 16, 16, 16, 4, 8, 2, 48]


def test_room_for_wake_ups_stays_where_it_is_just_enough() -> None:
    # It was bounded by 50 wake-ups at once, and by now there have been 100.
    assert wakeups_of(column(100, 100), column(50, 51), column(50, 50)).tolist() == [50, 64]


def test_a_sleeping_download_holds_its_floor_however_small() -> None:
    request = ask(Tracker(MIB, [5.0, 0.0, 0.0, 0.0], floor=[0, 0, 1, 20_480]))
    budget = make_budget(request, request.base_cap, request.base_cap)
    assert budget.sharing.tolist() == [True, False, True, True]
    assert (budget.lo.tolist(), budget.hi.tolist()) == ([1, 0, 1, 20_480], [MAX_LIMIT, 0, 1, 20_480])
    # One sleeper is left, at 1024 B/s.
    assert budget.total.tolist() == [MIB - 1024]


def test_sleepers_and_torrents_that_may_hold_a_byte_take_nothing_from_the_others() -> None:
    request = ask(Tracker(MIB, [0.0, 0.0, 5.0, 5.0], ceiling=[MAX_LIMIT, MAX_LIMIT, 1, MAX_LIMIT]))
    budget = make_budget(request, request.base_cap, request.base_cap)
    limit = share(request, budget, np.ones(4, np.int64), budget.lo, [budget.hi])
    assert limit.tolist() == [1024, 1024, 1, MIB - 2 * 1024 - 1]


def test_what_is_shared_is_all_there_is_or_the_same_to_equal_torrents() -> None:
    request = ask(Tracker(1_000_002, [5.0] * 4, ceiling=[*[MAX_LIMIT] * 3, 10]))
    budget = make_budget(request, request.base_cap, request.base_cap)
    one = np.ones(4, np.int64)
    assert share(request, budget, one, budget.lo, [budget.hi]).tolist() == [333_331, 333_331, 333_330, 10]
    assert share(request, budget, one, budget.lo, [budget.hi], even=True).tolist() == [333_330] * 3 + [10]


def test_last_bytes_can_be_left_over_however_few_have_something_to_be_decided() -> None:
    bounds = {True: column(0, 0, 0, 5, 5), False: column(0, 0, 0, 5, 5, 5, 5)}
    for lo in bounds.values():
        hi = np.where(lo == 0, ANY, 5)
        cap, one = lo.sum() + column(11), np.ones_like(lo)
        assert waterfill(cap, column(0), one, lo, hi).tolist() == [4, 4, 3, *lo[3:]]
        assert waterfill(cap, column(0), one, lo, hi, even=True).tolist() == [3, 3, 3, *lo[3:]]


# Lending


def after_lending(request: Request, wanted: np.ndarray, **options: Any) -> tuple[list[int], dict[str, Loan]]:
    """At first, where all use up what they have, and sleepers need nothing."""
    taken, nobody_sleeps = request.base_cap.astype(float), np.zeros(len(request.tracker), np.int64)
    cap, loans = lend(request, wanted, taken, nobody_sleeps, Options(**options), {})
    return cap.tolist(), loans


def test_a_new_tracker_that_wants_nothing_is_taken_to_want_nothing() -> None:
    _, loans = after_lending(ask(Tracker(1600, [1.0]), Tracker(1600, [1.0])), floats(0, 100))
    assert (loans["a"].steps, loans["b"].steps) == (0, 1)


def test_who_needs_no_more_than_its_own_cap_borrows_not_a_byte() -> None:
    request = ask(Tracker(1600, [1.0]), Tracker(1600, [1.0]), Tracker(1600, [1.0]))
    cap, loans = after_lending(request, floats(100, 1600, 3200))
    assert [loans[tracker].bonus for tracker in "abc"] == [0, 0, 800]
    assert cap == [800, 1600, 2400]


def test_needs_are_told_apart_to_a_hundred_thousandth_of_the_largest() -> None:
    """Weights go up to 2^20, a tenth of which is left for needs, since priorities go up to 10."""
    part = 1000
    step = 25 * 104_857  # 2^20 // 10 = 104,857
    request = ask(Tracker(104_860 * 100, [0.0]), *(Tracker(cap, [1.0]) for cap in (16 * step, 1600, 1600)))
    needs = np.array([-float(request.base_cap[0]), 104_857 * part, 1.6 * part, 0.4 * part])
    cap, loans = after_lending(request, request.base_cap + needs, max_borrow_fraction=1.0)
    # What is less than half a part counts as one.
    assert [loans[tracker].bonus for tracker in "bcd"] == [104_857 * 100, 2 * 100, 1 * 100]
    assert cap == [0, 16 * step + 104_857 * 100, 1800, 1700]


def grown(bonus: int, *, grant: int, elapsed: float = 5.0, small: float = 0.25) -> int:
    """What B borrows next of a grant, halfway up in 5 s; raises by less than `small` times its 1,600 B/s are small."""
    request = ask(Tracker(1600, [1.0]), Tracker(1600, [1.0]), elapsed=elapsed)
    options = Options(smoothing_alpha=0.5, min_effective_delta=small, max_borrow_fraction=1.0)
    before = {"a": Loan(0, 0, borrows=False), "b": Loan(32, bonus, borrows=True)}
    _, loans = lend(request, floats(1600 - grant, 3200), floats(0, 1600), column(0, 0), options, before)
    return loans["b"].bonus


def test_what_is_left_to_a_grant_is_given_at_once_when_it_is_less_than_a_small_raise() -> None:
    assert grown(0, grant=800) == 400  # 400 B/s are left, which is no less than 400
    assert grown(0, grant=700) == 700


def test_without_time_nothing_grows() -> None:
    assert grown(0, grant=300, elapsed=0.0) == 0
    assert grown(100, grant=300, elapsed=0.0) == 100


def test_who_borrows_be_it_a_byte_gets_no_small_raise() -> None:
    assert grown(1, grant=400) == 1
    assert grown(0, grant=300) == 300
    assert grown(100, grant=500) == 500  # a raise by 400 B/s is none of less than 400, and then 200 are left


def test_borrowing_ends_just_a_tenth_below_the_threshold() -> None:
    def borrows(part: float) -> bool:
        request = ask(Tracker(1000, [1.0]), Tracker(1000, [1.0]))
        before = {tracker: Loan(16, 0, borrows=True) for tracker in "ab"}
        loans = lend(request, floats(0, 2000), floats(0, part * 1000), column(0, 0), Options(), before)[1]
        return loans["b"].borrows

    # It begins at 0.9 of the cap.
    assert [borrows(part) for part in (0.798, 0.802)] == [False, True]


# The line above the caps


def test_a_byte_from_outside_or_to_a_sleeping_download_makes_a_tracker_busy() -> None:
    asleep = Tracker(1000, [0.0])
    awake = Tracker(1000, [1.0])

    def caps(*trackers: Tracker) -> list[int]:
        return caps_within_link(ask(*trackers, link=1000))[0].tolist()

    # Of a tracker that sleeps, a twentieth of its half of the link stays for its sleepers.
    assert caps(awake, asleep) == [975, 25]
    assert caps(awake, replace(asleep, floor=[1])) == [500, 500]
    assert caps(awake, replace(asleep, more={"outside": 1})) == [500, 500]


# What is remembered


def remembered(infohash: np.ndarray, limit: np.ndarray, claim: np.ndarray, score: np.ndarray) -> Memory:
    """A memory in which everything else is 0."""
    known = {"infohash": infohash, "limit": limit, "claim": claim, "score": score}
    others = {field.name for field in fields(Memory)} - known.keys()
    return Memory(**known, **dict.fromkeys(others, np.zeros(len(infohash))))


def test_memory_of_torrents_in_any_order_and_of_new_ones_anywhere() -> None:
    request = ask(Tracker(MIB, [1.0] * 9))
    rows = np.array([6, 1, 4, 7, 3])  # neither the first nor the last is remembered
    kept = remembered(request.infohash[rows], 10 * rows, 1.0 * rows, 0.1 * rows)
    known = recall(request, kept)
    assert known.infohash is request.infohash
    assert known.limit.tolist() == [0, 10, 0, 30, 40, 0, 60, 70, 0]
    assert known.claim.tolist() == [0, 1, 0, 3, 4, 0, 6, 7, 0]
    assert known.score.tolist() == pytest.approx([0, 0.1, 0, 0.3, 0.4, 0, 0.6, 0.7, 0])


def test_a_rate_follows_a_limit_in_time_and_that_of_new_torrents_is_what_it_is() -> None:
    request = ask(Tracker(MIB, [1.0] * 3), elapsed=REACHED_IN * np.log(2))
    rows = np.array([2, 0])
    kept = remembered(request.infohash[rows], column(800, 100), floats(0, 0), floats(0, 0))
    half_way = recall(request, replace(kept, reached=floats(400, 300)))
    assert half_way.reached.tolist() == [pytest.approx(200), 1, pytest.approx(600)]


def test_without_memory_there_are_the_limits_of_the_client_and_of_no_torrents_there_are_none() -> None:
    request = ask(Tracker(MIB, [1.0] * 2, current=[5, 6]))
    nobody = remembered(request.infohash[:0], column(), floats(), floats())
    for memory, limit in ((None, [5, 6]), (nobody, [0, 0])):
        known = recall(request, memory)
        assert known.infohash.tolist() == request.infohash.tolist()
        assert (known.limit.tolist(), known.claim.tolist(), known.score.tolist()) == (limit, [0, 0], [0, 0])
        assert known.reached.tolist() == (limit if memory is None else [1, 1])


def test_where_nothing_says_what_was_reached_it_is_the_limit() -> None:
    request = ask(Tracker(MIB, [1.0] * 2), elapsed=1.0)
    known = recall(request, Memory(request.infohash, column(800, 100), floats(0, 0), floats(0, 0)))
    assert known.reached.tolist() == [800, 100]


def test_weighted_goes_on_remembering_what_rates_can_have_reached() -> None:
    request = ask(Tracker(MIB, [1e5] * 2))
    held = remembered(request.infohash, column(1000, 2000), floats(0, 0), floats(0, 0))
    _, after = Weighted(Options()).allocate(request, replace(held, reached=floats(300, 4000)))
    assert after is not None
    assert after.reached.tolist() == [300, 4000]


def test_soft_remembers_what_torrents_may_want() -> None:
    one = Soft(Options())
    request = ask(Tracker(MIB, [1e5, 4e5, 4e5], " pp", leechers=[20, 20, 20]))
    given, state = one.allocate(request, None)
    # A third less is no change yet: it may be about to upload more again. Nothing is known to the client so far.
    fewer = replace(request, rate=floats(7e4, 4e5, 4e5), elapsed=5.0)
    again, after = one.allocate(fewer, state)
    assert again.limit.tolist() == given.limit.tolist()
    assert after.torrents.claim[0] == state.torrents.claim[0] == 1e5 * 1.25 + 4096
    assert one.allocate(fewer, None)[0].limit[0] < given.limit[0]


# Scores


def test_a_score_a_quarter_away_from_what_it_was_stays() -> None:
    request = ask(Tracker(MIB, [0.25 * MIB, 0.0, 0.26 * MIB], leechers=[20, 15, 20], awake=[1, 1, 1]))
    score = scores(request, Options(leechers_weight=0.5), np.full(3, 0.5))
    assert score.tolist() == pytest.approx([0.5, 0.5, 0.63])


def test_of_many_equals_the_first_are_weighed_one_by_one() -> None:
    # 120 of one score, 40 of a worse one; enough for a sort that keeps no order to lose it.
    request = ask(Tracker(MIB, [1.0] * 160))
    score = np.where(np.arange(160) % 4 == 3, 0.25, 0.5)
    weight = weights(request, score, 60)
    better = np.flatnonzero(score == 0.5)
    assert weight[better[:60]].tolist() == [32_768] * 60
    rest = np.delete(weight, better[:60])
    assert rest.tolist() == [(60 * 32_768 + 40 * 16_384 + 50) // 100] * 100


def test_one_torrent_beyond_the_most_managed_keeps_its_weight() -> None:
    request = ask(Tracker(MIB, [1.0, 1.0]), Tracker(MIB, [1.0]))
    assert weights(request, floats(1.0, 0.5, 0.0), 1).tolist() == [65_536, 32_768, 1]


def test_of_equals_the_first_are_weighed_alone() -> None:
    request = ask(Tracker(MIB, [1.0] * 8, "p" * 8))
    score = floats(0.25, 0.5, 1.0, 0.5, 0.5, 1.0, 0.5, 0.25)
    # Two better ones and the first two of four equals; the others have the mean of 0.5, 0.5, 0.25 and 0.25.
    assert weights(request, score, 4).tolist() == [24_576, 32_768, 65_536, 32_768, 24_576, 65_536, 24_576, 24_576]


# Shares


def test_a_tracker_whose_torrents_all_have_bounds_of_their_own_takes_nothing_from_the_next() -> None:
    request = ask(
        Tracker(1000, [1.0, 1.0], ceiling=[300, 400]),
        Tracker(1000, [0.0]),
        Tracker(1000, [1.0, 1.0, 1.0], floor=[2, 0, 0]),
    )
    given, _ = Equal(Options()).allocate(request, None)
    assert given.limit.tolist() == [300, 400, 1, 334, 333, 333]


def weighted_limits(request: Request, **options: Any) -> list[int]:
    limits: list[int] = Weighted(Options(**options)).allocate(request, None)[0].limit.tolist()
    return limits


def test_one_that_wants_little_is_not_squeezed_below_the_least_while_others_want_more() -> None:
    request = ask(Tracker(1_000_000, [1000.0, 5e5, 5e5], " pp", leechers=[20, 20, 20]))
    assert weighted_limits(request)[0] == 10_240
    assert weighted_limits(request, min_torrent_upload_speed=0)[0] == 1000 * 1.25 + 4096


def test_the_last_byte_goes_to_nobody_at_a_floor() -> None:
    request = ask(Tracker(1_000_001, [1000.0, 5e5, 5e5], "ppp", leechers=[0, 20, 20]))
    assert weighted_limits(request) == [10_240, 494_881, 494_880]


def test_one_that_wants_more_than_the_largest_share_gets_that_while_others_press() -> None:
    # By score it would have nearly all, and it may want 691,596 B/s.
    request = ask(Tracker(1_000_000, [550_000.0, 1.0, 1.0], " pp", leechers=[20, 0, 0]))
    assert weighted_limits(request) == [600_000, 200_000, 200_000]


def test_a_limit_just_a_tenth_away_from_the_share_is_near() -> None:
    assert near(np.full(4, 1000), column(899, 900, 1100, 1101)).tolist() == [False, True, True, False]


def test_each_tracker_gives_up_as_much_as_its_own_limits_are_too_much() -> None:
    share, held = np.full(9, 1000), column(1010, 1020, 1030, 1010, 1020, 1030, 1010, 1020, 1030)
    start, keep = column(0, 3, 6), np.ones(9, np.bool_)
    settled = settle(share, held, keep, start, column(3060, 3030, 3010))
    # The first fits; the others have to give up 30 and 50, those furthest above their share first.
    assert settled.tolist() == [1010, 1020, 1030, 1010, 1020, 1000, 1010, 1000, 1000]


def test_of_values_that_lost_alike_the_smaller_one_is_lifted_first() -> None:
    """On the grid are 23 and 25, 69 and 73, 972 and 1020."""

    def lifted(*some: int) -> list[int]:
        share = column(*some, *[1020] * 7)
        x = on_grid(share, column(share.sum()), column(0), np.zeros_like(share), np.full_like(share, ANY))
        assert x[len(some) :].tolist() == [1020] * 7
        return x[: len(some)].tolist()

    assert lifted(72, 24) == [71, 25]  # both a 24th
    # What all of a value lost together counts: 1 of 47 is less than 28 of 1000, and 2 of 71 are more.
    assert lifted(24, 23, 1000) == [23, 23, 1001]
    assert lifted(24, 24, 23, 1000) == [25, 25, 25, 996]


def test_of_many_values_that_lost_nothing_the_smallest_ones_are_lifted_first() -> None:
    share = np.unique(round_down(np.arange(1000, 20_000)))
    assert len(share) > 60  # sorted by another method than a few would be
    above = round_up(share + 1)
    share[50] += 1  # but for one, which comes first
    total = share.sum() + column((above - share)[[50, *range(20)]].sum() + 7)
    for order in (slice(None), slice(None, None, -1)):
        x = on_grid(share[order], total, column(0), np.zeros_like(share), np.full_like(share, ANY))
        assert x[order].tolist() == [*above[:20], share[20] + 7, *share[21:50], above[50], *share[51:]]


def test_floors_lose_nothing_and_have_less_of_a_step_to_go() -> None:
    """On the grid are 972, 1020 and 1071."""
    share, lo = column(*[990] * 9, 1030), column(*[990] * 9, 0)
    assert on_grid(share, column(share.sum()), column(0), lo, np.full_like(share, ANY)).tolist() == share.tolist()
    share, lo = column(*[1000] * 9, 1030), column(*[980] * 4, *[0] * 6)
    need = 4 * 40 + 5 * 48 + 51
    total = column(4 * 980 + 5 * 972 + 1020 + need)
    for less in (0, 1):
        x = on_grid(share, total - less, column(0), lo, np.full_like(share, ANY))
        assert x.tolist() == [*[1020] * 9, 1071 - less]

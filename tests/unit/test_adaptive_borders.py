"""`adaptive` just on its borders: the control law, headroom, and the limits of a clean stop.

Rates, caps and limits are in bytes/s. What a constant of the control law means is said in numbers, once for each, under
"The control law"; all other tests take the constants from the module.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from allocators.adaptive import NEARLY, RAISE_AFTER, Adaptive, AdaptiveState, Course, within_cap
from allocators.base import MAX_LIMIT, Allocation, Options, Request, check, promised_rate
from allocators.claims import HEADROOM, LEAST_ROOM, TIGHT
from allocators.grid import round_up
from allocators.memory import Memory
from tests.unit.test_allocators import Tracker, ask, column, floats

CAP = 1_000_000
STANDING = 1024
"""What a sleeper of a tracker with this cap holds."""

NEVER_SET = Course(level=0, age=0.0, missed=0.0, carry=0.0)
LONG_AGO = NEVER_SET._replace(age=1e6)


def asked(
    request: Request, course: Course | None = None, held: np.ndarray | None = None, **options: Any
) -> tuple[list[int], Course]:
    """The limits, and what is remembered of the first tracker.

    Args:
        request: the torrents.
        course: what was remembered of it; None at first.
        held: what its torrents were given before; None where that is not known.
        options: settings other than the defaults.
    """
    none = np.zeros(len(request.infohash))
    torrents = None if held is None else Memory(request.infohash, held, none, none, held.astype(float))
    courses = {} if course is None else {"a": course}
    given, state = Adaptive(Options(**options)).allocate(request, AdaptiveState(torrents, courses=courses))
    return given.limit.tolist(), state.courses["a"]


def headroom(rate: float) -> int:
    """What a torrent is given that uploads so much and does not press."""
    return int(round_up(column(np.ceil(rate * HEADROOM + LEAST_ROOM)))[0])


def one_that_presses(**more: Any) -> Request:
    """One torrent, which uploads its whole cap: the level is the goal."""
    return ask(Tracker(CAP, [CAP], "p"), **more)


def letting_through(part: float, course: Course, pressing: int = 1, **more: Any) -> tuple[Request, Course]:
    """That many torrents press, and a level that lets `part` of the cap through."""
    request = ask(Tracker(CAP, [CAP / pressing] * pressing, "p" * pressing), **more)
    return request, course._replace(level=round(part * CAP / pressing))


# The control law


@pytest.mark.parametrize(
    ("pressing", "part", "lowered"),
    [
        (1, 1.0, False),
        (1, 1.07, False),
        (1, 1.0701, True),
        (1, 1.2, True),
        (8, 1.069, False),
        (9, 1.054, False),
        (9, 1.056, True),
    ],
)
def test_a_level_is_lowered_at_once_when_it_lets_too_much_through(pressing: int, part: float, lowered: bool) -> None:
    """Less is too much where many press: their bursts even out."""
    request, course = letting_through(part, NEVER_SET, pressing=pressing)
    _, after = asked(request, course)
    assert after.level == (CAP // pressing if lowered else course.level)


@pytest.mark.parametrize(("age", "raised"), [(2.999, False), (3.0, True)])
def test_a_level_is_not_raised_before_three_seconds_have_passed(age: float, raised: bool) -> None:
    request, course = letting_through(0.5, NEVER_SET._replace(age=age, missed=1e6))
    _, after = asked(request, course)
    assert after.level == (CAP if raised else course.level)


@pytest.mark.parametrize(
    ("before", "part", "missed"),
    [
        (0.1, 0.9, 0.9),
        (0.1, 0.979, 0.11),
        (0.1, 0.98, 0.1),
        (0.1, 0.99, 0.1),
        (0.1, 1.0, 0.0),
        (0.1, 1.03, 0.0),
        (-0.1, 1.02, -0.1),
        (-0.1, 1.021, -0.11),
        (-0.1, 1.03, -0.2),
        (-0.1, 0.9, 0.7),
        (-0.1, 0.99, 0.0),
    ],
)
def test_what_a_level_misses_or_exceeds_adds_up_but_for_a_fiftieth_of_the_cap(
    before: float, part: float, missed: float
) -> None:
    """In seconds' worth of the cap, over ten seconds. What was missed makes up for no excess, nor the other way."""
    request, course = letting_through(part, NEVER_SET._replace(missed=before), pressing=100)
    _, after = asked(replace(request, elapsed=10.0), course)
    assert after.level == course.level
    assert after.missed == pytest.approx(missed, abs=1e-9)


@pytest.mark.parametrize(("missed", "raised"), [(0.899, False), (0.901, True)])
def test_ten_torrents_that_press_are_rewritten_when_nine_tenths_of_a_second_of_the_cap_were_missed(
    missed: float, raised: bool
) -> None:
    request, course = letting_through(0.5, LONG_AGO._replace(missed=missed), pressing=10)
    _, after = asked(request, course)
    assert after.level == (CAP // 10 if raised else course.level)


def test_just_as_much_is_enough() -> None:
    request, course = letting_through(0.5, LONG_AGO._replace(missed=0.07 + 0.2))
    assert asked(request, course)[1].level == CAP


@pytest.mark.parametrize(("missed", "raised"), [(0.419, False), (0.421, True)])
def test_or_will_have_been_by_the_next_request(missed: float, raised: bool) -> None:
    """0.24 s' worth were missed since the last one, 0.5 s ago."""
    request, course = letting_through(0.5, LONG_AGO._replace(missed=missed), pressing=10)
    _, after = asked(replace(request, elapsed=0.5), course)
    assert after.level == (CAP // 10 if raised else course.level)


@pytest.mark.parametrize(("missed", "lowered"), [(-0.699, False), (-0.701, True)])
def test_sooner_when_seven_tenths_of_a_second_of_the_cap_were_too_much(missed: float, lowered: bool) -> None:
    request, course = letting_through(1.03, NEVER_SET._replace(missed=missed), pressing=10)
    _, after = asked(request, course)
    assert after.level == (CAP // 10 if lowered else course.level)


@pytest.mark.parametrize(("missed", "lowered"), [(-0.0199, False), (-0.02, True)])
def test_where_nobody_presses_a_level_is_lowered_when_a_fiftieth_of_a_second_was_too_much(
    missed: float, lowered: bool
) -> None:
    request = ask(Tracker(CAP, [515_000] * 2))
    _, after = asked(request, NEVER_SET._replace(level=600_000, missed=missed))
    assert after.level == (CAP // 2 if lowered else 600_000)


def test_use_above_the_cap_is_remembered_over_ten_seconds() -> None:
    assert asked(ask(Tracker(CAP, [1.05 * CAP], "p"), elapsed=10.0))[1].carry == pytest.approx(0.05 * (1 - 1 / np.e))
    course = NEVER_SET._replace(carry=0.05)
    assert asked(ask(Tracker(CAP, [CAP], "p"), elapsed=10.0), course)[1].carry == pytest.approx(0.05 / np.e)


@pytest.mark.parametrize(("carry", "goal"), [(0.02, 0.98), (-0.02, 1.01), (0.05, 0.95), (-0.08, 1.04)])
def test_what_was_too_much_and_half_of_what_was_too_little_moves_the_goal(carry: float, goal: float) -> None:
    _, after = asked(one_that_presses(), NEVER_SET._replace(carry=carry))
    assert (after.level, after.carry) == (round(goal * CAP), carry)


def test_the_goal_moves_by_a_twentieth_at_most_and_no_more_than_that_is_carried_over() -> None:
    # As after a long time without limits, or without use.
    flood, idle = ask(Tracker(CAP, [9 * CAP], "p"), elapsed=1e6), ask(Tracker(CAP, [1.0], "p"), elapsed=1e6)
    for request, carry, goal in ((flood, 0.05, 0.95), (idle, -0.1, 1.05)):
        _, after = asked(request)
        assert after.level == round(goal * CAP)
        assert after.carry == pytest.approx(carry)


# What went through


def test_one_torrent_that_presses_is_enough_to_miss_use() -> None:
    quiet = Tracker(CAP, [CAP * 0.48, CAP * 0.49], "")
    assert asked(ask(quiet, elapsed=1e6))[1].carry == 0.0
    assert asked(ask(replace(quiet, pressing="p"), elapsed=1e6))[1].carry == pytest.approx(-0.03)


def test_but_not_one_that_presses_on_an_upper_bound_of_its_own() -> None:
    owned = ask(Tracker(CAP, [CAP * 0.48, CAP * 0.49], "p", ceiling=[480_000, MAX_LIMIT]), elapsed=1e6)
    assert asked(owned, held=column(479_999, CAP))[1].carry == pytest.approx(-0.03)
    assert asked(owned, held=column(480_000, CAP))[1].carry == 0.0


def test_of_a_cap_of_one_byte_that_byte_is_all() -> None:
    request = ask(Tracker(1, [1.0], "p"), elapsed=1e6)
    limit, course = asked(request, LONG_AGO._replace(level=2))
    assert (limit, course) == ([1], Course(level=1, age=0.0, missed=0.0, carry=0.0))


# Levels


def test_what_is_used_outside_comes_off_the_level() -> None:
    request = ask(Tracker(CAP, [CAP / 2, CAP / 2], "pp", more={"outside": 200_000}))
    assert asked(request)[0] == [400_000, 400_000]


def test_where_nothing_is_left_of_a_cap_everybody_is_held_even_who_wants_a_byte() -> None:
    # Without a level it would be held by nothing as soon as there is something left again.
    assert asked(ask(Tracker(1000, [1.0], more={"outside": 1000})))[1].level == 1


def test_where_nobody_needs_to_be_held_there_is_no_level() -> None:
    assert asked(ask(Tracker(CAP, [CAP / 4] * 2)))[1].level == MAX_LIMIT
    assert asked(ask(Tracker(CAP, [CAP / 4] * 2, "pp", ceiling=[CAP // 4, CAP // 2])))[1].level == MAX_LIMIT


def test_nobody_is_counted_with_more_than_it_may_hold() -> None:
    # Its owner has just lowered its limit, and its rate is not down yet.
    request = ask(Tracker(CAP, [300_000, CAP / 2], " p", ceiling=[100_000, MAX_LIMIT]))
    limit, course = asked(request)
    assert (limit, course.level) == ([100_000, 900_000], 900_000)


def test_one_that_presses_gets_no_more_than_its_own_upper_bound() -> None:
    request = ask(Tracker(CAP, [CAP / 2] * 2, "pp", ceiling=[100_000, MAX_LIMIT]))
    assert asked(request)[0] == [100_000, 900_000]


def test_a_download_costs_what_it_uses_and_may_use_its_floor() -> None:
    request = ask(Tracker(CAP, [100.0, 200_000, CAP / 2], "  p", floor=[20_480, 0, 0]))
    limit, course = asked(request)
    assert course.level == CAP - 100 - 200_000
    assert limit == [20_480, headroom(200_000), course.level]


def test_a_download_that_sleeps_costs_nothing() -> None:
    request = ask(Tracker(CAP, [100.0, CAP / 2], " p", floor=[20_480, 0], awake=[0, 1]))
    limit, course = asked(request)
    assert (limit, course.level) == ([20_480, CAP], CAP)


def test_floors_that_just_fit_the_cap_are_kept() -> None:
    def limits(cap: int) -> list[int]:
        return asked(ask(Tracker(cap, [cap / 2] * 2, "pp", floor=[30_000, 0])))[0]

    assert limits(30_001) == [30_000, 1]
    assert limits(30_000) == [15_000, 15_000]


def test_no_byte_more_than_the_cap_is_let_through_at_first() -> None:
    # Shares are 6 and 5 B/s, and the second one has its 5 as a floor: at a level of 6 both would have 6.
    limit, course = asked(ask(Tracker(11, [5.0, 5.0], "pp", floor=[0, 5])))
    assert (limit, course.level) == ([5, 5], 5)


def test_the_smallest_level_is_one_like_any_other() -> None:
    request = ask(Tracker(1000, [1.0, 1.0], "pp"))
    assert asked(request, NEVER_SET._replace(level=1, age=RAISE_AFTER / 2))[1].level == 1
    assert asked(request, LONG_AGO._replace(level=1, missed=1e6))[1].level == 500


def test_a_new_level_has_missed_nothing_and_is_of_this_moment() -> None:
    request, course = letting_through(0.5, LONG_AGO._replace(missed=1e6), elapsed=1.0)
    level, age, missed, _ = asked(replace(request, rate=floats(CAP)), course)[1]
    assert (level, age, missed) == (CAP, 0.0, 0.0)
    level, age, missed, _ = asked(replace(request, rate=floats(CAP)))[1]
    assert (level, age, missed) == (CAP, 0.0, 0.0)


def test_a_level_that_stays_grows_old_and_goes_on_missing() -> None:
    request, course = letting_through(0.5, NEVER_SET._replace(age=0.5, missed=0.25), elapsed=1.0)
    level, age, missed, _ = asked(replace(request, rate=floats(CAP)), course)[1]
    assert (level, age) == (CAP // 2, 1.5)
    assert missed == pytest.approx(0.25 + 0.5 - NEARLY)


# Headroom


@pytest.mark.parametrize(("rate", "limit"), [(1.0, STANDING), (819.2, STANDING), (820.0, headroom(820))])
def test_who_uploads_next_to_nothing_gets_what_it_will_hold_asleep(rate: float, limit: int) -> None:
    assert 819.2 * HEADROOM == STANDING
    request = ask(Tracker(CAP, [rate, CAP / 10, CAP / 2], "  p"))
    assert asked(request)[0][:2] == [limit, headroom(CAP / 10)]


def test_of_a_cap_that_is_just_large_enough_headroom_is_given_too() -> None:
    limit, _ = asked(ask(Tracker(4, [1.0] * 4)), max_overcommit=1.5)
    assert limit == [2, 2, 1, 1]
    limit, _ = asked(ask(Tracker(3, [1.0] * 4)), max_overcommit=1.5)
    assert limit == [1, 1, 1, 1]


def test_what_sleeps_and_what_is_outside_count_within_what_may_be_left_behind() -> None:
    request = ask(Tracker(CAP, [80_000] * 8 + [50_000, 0, 0], " " * 8 + "p", more={"outside": 100_000}))
    options = Options(max_overcommit=1.1)
    given, _ = Adaptive(options).allocate(request, None)
    check("adaptive", request, given, overcommit=1.1)
    assert promised_rate(request, given.limit).tolist() == [1_100_000 - 100_000]
    assert given.limit[-2:].tolist() == [STANDING] * 2


def kept_of(*held: int, outside: int = 0, **options: Any) -> list[int]:
    """What three torrents get that upload 10,000 B/s each, do not press, and hold that much.

    Ten more press. The level is 97,000 B/s, less a tenth of what is used outside.
    """
    request = ask(Tracker(CAP, [10_000] * 3 + [40_000] * 10, "   " + "p" * 10, more={"outside": outside}))
    limit, course = asked(request, held=column(*held, *[12_000] * 10), **options)
    level = 97_000 - outside // 10
    assert (course.level, limit[3:]) == (level, [level] * 10)
    return limit[:3]


def test_what_a_torrent_holds_and_does_not_use_stays_from_a_fifth_above_its_rate_up_to_the_level() -> None:
    assert TIGHT * 10_000 == 12_000
    new = headroom(10_000)
    assert kept_of(12_000, 11_999, 97_000) == [12_000, new, 97_000]
    assert kept_of(12_000, 0, 97_001) == [12_000, new, new]


def test_what_is_kept_without_use_stays_within_an_eighth_of_the_cap_and_a_hundredth_for_each_torrent() -> None:
    new = headroom(10_000)
    room = int(1.25 * CAP) - 10 * 97_000  # 1.12 and 13 torrents' 0.01
    last = room - 2 * 97_000
    assert kept_of(97_000, 97_000, last) == [97_000, 97_000, last]
    assert kept_of(97_000, 97_000, last + 1) == [new, 97_000, last + 1]  # furthest above what it would get


def test_however_many_share_no_more_than_135_hundredths_of_the_cap_are_kept() -> None:
    """26 torrents by a hundredth would be 1.38."""
    request, level = ask(Tracker(CAP, [10_000] * 16 + [40_000] * 10, " " * 16 + "p" * 10)), 84_000
    room = int(1.35 * CAP) - 10 * level - 15 * 30_000
    for last, kept in ((room, [30_000] * 15 + [room]), (room + 1, [30_000] * 15 + [headroom(10_000)])):
        limit, course = asked(request, held=column(*[30_000] * 15, last, *[12_000] * 10))
        assert (course.level, limit) == (level, kept + [level] * 10)


def test_what_is_kept_without_use_stays_within_what_may_be_left_behind() -> None:
    new = headroom(10_000)
    room = int(1.2 * CAP) - 10 * 97_000
    last = room - 2 * 97_000
    assert kept_of(97_000, 97_000, last, max_overcommit=1.2) == [97_000, 97_000, last]
    assert kept_of(97_000, 97_000, last + 1, max_overcommit=1.2) == [new, 97_000, last + 1]


def test_what_is_used_outside_takes_room_from_what_is_kept_without_use() -> None:
    new = headroom(10_000)
    room = int(1.1 * CAP) - 100_000 - 10 * 87_000
    last = room - 87_000 - 12_000
    assert kept_of(87_000, 12_000, last, outside=100_000, max_overcommit=1.1) == [87_000, 12_000, last]
    assert kept_of(87_000, 12_000, last + 1, outside=100_000, max_overcommit=1.1) == [new, 12_000, last + 1]


def test_less_than_a_downloads_floor_does_not_stay() -> None:
    request = ask(Tracker(CAP, [10_000, CAP / 2], " p", floor=[20_480, 0]))
    assert asked(request, held=column(15_000, 0))[0] == [20_480, CAP - 10_000]


def test_adaptive_remembers_what_torrents_may_want() -> None:
    one = Adaptive(Options())
    request = ask(Tracker(CAP, [100_000, 400_000, 400_000], " pp"))
    given, state = one.allocate(request, None)
    # A third less is no change yet. The client does not say what it holds: it may be outside of the rollout.
    fewer = replace(request, rate=floats(70_000, 400_000, 400_000), elapsed=1.0)
    again, after = one.allocate(fewer, state)
    assert again.limit[0] == given.limit[0] == headroom(100_000)
    assert after.torrents is not None
    assert after.torrents.claim[0] == 100_000 * HEADROOM + LEAST_ROOM
    assert one.allocate(fewer, None)[0].limit[0] == headroom(70_000)


def test_adaptive_goes_on_remembering_what_rates_can_have_reached() -> None:
    request = ask(Tracker(CAP, [100_000, 400_000], " p"))
    none = floats(0, 0)
    held = Memory(request.infohash, column(130_000, 900_000), none, none, floats(110_000, 500_000))
    _, state = Adaptive(Options()).allocate(request, AdaptiveState(held))
    assert state.torrents is not None
    assert state.torrents.reached.tolist() == [110_000, 500_000]


# A clean stop


def stopped(request: Request, limit: list[int]) -> list[int]:
    cap = request.base_cap
    lowered: list[int] = within_cap(request, Allocation(column(*limit), cap, np.full(len(cap), 60))).tolist()
    return lowered


def test_at_a_stop_as_many_sleepers_count_as_may_wake_and_keep_what_they_hold() -> None:
    request = ask(Tracker(1000, [1.0, 1.0, 0.0, 0.0, 0.0], more={"wakeups": 2}))
    assert stopped(request, [700, 600, 60, 50, 40]) == [445, 445, 60, 50, 40]


def test_at_a_stop_a_sleeping_download_is_lowered_like_any_other() -> None:
    request = ask(Tracker(100, [1.0, 0.0, 0.0], floor=[0, 1, 0], more={"wakeups": 1}))
    assert stopped(request, [500, 60, 40]) == [30, 30, 40]


def test_at_a_stop_everybody_keeps_a_byte_where_there_is_none() -> None:
    request = ask(Tracker(1000, [1.0, 1.0], more={"outside": 1000}))
    assert stopped(request, [700, 600]) == [1, 1]
    request = ask(Tracker(1000, [1.0, 1.0], more={"outside": 2000}))
    assert stopped(request, [700, 600]) == [1, 1]


def test_at_a_stop_the_highest_are_lowered_and_sleepers_are_not() -> None:
    request = ask(Tracker(1000, [1.0, 1.0, 0.0], "pp"))
    assert stopped(request, [700, 600, 60]) == [470, 470, 60]


def test_at_a_stop_what_was_borrowed_does_not_count() -> None:
    request = ask(Tracker(1000, [1.0, 1.0], "pp"), Tracker(1000, [1.0, 1.0], "pp"))
    given = Allocation(column(700, 700, 300, 300), column(1400, 600), column(60, 60))
    assert within_cap(request, given).tolist() == [500, 500, 300, 300]


def test_one_that_uses_less_than_the_level_is_not_held_where_those_that_press_are_at_their_floors() -> None:
    request = ask(Tracker(30_000, [20_480, 9_520], "p ", floor=[20_480, 0]))
    given, _ = Adaptive(Options()).allocate(request, None)
    assert given.limit.tolist() == [20_480, 16_469]

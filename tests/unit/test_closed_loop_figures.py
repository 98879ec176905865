"""The figures of the closed loop, from demands, counted bytes and writes."""

from itertools import groupby

import numpy as np
import pytest

from allocators.waterfill import waterfill
from scripts.closed_loop.drives import why_not
from scripts.closed_loop.figures import (
    STEP,
    Write,
    back_after,
    by_second,
    changes,
    excess,
    ideal,
    judge,
    limited_after,
    limits_over_time,
    pressed_seconds,
    schedule,
    steps,
    writes_per_minute,
)
from scripts.closed_loop.results import FORMS, missed, seeds, table
from scripts.closed_loop.scenes import CAP as SCENE_CAP
from scripts.closed_loop.scenes import LEVELS, SCENES, STRATEGIES, WARM_UP

CAP = 1_000.0


def column(*demands: float) -> np.ndarray:
    return np.array(demands, float)[:, None]


def constant(*rows: float, seconds: int = 80) -> np.ndarray:
    return np.repeat(column(*rows), round(seconds / STEP), axis=1)


@pytest.mark.parametrize(
    ("demands", "shares"),
    [
        ((2000, 2000, 2000, 2000), (250, 250, 250, 250)),
        ((0, 100, 700, 900), (0, 100, 450, 450)),
        ((900, 0, 100, 700), (450, 0, 100, 450)),
        ((0, 100, 400, 500), (0, 100, 400, 500)),
        ((0, 100, 400, 300), (0, 100, 400, 300)),
        ((0, 0, 0, 5000), (0, 0, 0, 1000)),
        ((0, 0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_ideal_by_hand(demands: tuple[float, ...], shares: tuple[float, ...]) -> None:
    assert ideal(column(*demands), CAP)[:, 0].tolist() == list(shares)


def test_ideal_is_what_the_kernel_of_the_strategies_finds() -> None:
    demand = SCENES["fast"].demand(7, 30)
    found = ideal(demand, 2_000_000)
    for step in changes(demand):
        want = demand[:, step].astype(np.int64)
        one = np.ones_like(want)
        exact = waterfill(np.array([2_000_000]), np.array([0]), one, 0 * one, want)
        assert np.abs(found[:, step] - exact).max() <= 1
        assert found[:, step].sum() == pytest.approx(min(2_000_000, want.sum()))


@pytest.mark.parametrize("name", ["slow", "fast"])
def test_schedule_holds_its_levels_for_as_long_as_the_scene_says(name: str) -> None:
    scene = SCENES[name]
    hold = scene.groups[0].wants.hold
    demand = scene.demand(3, 600)
    assert demand.shape == (12, (WARM_UP + 600) * 10)
    assert set(demand.ravel()) == set(LEVELS)
    runs = [[len(list(run)) * STEP for _, run in groupby(row)] for row in demand]
    assert all(length >= hold[0] - 1e-9 for row in runs for length in row[:-1])  # the last one is cut off
    # Equal levels may follow each other; without those none is longer than it may be.
    alone = schedule(30, 600, range(10_000), hold, np.random.default_rng(1))
    lengths = [len(list(run)) * STEP for row in alone for _, run in groupby(row[: -hold[1] * 10])]
    assert max(lengths) == pytest.approx(hold[1], abs=0.5)
    pressed = (demand.sum(axis=0) > scene.cap).mean()
    assert pressed > 0.9


def test_both_bounds_of_a_time_to_hold_are_times_to_hold() -> None:
    row = schedule(1, 60, range(10_000), (1.0, 1.1), np.random.default_rng(2))[0]
    lengths = {len(list(run)) for _, run in groupby(row[:-11])}
    assert {10, 11} <= lengths


def test_schedule_is_that_of_its_seed() -> None:
    slow = SCENES["slow"]
    assert (slow.demand(5, 60) == slow.demand(5, 60)).all()
    assert (slow.demand(5, 60) != slow.demand(6, 60)).any()


def test_who_has_the_ideal_is_judged_perfect() -> None:
    demand = SCENES["fast"].demand(11, 90)
    figures = judge(ideal(demand, 2_000_000) * STEP, demand, 2_000_000, WARM_UP)
    assert (figures.use, figures.v1, figures.v5, figures.v10) == pytest.approx((1, 1, 1, 1))
    assert figures.unfairness == pytest.approx(0)


def test_use_and_unfairness_of_half_of_the_ideal_and_of_another_split() -> None:
    demand = constant(2000, 2000)
    half = judge(ideal(demand, CAP) / 2 * STEP, demand, CAP, WARM_UP)
    assert (half.use, half.v1, half.unfairness) == pytest.approx((0.5, 0.5, 0.5))
    other = judge(constant(750, 250) * STEP, demand, CAP, WARM_UP)
    assert (other.use, other.v1, other.unfairness) == pytest.approx((1, 1, 0.5))


def test_windows_see_a_burst_as_long_as_they_are() -> None:
    demand = constant(2000, seconds=WARM_UP + 90)
    sent = constant(CAP, seconds=WARM_UP + 90) * STEP
    sent[:, :300] *= 9  # the warm-up does not count
    sent[:, 500:550] *= 2  # 5 s
    figures = judge(sent, demand, CAP, WARM_UP)
    assert (figures.v1, figures.v5, figures.v10) == pytest.approx((2, 2, 1.5))
    assert figures.v60 == pytest.approx(1 + 5 / 60)
    short = judge(sent[:, :650], demand[:, :650], CAP, WARM_UP)
    assert short.v10 is not None
    assert short.v60 is None


def test_only_seconds_after_four_of_demand_above_the_cap_count_for_use() -> None:
    demand = constant(2000, seconds=50)
    demand[:, :100] = CAP  # not above it
    demand[:, 345:347] = 0
    pressed = pressed_seconds(demand, CAP)
    assert np.flatnonzero(~pressed).tolist() == [*range(13), 34, 35, 36, 37]
    sent = np.where(np.repeat(pressed, 10), CAP, 0)[None] * STEP
    assert judge(sent, demand, CAP, WARM_UP).use == pytest.approx(1)
    idle = judge(sent, 0 * demand, CAP, WARM_UP)
    assert (idle.use, idle.unfairness) == (None, None)


def test_a_shift_of_a_second_costs_less_than_the_means_are_long() -> None:
    demand = constant(2000, 2000)
    demand[0, :550], demand[1, 550:] = 0, 0
    best = ideal(demand, CAP)
    late = np.roll(best, 10, axis=1)
    found = judge(late * STEP, demand, CAP, WARM_UP).unfairness
    assert found == pytest.approx(2 * CAP / (CAP * 46))  # one second too little and one too much, of 46 windows


def test_by_second_leaves_an_unfinished_one_out() -> None:
    assert by_second(np.arange(25, dtype=float)[None]).tolist() == [[4.5, 14.5]]


def test_writes_count_where_a_limit_became_another_one() -> None:
    both = frozenset("ab")
    writes = [
        Write(-1, both, 10),  # before
        Write(30, both, 10),  # a call that changes nothing
        Write(31, both, 20),
        Write(32, frozenset("a"), 30),
        Write(33, both, 30),  # only b
        Write(60, both, 40),  # after
    ]
    assert writes_per_minute(writes, 30, 60) == (8, 8)
    assert writes_per_minute([Write(1, both, 0)], 0, 60) == (0, 1)
    limits = limits_over_time(writes, ["b", "c"], 400)
    assert limits[1].max() == 0
    assert [limits[0, at] for at in (0, 309, 310, 329, 330, 399)] == [10, 10, 20, 20, 30, 30]


def test_changes_are_the_steps_at_which_any_demand_moves() -> None:
    assert changes(np.array([[1, 1, 2, 2, 2], [5, 5, 5, 5, 6]], float)) == [0, 2, 4]


def test_seeds_are_those_of_the_commit() -> None:
    assert seeds("abc", 3)[:2] == seeds("abc", 2)
    assert len(set(seeds("abc", 5) + seeds("abd", 5))) == 10


def test_steps_hold_from_their_time_on() -> None:
    row = steps(3, 1, [(-1, 2), (1, 3), (2.5, 4)])
    assert [row[at] for at in (0, 9, 10, 24, 25, 29)] == [2, 2, 3, 3, 4, 4]
    assert steps(1, 7, []).tolist() == [7] * 10


def test_a_cap_that_changes_is_judged_by_what_it_is_at_each_time() -> None:
    demand = constant(2000, 2000, seconds=WARM_UP + 40)
    cap = steps(WARM_UP + 40, CAP, [(WARM_UP + 20, CAP / 2)])
    best = ideal(demand, cap)
    assert (best[0, 0], best[0, -1]) == (500, 250)
    kept = judge(best * STEP, demand, cap, WARM_UP)
    assert (kept.use, kept.v1, kept.v10, kept.unfairness, kept.excess) == pytest.approx((1, 1, 1, 0, 0))
    unheeded = judge(ideal(demand, CAP) * STEP, demand, cap, WARM_UP)
    assert (unheeded.use, unheeded.v1, unheeded.v10) == pytest.approx((2000 / 1500, 2, 2))
    assert unheeded.excess == pytest.approx(20)  # seconds' worth of the lower cap


def test_excess_is_the_most_that_any_time_brought_above_the_cap() -> None:
    cap = np.full(20, CAP)
    rate = cap.copy()
    assert excess(rate, cap) == 0
    rate[3:5] *= 2.5
    assert excess(rate, cap) == pytest.approx(3)
    rate[5:7] = 0  # less later does not undo it
    assert excess(rate, cap) == pytest.approx(3)
    rate[7] *= 2  # a burst after less does not add to it
    assert excess(rate, cap) == pytest.approx(3)
    rate[8:12] *= 2
    assert excess(rate, cap) == pytest.approx(6)  # 3 - 2 + 1 + 4
    rate[12:] = 0  # nor does what is less afterwards add
    assert excess(rate, cap) == pytest.approx(6)
    assert excess(cap * np.tile([0.5, 1.5], 10), cap) == pytest.approx(0.5)


def test_back_after_waits_for_the_mean_of_five_seconds() -> None:
    sent = np.zeros((2, 400))
    assert back_after(sent, CAP, 10) == 30  # never
    sent[:, 120:] = CAP / 2 * STEP
    assert back_after(sent, CAP, 10) == pytest.approx(2 + 4.3)  # 4.25 s of it, in whole steps
    sent[:, :100] = CAP * STEP  # what was before may count: the mean has it
    assert back_after(sent, CAP, 10) == 0


def test_limited_after_takes_the_slowest_of_first_limits() -> None:
    writes = [
        Write(1, frozenset("ab"), 10),  # a: before its hook
        Write(3.6, frozenset("c"), 0),  # no limit
        Write(4, frozenset("c"), 5),
        Write(5, frozenset("c"), 6),
    ]
    assert limited_after({"a": 2}, writes, 9) == 0
    assert limited_after({"a": 2, "c": 3.5}, writes, 9) == 0.5
    assert limited_after({"c": 3, "d": 2.5}, writes, 9) == 6.5  # d: never
    assert limited_after({}, writes, 9) is None


@pytest.mark.parametrize("name", SCENES)
def test_each_scene_is_whole(name: str) -> None:
    scene = SCENES[name]
    seconds = scene.least
    demand, allowed = scene.demand(5, seconds), scene.allowed(seconds)
    assert demand.shape == (len(scene.trackers), (WARM_UP + seconds) * 10)
    assert set(scene.trackers) == set(scene.caps)
    assert all(goal.figure in FORMS for goal in scene.goals)
    assert allowed.min() > 0
    assert allowed.max() <= scene.cap
    for row, at in scene.added.items():
        assert demand[row, round((WARM_UP + at) * 10) - 1] == 0
        assert demand[row, round((WARM_UP + at) * 10)] > 0
    assert (demand.sum(axis=0) > allowed).mean() > 0.5


@pytest.mark.parametrize("name", ["downloads", "client-limit", "alternative", "slots"])
def test_scenes_made_from_slow_have_its_schedules(name: str) -> None:
    assert (SCENES[name].demand(4, 60) == SCENES["slow"].demand(4, 60)).all()
    assert (SCENES["fast"].demand(4, 60) != SCENES["slow"].demand(4, 60)).any()


def test_the_sleepers_of_the_mass_wake_wake_at_one_moment() -> None:
    scene = SCENES["mass-wake"]
    demand = scene.demand(1, 30)
    assert changes(demand) == [0, (WARM_UP + 10) * 10]
    assert ((demand[:, 0] == 0) & (demand[:, -1] > 0)).sum() == 50


def test_the_lender_has_torrents_and_a_cap_of_its_own() -> None:
    scene = SCENES["lender"]
    assert scene.returns == ("a", 15)
    assert scene.rows_of("a").tolist() == [True] * 4 + [False] * 8
    demand = scene.demand(1, 40)[scene.rows_of("a")].sum(axis=0)
    assert demand[(WARM_UP + 15) * 10 - 1] == 0
    assert demand[(WARM_UP + 15) * 10] > scene.caps["a"]


def test_the_client_allows_less_where_it_is_limited() -> None:
    assert set(SCENES["slow"].allowed(40)) == {SCENE_CAP}
    assert set(SCENES["client-limit"].allowed(40)) == {1_024_000}
    switched = SCENES["alternative"].allowed(60)
    assert [switched[(WARM_UP + at) * 10] for at in (14, 15, 34, 35)] == [SCENE_CAP, 1_024_000, 1_024_000, SCENE_CAP]


def test_a_drive_that_cannot_play_a_scene_says_so() -> None:
    assert "more than the cap of one tracker" in (why_not(SCENES["lender"], "native", "4.5") or "")
    assert "no hook" in (why_not(SCENES["hot-add"], "omniscient", "4.5") or "")
    assert "no hook" in (why_not(SCENES["hot-add"], "late", "4.5") or "")


def result(scene: str, drive: str, seed: int = 1, **figures: float | None) -> dict[str, object]:
    row = dict.fromkeys(FORMS) | {"scene": scene, "drive": drive, "about": "x", "seed": seed, "settings": "{}"}
    return {**row, "code": "", **figures}


def test_goals_that_are_missed_are_named_for_the_drives_they_are_for() -> None:
    figures = {"use": 0.90, "v10": 1.2, "unfairness": 0.1, "changed": 60.0}
    assert missed(result("slow", "adaptive", **figures)) == ["use < 0.95", "v10 > 1.1"]
    assert missed(result("slow", "equal", **figures)) == ["v10 > 1.1"]
    assert missed(result("slow", "none", **figures)) == []
    assert missed(result("slow", "adaptive", use=0.95)) == []
    assert missed(result("gone", "adaptive", **figures)) == []
    assert all(missed(result("hot-add", drive, hook=1.01)) == ["hook > 1"] for drive in STRATEGIES)
    assert missed(result("lender", "soft", back=10.0, v10=1.1)) == []


def test_the_table_has_rare_figures_only_where_there_are_any() -> None:
    rows = [result("slow", "equal", 1, use=0.5, v10=1.0), result("slow", "equal", 2, use=0.7, v10=1.2)]
    head, _, *lines = table(rows).splitlines()
    assert "back" not in head
    mean, worst = ([cell.strip() for cell in line.split("|")] for line in lines[-2:])
    assert (mean[5], mean[8], mean[-3]) == ("0.600", "1.100", "-")
    assert (worst[5], worst[8], worst[-3]) == ("0.500", "1.200", "v10 > 1.1")
    assert " back s " in table([*rows, result("lender", "soft", back=4.26)])
    older = {name: value for name, value in rows[0].items() if name not in {"excess", "back", "hook"}}
    assert len(table([older]).splitlines()) == 3

"""Who is awake, and at what rate."""

from dataclasses import replace

import numpy as np
import pytest

from qguard.demand import RATE_TIME, SLEEP_AFTER, STALLS, UNKNOWN_FOR, Demand, DemandState, estimate
from qguard.snapshot import Torrents
from tests.support.columns import torrents

THRESHOLD = 10_240
STANDING = 2_048


def every(seen: Torrents) -> np.ndarray:
    return np.ones(len(seen), np.bool_)


def run(upspeeds: list[int], *, limit: int = 0, counted: list[int] | None = None, step: float = 5.0) -> list[bool]:
    """Whether one torrent is awake after each reading; `counted`: what its byte counter moves by per second."""
    state, awake, uploaded = None, [], 0
    for turn, speed in enumerate(upspeeds):
        uploaded += int((counted or upspeeds)[turn] * step) if turn else 0
        one = torrents([{"upspeed": speed, "up_limit": limit, "uploaded": uploaded}])
        demand, state = estimate(
            one, turn * step, fresh=every(one), threshold=THRESHOLD, standing=np.array([STANDING]), state=state
        )
        awake.append(bool(demand.awake[0]))
    return awake


@pytest.mark.parametrize(
    ("limit", "speed", "awake"),
    [
        (0, THRESHOLD, True),
        (0, THRESHOLD - 1, False),
        (2_048, 1_024, True),
        (2_048, 1_023, False),
        (100_000, THRESHOLD, True),
        (1, 1, True),
        (1, 0, False),
    ],
)
def test_wakes_at_half_its_limit_or_the_threshold_whichever_is_lower(limit: int, speed: int, awake: bool) -> None:
    assert run([speed], limit=limit) == [awake]


def test_falls_asleep_only_after_a_while() -> None:
    quiet = int(SLEEP_AFTER / 5)
    history = run([50_000, 0, 0, 50_000] + [0] * (quiet + 4))
    assert history[:4] == [True] * 4
    assert history[-1] is False
    # 50 kB/s fade below the bar of 1 kB/s in about four time constants; only then does the waiting begin.
    asleep_after = (history[3:].index(False) - 1) * 5
    assert asleep_after + 5 >= SLEEP_AFTER
    assert asleep_after <= SLEEP_AFTER + 5 * RATE_TIME


def test_what_uploads_more_than_its_standing_limit_does_not_flap() -> None:
    # 5 kB/s: below the threshold, above half of the standing limit it would press on.
    assert run([12_000, *[5_000] * 30]) == [True] * 31


def test_what_presses_on_a_share_below_its_standing_limit_stays_awake() -> None:
    assert run([500] * 20, limit=500) == [True] * 20


def test_the_clients_trailing_rate_does_not_keep_a_torrent_awake() -> None:
    trailing = [int(50_000 * 0.8 ** (5 * t)) for t in range(12)]
    still = [50_000] + [0] * 11
    assert run(trailing, counted=still) == run(still)


def test_rates_come_from_the_counters_whatever_the_client_says() -> None:
    one = torrents([{"upspeed": 900_000, "uploaded": 0}])
    demand, state = estimate(one, 0.0, fresh=every(one), threshold=THRESHOLD, standing=np.array([STANDING]), state=None)
    assert demand.rate.tolist() == [900_000]
    for turn in range(1, 10):
        later = replace(one, uploaded=np.array([100_000 * 5 * turn]))
        demand, state = estimate(
            later, 5.0 * turn, fresh=every(later), threshold=THRESHOLD, standing=np.array([STANDING]), state=state
        )
    assert demand.rate[0] == pytest.approx(100_000, rel=0.01)


def test_only_a_torrent_that_was_known_to_sleep_counts_as_woken() -> None:
    before = torrents([{"upspeed": 0}, {"upspeed": 50_000}])
    _, state = estimate(
        before, 0.0, fresh=every(before), threshold=THRESHOLD, standing=np.full(2, STANDING), state=None
    )
    after = torrents([{"upspeed": 50_000}, {"upspeed": 50_000}, {"upspeed": 50_000}])
    demand, _ = estimate(
        after, 5.0, fresh=every(after), threshold=THRESHOLD, standing=np.full(3, STANDING), state=state
    )
    assert demand.rose.tolist() == [True, False, False]


def test_a_torrent_added_again_starts_anew() -> None:
    before = torrents([{"upspeed": 50_000, "uploaded": 10**9}])
    _, state = estimate(
        before, 0.0, fresh=every(before), threshold=THRESHOLD, standing=np.array([STANDING]), state=None
    )
    again = torrents([{"upspeed": 0, "uploaded": 0, "added_on": 1_800_000_000}])
    demand, _ = estimate(
        again, 5.0, fresh=every(again), threshold=THRESHOLD, standing=np.array([STANDING]), state=state
    )
    assert (demand.awake.tolist(), demand.rate.tolist()) == ([False], [0.0])


def test_a_look_at_one_torrent_says_nothing_about_the_others() -> None:
    two = torrents([{"upspeed": 50_000, "uploaded": 0}, {"upspeed": 0}])
    _, state = estimate(two, 0.0, fresh=every(two), threshold=THRESHOLD, standing=np.full(2, STANDING), state=None)
    for turn in range(1, 100):
        only_second = np.array([False, True])
        demand, state = estimate(
            two, float(turn), fresh=only_second, threshold=THRESHOLD, standing=np.full(2, STANDING), state=state
        )
    assert (demand.rate.tolist(), demand.awake.tolist()) == ([50_000, 0], [True, False])
    moved = replace(two, uploaded=np.array([100 * 80_000, 0]))
    demand, _ = estimate(
        moved, 100.0, fresh=every(two), threshold=THRESHOLD, standing=np.full(2, STANDING), state=state
    )
    assert demand.rate[0] == pytest.approx(80_000, rel=0.01)


def look(
    rates: list[float], limits: list[int], at: float, state: DemandState | None, fresh: list[bool] | None = None
) -> tuple[Demand, DemandState]:
    """A reading in which the torrents have uploaded at `rates` ever since the one before."""
    uploaded = np.zeros(len(rates), np.int64) if state is None else state.uploaded
    since = np.zeros(len(rates)) if state is None else at - state.read_at
    seen = torrents(
        [
            {"upspeed": int(rate), "up_limit": limit, "uploaded": int(before + rate * seconds)}
            for rate, limit, before, seconds in zip(rates, limits, uploaded, since, strict=True)
        ]
    )
    return estimate(
        seen,
        at,
        fresh=every(seen) if fresh is None else np.array(fresh),
        threshold=THRESHOLD,
        standing=np.full(len(rates), STANDING),
        state=state,
    )


def test_presses_from_90_percent_of_its_limit_and_until_70() -> None:
    first, state = look([89_999, 90_000, 100_000, 0], [100_000] * 4, 0.0, None)
    assert first.pressing.tolist() == [False, True, True, False]
    # For so long that the smoothed rate is the rate.
    later, state = look([84_000, 70_100, 69_000, 69_000], [100_000] * 4, 300.0, state)
    assert later.pressing.tolist() == [False, True, False, True]  # the last one woke just now
    last, _ = look([91_000, 84_000, 84_000, 91_000], [100_000] * 4, 600.0, state)
    assert last.pressing.tolist() == [True, True, False, True]


def test_without_a_limit_nothing_presses() -> None:
    demand, state = look([10**7, 10**9], [0, 0], 0.0, None)
    assert demand.pressing.tolist() == [False, False]
    demand, state = look([10**7, 10**9], [0, 10**9], 5.0, state)
    assert demand.pressing.tolist() == [False, True]
    demand, _ = look([10**7, 10**9], [0, 0], 300.0, state)
    assert demand.pressing.tolist() == [False, False]


def test_what_just_woke_presses_for_a_while_whatever_it_uploads() -> None:
    _, state = look([0], [1_000_000], 0.0, None)
    demand, state = look([20_000], [1_000_000], 5.0, state)
    assert (demand.rose.tolist(), demand.pressing.tolist()) == ([True], [True])
    seen = {}
    for after in (2.0, UNKNOWN_FOR - 0.1, UNKNOWN_FOR, 20.0):
        demand, state = look([20_000], [1_000_000], 5.0 + after, state)
        seen[after] = demand.pressing.tolist()[0]
    assert list(seen.values()) == [True, True, False, False]


def test_a_torrent_first_seen_awake_is_not_taken_for_woken() -> None:
    demand, _ = look([20_000], [1_000_000], 0.0, None)
    assert (demand.awake.tolist(), demand.pressing.tolist()) == ([True], [False])


def test_after_a_raise_a_rate_is_judged_by_the_limit_smoothed_as_it_is() -> None:
    _, state = look([100_000], [100_000], 0.0, None)
    # It follows the raise at once: rate and limit are smoothed alike, and so it presses all the time.
    for at in (0.5, 1.0, 2.0):
        demand, state = look([120_000], [120_000], at, state)
        assert demand.pressing.tolist() == [True]
        assert state.limit[0] == pytest.approx(120_000 - 20_000 * np.exp(-at / RATE_TIME), rel=1e-6)
        assert demand.rate[0] == pytest.approx(state.limit[0], rel=1e-4)


def test_one_that_does_not_follow_a_raise_stops_pressing_as_the_smoothed_limit_passes_it() -> None:
    _, state = look([100_000], [100_000], 0.0, None)
    pressing = []
    for at in (1.0, 2.0, 3.0, 4.0, 5.0):
        demand, state = look([100_000], [200_000], at, state)
        pressing.append(demand.pressing.tolist()[0])
    # 0.70 of the smoothed limit passes 100,000 when that is 142,857: after 2.5 s * ln(1 / 0.571) = 1.4 s.
    assert RATE_TIME == 2.5
    assert pressing == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("seconds", "limit", "over"),
    [(2.0, 0, 2.5), (3.0, 0, 2.5), (5.0, 0, 4.0), (5.0, 16_384, 4.0), (5.0, 4_096, 8.0), (60.0, 0, 10.0)],
)
def test_a_rate_is_smoothed_over_two_blocks_or_most_of_the_time_between_readings(
    seconds: float, limit: int, over: float
) -> None:
    before = limit or 100_000
    _, state = look([before], [limit], 0.0, None)
    demand, _ = look([1.1 * before], [limit], seconds, state)
    assert demand.rate[0] == pytest.approx(before * (1.1 - 0.1 * np.exp(-seconds / over)), rel=1e-3)


@pytest.mark.parametrize("rate", [30_000, 600_000, 1_000_000])
def test_two_readings_far_off_are_a_change_and_one_is_noise(rate: int) -> None:
    _, state = look([100_000], [0], 0.0, None)
    _, state = look([100_000], [0], 1.5, state)
    demand, once = look([rate], [0], 3.0, state)
    smoothed = 100_000 + (1 - np.exp(-1.5 / RATE_TIME)) * (rate - 100_000)
    assert demand.rate[0] == pytest.approx(smoothed, rel=1e-4)
    demand, _ = look([rate], [0], 4.5, once)
    assert demand.rate[0] == pytest.approx(rate, abs=1)
    # Back to what it was: one reading does not change much.
    demand, _ = look([100_000], [0], 4.5, once)
    assert demand.rate[0] == pytest.approx(smoothed + (1 - np.exp(-1.5 / RATE_TIME)) * (100_000 - smoothed), rel=1e-4)


@pytest.mark.parametrize(("rate", "seen"), [(0, 0), (15_000, 15_000), (25_000, 66_161)])
def test_one_reading_of_next_to_nothing_is_the_end_of_an_upload(rate: int, seen: int) -> None:
    _, state = look([100_000], [0], 0.0, None)
    demand, _ = look([rate], [0], 1.5, state)
    assert demand.rate[0] == pytest.approx(seen, abs=1)


def test_readings_within_a_second_are_no_change_of_a_rate() -> None:
    _, state = look([100_000], [0], 0.0, None)
    _, state = look([100_000], [0], 1.5, state)
    for at in (1.6, 1.7, 1.8):
        # A counter that has not moved: the client has not refreshed it yet.
        demand, state = look([0], [0], at, state)
    assert demand.rate[0] == pytest.approx(100_000 * np.exp(-0.3 / RATE_TIME), rel=1e-4)
    assert state.moved[0] == pytest.approx(100_000, rel=1e-4)


@pytest.mark.parametrize(("before", "seen_after"), [(0, STALLS), (430_000, STALLS), (900_000, STALLS + 3.0)])
def test_what_stops_for_a_moment_because_its_limit_came_or_fell_has_not_ended(before: int, seen_after: float) -> None:
    """Longer after a deep cut: as long as the limit is far below itself as the sensor sees it."""
    _, state = look([400_000], [before], 0.0, None)
    for at in (1.5, 3.0):
        demand, state = look([400_000], [before], at, state)
    for at in np.arange(4.5, 4.5 + seen_after, 1.5):
        demand, state = look([0], [300_000], float(at), state)
        assert (demand.rate.tolist(), demand.pressing.tolist()) == ([300_000], [True])
    demand, _ = look([0], [300_000], 4.5 + seen_after, state)
    assert demand.rate.tolist() == [0]


def test_a_limit_that_falls_by_little_or_rises_stalls_nothing() -> None:
    for before in (400_000, 200_000):
        _, state = look([min(before, 290_000)], [before], 0.0, None)
        demand, _ = look([0], [300_000], 1.5, state)
        assert demand.rate.tolist() == [0]


def test_after_a_cut_the_limit_itself_counts() -> None:
    _, state = look([100_000], [200_000], 0.0, None)
    demand, state = look([50_000], [50_000], 5.0, state)
    assert demand.rate[0] > 50_000
    assert demand.pressing.tolist() == [True]


def test_a_limit_that_comes_or_goes_counts_at_once() -> None:
    _, state = look([100_000] * 2, [0, 100_000], 0.0, None)
    demand, state = look([100_000] * 2, [110_000, 0], 1.0, state)
    assert state.limit.tolist() == [110_000, np.inf]
    assert demand.pressing.tolist() == [True, False]


def test_a_reading_that_says_nothing_about_a_torrent_leaves_it_pressing_or_not() -> None:
    _, state = look([100_000, 10_300, 0], [100_000, 100_000, 1_000_000], 0.0, None)
    for at in (5.0, 10.0, 60.0):
        demand, state = look([10_300, 100_000, 0], [100_000, 100_000, 1_000_000], at, state, [False, False, True])
        assert demand.pressing.tolist() == [True, False, False]
    assert state.limit.tolist() == [100_000, 100_000, 1_000_000]


def test_what_sleeps_does_not_press() -> None:
    _, state = look([2_000], [2_000], 0.0, None)
    for at in range(5, 100, 5):
        demand, state = look([0], [2_000], float(at), state)
    assert (demand.awake.tolist(), demand.pressing.tolist()) == ([False], [False])
    assert state.pressed.tolist() == [False]


@pytest.mark.parametrize("limit", [3_000, 4_096, 8_192, 12_000, 30_000])
def test_a_slow_upload_in_whole_blocks_is_seen_at_its_rate_and_presses_all_the_time(limit: int) -> None:
    """At 4 KiB/s most readings of 1.5 s see nothing: not one of them is the end of the upload."""
    block, seen, pressed, state = 16_384, [], [], None
    for reading in range(400):
        at = 1.5 * reading
        uploaded = int(limit * at // block) * block
        row = torrents([{"upspeed": limit, "up_limit": limit, "uploaded": uploaded}])
        demand, state = estimate(row, at, fresh=every(row), threshold=THRESHOLD, standing=np.array([512]), state=state)
        seen.append(demand.rate[0])
        pressed.append(demand.pressing[0])
    assert np.mean(seen[50:]) == pytest.approx(limit, rel=0.05)
    # A block more or less is a swing of its own where smoothing ends; none is the end.
    assert min(seen[50:]) > 0.3 * limit
    assert np.mean(pressed[50:]) > 0.9


def blocks(*at: float, until: float, limit: int = 8_192, step: float = 1.5) -> list[float]:
    """When a torrent wakes that uploads a block at each of these times and holds a standing limit while it sleeps."""
    woke, state, awake = [], None, False
    for turn in range(int(until / step) + 1):
        now = turn * step
        sent = 16_384 * sum(1 for one in at if one <= now)
        row = torrents([{"up_limit": 250_000 if awake else limit, "uploaded": sent}])
        demand, state = estimate(
            row, now, fresh=every(row), threshold=THRESHOLD, standing=np.array([limit]), state=state
        )
        woke += [now] * int(demand.awake[0] and not awake)
        awake = bool(demand.awake[0])
    return woke


def test_the_first_block_wakes_and_a_leecher_of_a_block_a_minute_wakes_once() -> None:
    assert blocks(2.0, until=10.0) == [3.0]
    assert blocks(*range(2, 900, 60), until=900.0) == [3.0]
    # Half of its limit or more, for a while: by that it wakes, and by its first block the next time.
    busy, again = np.arange(120, 150, 0.4), (300.0, 302.0)
    assert blocks(2.0, 60.0, *busy, *again, until=400.0) == [3.0, 121.5, 300.0]


def test_a_block_is_no_reason_to_wake_where_readings_are_rare() -> None:
    """Its rate tells as soon; a crowd of which each woke for its first block went far above the cap."""
    assert blocks(2.0, until=30.0, step=2.9) == [2.9]
    assert blocks(2.0, until=30.0, step=5.0) == []


def test_a_torrent_rises_once_it_uploads_not_with_a_single_block() -> None:
    """Room is kept for as many as rise at once: those whose leecher takes a block now and then are not among them."""

    def rises(*sent: int) -> list[bool]:
        rose, state = [], None
        for turn, uploaded in enumerate(sent):
            row = torrents([{"up_limit": 8_192, "uploaded": uploaded * 16_384}])
            limits = np.array([8_192])
            demand, state = estimate(
                row, turn * 1.5, fresh=every(row), threshold=THRESHOLD, standing=limits, state=state
            )
            rose.append(bool(demand.rose[0]))
        return rose

    assert rises(0, 1, 1, 1) == [False] * 4
    assert rises(0, 1, 2, 3, 4) == [False, False, True, False, False]
    assert rises(0, 4, 8) == [False, True, False]


def test_counters_that_the_client_has_not_refreshed_say_nothing() -> None:
    rows = [{"upspeed": 100_000, "uploaded": 10**6}, {"upspeed": 0, "uploaded": 7}]

    def read(at: float, state: DemandState | None, more: int = 0) -> tuple[Demand, DemandState]:
        seen = torrents([{**rows[0], "uploaded": rows[0]["uploaded"] + more}, rows[1]])
        return estimate(seen, at, fresh=every(seen), threshold=THRESHOLD, standing=np.full(2, STANDING), state=state)

    _, state = read(0.0, None)
    _, state = read(1.5, state, 150_000)
    for at in (1.9, 2.6, 2.9):  # forced cycles, before the client's next look at its counters
        demand, state = read(at, state, 150_000)
        assert demand.rate.tolist() == [100_000, 0]
        assert state.read_at.tolist() == [1.5, 1.5]
    demand, _ = read(3.0, state, 300_000)
    assert demand.rate.tolist() == [100_000, 0]
    # Twice its refresh interval: the upload has ended.
    demand, _ = read(4.6, state, 150_000)
    assert demand.rate[0] < 30_000

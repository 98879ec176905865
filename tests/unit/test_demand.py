"""Who is awake, and at what rate."""

from dataclasses import replace

import numpy as np
import pytest

from qguard.demand import RATE_TIME, SLEEP_AFTER, estimate
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
    assert demand.woke.tolist() == [True, False, False]


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

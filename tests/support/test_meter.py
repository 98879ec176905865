"""Rates and windows over counted bytes."""

import pytest

from tests.support.meter import BUCKET, Meter, rate, window_max


def _filled(start: float, sizes: list[int]) -> Meter:
    """A meter that counts one size in each bucket from a time on."""
    meter = Meter()
    for number, size in enumerate(sizes):
        meter.count(size, start + (number + 0.5) * BUCKET)
    return meter


@pytest.fixture
def start() -> float:
    """A time at the edge of a bucket, a little after now."""
    return (Meter()._start + 10) * BUCKET


def test_rate_is_bytes_over_time_and_silence_counts(start: float) -> None:
    meter = _filled(start, [1_000] * 10)
    half = BUCKET / 2
    assert rate([meter], start + half, start + 1 + half) == pytest.approx(10_000)
    assert rate([meter], start + half, start + 2 + half) == pytest.approx(5_000)
    assert rate([meter, meter], start - 1 + half, start + 1 + half) == pytest.approx(10_000)


def test_window_max_finds_the_burst_of_all_meters_together(start: float) -> None:
    early, late = _filled(start, [0] * 5 + [3_000] + [0] * 10), _filled(start, [0] * 6 + [4_000] + [0] * 10)
    end = start + 1.6 + BUCKET / 2
    assert window_max([early, late], 0.2, start, end) == pytest.approx(35_000)
    assert window_max([early, late], 0.1, start, end) == pytest.approx(40_000)
    assert window_max([early], 1.0, start, end) == pytest.approx(3_000)


def test_a_window_longer_than_the_measurement_is_refused(start: float) -> None:
    with pytest.raises(ValueError, match=r"no window of 10 s fits"):
        window_max([_filled(start, [1])], 10, start, start + 1)

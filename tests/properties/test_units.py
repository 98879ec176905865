"""Rates and durations: exact, bounded, and never guessed."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qguard.config import BadValueError, describe_cap, parse_duration, parse_rate
from qguard.config.units import RATE_PATTERN, RATE_UNITS

unhurried = settings(deadline=None)  # the machine may be busy with something else

MAX_CAP = 2**42

units = st.sampled_from(sorted(RATE_UNITS))
decimals = st.builds(
    lambda whole, places, digits: f"{whole}.{places:0{digits}d}" if digits else str(whole),
    st.integers(0, 10**13),
    st.integers(0, 9),
    st.integers(0, 6),
)


@unhurried
@given(st.integers(1, MAX_CAP))
def test_a_whole_number_is_bytes_per_second(rate: int) -> None:
    assert parse_rate(rate) == rate


@unhurried
@given(decimals, units, st.sampled_from(["", " ", "  "]))
def test_a_number_with_a_unit_is_exact_and_rounded_down(number: str, unit: str, gap: str) -> None:
    exact = Fraction(number) * RATE_UNITS[unit]
    text = f"{number}{gap}{unit}"
    if 1 <= exact <= MAX_CAP:
        assert parse_rate(text) == math.floor(exact)
    else:
        with pytest.raises(BadValueError):
            parse_rate(text)


@unhurried
@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.from_regex(RATE_PATTERN)))
def test_whatever_is_written_is_a_rate_unlimited_or_an_error(value: object) -> None:
    try:
        rate = parse_rate(value)
    except BadValueError:
        return
    if rate is None:
        assert value == -1 or str(value).strip().casefold() == "unlimited"
    else:
        assert type(rate) is int
        assert 1 <= rate <= MAX_CAP


@unhurried
@given(st.integers(1, 10**6), units.filter(lambda unit: "i" in unit))
def test_a_unit_that_can_mean_only_one_thing_may_be_written_in_any_case(number: int, unit: str) -> None:
    ways = {text: _rate_or_none(text) for text in (f"{number} {u}" for u in (unit, unit.lower(), unit.upper()))}
    assert len(set(ways.values())) == 1


def _rate_or_none(text: str) -> int | None:
    try:
        return parse_rate(text)
    except BadValueError:
        return None


@pytest.mark.parametrize("unit", ["b/s", "kb/s", "Kb/s", "mb/s", "Mb/s", "MB", "M", "Mbps", "MiB", "m/s", "", "MB/h"])
def test_a_unit_that_could_be_bits_or_bytes_or_is_none_is_refused(unit: str) -> None:
    with pytest.raises(BadValueError, match=r"10 (MB|KB|GB|B)/s"):
        parse_rate(f"10 {unit}")


@pytest.mark.parametrize("value", [0, "0 B/s", "0.0 MiB/s"])
def test_zero_is_a_rate_only_where_it_has_a_meaning(value: object) -> None:
    assert parse_rate(value, zero=True) == 0
    with pytest.raises(BadValueError, match="unlimited"):
        parse_rate(value)


@unhurried
@given(st.integers(1, MAX_CAP))
def test_the_three_ways_to_describe_a_cap_agree(cap: int) -> None:
    words = describe_cap(cap)
    match = re.fullmatch(r"(\d+) B/s = ([\d.]+) MB/s = ([\d.]+) MiB/s", words)
    assert match is not None
    assert int(match[1]) == cap
    assert float(match[2]) == pytest.approx(cap / 10**6, abs=0.0051)
    assert float(match[3]) == pytest.approx(cap / 2**20, abs=0.0051)


@unhurried
@given(st.integers(0, 10**6), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600)]))
def test_a_duration_is_seconds(number: int, unit: tuple[str, float]) -> None:
    assert parse_duration(f"{number}{unit[0]}") == pytest.approx(number * unit[1])
    assert parse_duration(number) == number


@unhurried
@given(st.text())
def test_text_without_a_unit_of_time_is_no_duration(text: str) -> None:
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*(ms|s|m|h)\s*", text, re.ASCII) is None:
        with pytest.raises(BadValueError):
            parse_duration(text)

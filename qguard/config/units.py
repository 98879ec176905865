"""Rates in bytes/s and durations in seconds, as people write them."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from allocators.base import MAX_CAP
from qguard.config.errors import BadValueError

RATE_UNITS: Final[Mapping[str, Fraction]] = {
    "B/s": Fraction(1),
    "KB/s": Fraction(10**3),
    "MB/s": Fraction(10**6),
    "GB/s": Fraction(10**9),
    "KiB/s": Fraction(2**10),
    "MiB/s": Fraction(2**20),
    "GiB/s": Fraction(2**30),
    "bit/s": Fraction(1, 8),
    "kbit/s": Fraction(10**3, 8),
    "Mbit/s": Fraction(10**6, 8),
    "Gbit/s": Fraction(10**9, 8),
}
"""Bytes/s in one of each unit. "b" alone could be bits or bytes, so that only a capital B stands for bytes."""

DURATION_UNITS: Final[Mapping[str, Fraction]] = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
"""Seconds in one of each unit."""

RATE_PATTERN: Final = r"^\s*[0-9]{1,20}(\.[0-9]{1,20})?\s*([KkMmGg]?B|[KkMmGg][Ii][Bb]|[KkMmGg]?[Bb][Ii][Tt])/[Ss]\s*$"
"""What a rate written as text looks like; a regular expression that JSON schema and Python both read."""

DURATION_PATTERN: Final = r"^\s*[0-9]{1,20}(\.[0-9]{1,20})?\s*(ms|s|m|h)\s*$"

_FOLDED: Final = {unit.casefold(): factor for unit, factor in RATE_UNITS.items()}
_NUMBER_AND_REST: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(.*?)\s*")
_CHOICES: Final = "write bytes/s as a whole number, or a number with one of the units " + ", ".join(RATE_UNITS)
_NO_ZERO: Final = (
    "write -1 or unlimited for no cap, or `manage: false` in the rule to leave a tracker's torrents alone;"
    " qBittorrent itself takes 0 as unlimited"
)


def parse_rate(value: object, *, zero: bool = False, unlimited: bool = True) -> int | None:
    """Read a rate.

    Args:
        value: a whole number of bytes/s, a text with number and unit, or -1 or "unlimited".
        zero: whether 0 has a meaning here.
        unlimited: whether "unlimited" has one.

    Returns:
        Bytes/s, rounded down, 1 (or 0) to 2^42; None for unlimited.

    Raises:
        BadValueError: it is none of these.
    """
    if (isinstance(value, str) and value.strip().casefold() == "unlimited") or (value == -1 and type(value) is int):
        if not unlimited:
            raise BadValueError("cannot be unlimited", _CHOICES)
        return None
    exact = _exact_rate(value)
    if exact == 0 and zero:
        return 0
    if exact == 0:
        raise BadValueError("0 is not a rate", _NO_ZERO if unlimited else _CHOICES)
    if exact < 0:
        raise BadValueError("is negative", _NO_ZERO if unlimited else _CHOICES)
    if exact < 1:
        raise BadValueError("is less than 1 byte/s", _NO_ZERO if unlimited else _CHOICES)
    if exact > MAX_CAP:
        at_most = f"write at most {MAX_CAP} (4 TiB/s)"
        raise BadValueError(
            "is more than 2^42 bytes/s", f"{at_most}, or -1 or unlimited for no cap" if unlimited else at_most
        )
    return int(exact)


def _exact_rate(value: object) -> Fraction:
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    if not isinstance(value, str):
        raise BadValueError("is not a rate", _CHOICES)
    if re.fullmatch(RATE_PATTERN, value):
        number, unit = _split(value)
        return Fraction(number) * _FOLDED[unit.casefold()]
    number, unit = _split(value)
    if not number:
        raise BadValueError("is not a rate", _CHOICES)
    if len(number) > 40:
        raise BadValueError("has too many digits", _CHOICES)
    if not unit:
        raise BadValueError(
            "has no unit", f"write {_examples(number)}; bytes/s without a unit go without quotes: {number}"
        )
    prefix = unit[0].upper() if unit[0] in "kKmMgG" else ""
    raise BadValueError(
        "has an unknown or ambiguous unit", f"write {_examples(number, prefix)}; units are {', '.join(RATE_UNITS)}"
    )


def _split(text: str) -> tuple[str, str]:
    match = _NUMBER_AND_REST.fullmatch(text)
    return (match[1], match[2]) if match else ("", text)


def _examples(number: str, prefix: str = "M") -> str:
    bits = "k" if prefix == "K" else prefix
    ways = [f"{number} {prefix}B/s", f"{number} {prefix}iB/s" if prefix else "", f"{number} {bits}bit/s"]
    *head, last = filter(None, ways)
    return f"{', '.join(head)} or {last}"


def parse_duration(value: object) -> float:
    """Read a duration: a number of seconds, or a text such as "500ms", "5s", "2m" or "1h".

    Returns:
        Seconds; not yet held against any range.

    Raises:
        BadValueError: it is none of these.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise BadValueError("has too many digits", "write a number of seconds") from None
    if isinstance(value, str) and re.fullmatch(DURATION_PATTERN, value):
        number, unit = _split(value)
        return float(Fraction(number) * DURATION_UNITS[unit])
    raise BadValueError(
        "is not a duration", 'write a number of seconds, or a number with one of the units ms, s, m, h as in "5s"'
    )


def describe_cap(bytes_per_second: int | None) -> str:
    """A cap in the three units that people compare, such as `10485760 B/s = 10.49 MB/s = 10.00 MiB/s`."""
    if bytes_per_second is None:
        return "unlimited"
    return f"{bytes_per_second} B/s = {bytes_per_second / 10**6:.2f} MB/s = {bytes_per_second / 2**20:.2f} MiB/s"

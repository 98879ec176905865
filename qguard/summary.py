"""Caps and changes in the units that people read. Takes bytes/s, where None is no cap and a limit of 0 is none."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

MIB: Final = 2**20
KIB: Final = 2**10

TOP_CHANGES: Final = 10
"""Changes in a summary."""


class Caps(msgspec.Struct, frozen=True):
    """The caps of one tracker, bytes/s; None for no cap."""

    base_cap: int | None
    effective_cap: int | None
    borrowed: int


class TrackerSummary(msgspec.Struct, frozen=True):
    """The caps of one tracker in MiB/s (in spite of the name `mbps`) and in words."""

    id: str
    base_cap_mbps: float | None
    base_cap_h: str
    effective_cap_mbps: float | None
    effective_cap_h: str
    borrowed_mbps: float
    borrowed_h: str


class ChangeSummary(msgspec.Struct, frozen=True):
    """One change in KiB/s and in words; a number is None where there is no limit to count from or to."""

    hash: str
    new_limit_kib: float | None
    new_limit_h: str
    delta_kib: float | None
    delta_h: str


class Summary(msgspec.Struct, frozen=True):
    """A preview at a glance."""

    trackers: tuple[TrackerSummary, ...]
    top_changes: tuple[ChangeSummary, ...]


def summarise(caps: Mapping[str, Caps], changes: Iterable[tuple[str, int, int]]) -> Summary:
    """Caps by tracker id and (info-hash, old, new) of the largest changes."""
    trackers = tuple(
        TrackerSummary(
            tracker,
            mbps(row.base_cap),
            in_words(row.base_cap),
            mbps(row.effective_cap),
            in_words(row.effective_cap),
            mbps(row.borrowed) or 0.0,
            in_words(row.borrowed),
        )
        for tracker, row in caps.items()
    )
    return Summary(trackers, tuple(_change(*change) for change in changes))


def _change(infohash: str, old: int, new: int) -> ChangeSummary:
    delta = new - old if old and new else None
    sign = "+" if (delta or 0) > 0 else "-"
    return ChangeSummary(
        infohash,
        kib(new) if new else None,
        in_words(new or None),
        kib(delta),
        f"{in_words(old or None)} to {in_words(new or None)}" if delta is None else f"{sign}{in_words(abs(delta))}",
    )


def mbps(rate: float | None) -> float | None:
    """MiB/s to two places, the unit that the key `..._mbps` has always meant."""
    return None if rate is None else round(rate / MIB, 2)


def kib(rate: float | None) -> float | None:
    """KiB/s to one place."""
    return None if rate is None else round(rate / KIB, 1)


def in_words(rate: float | None) -> str:
    """bytes/s for people, in binary units."""
    if rate is None:
        return "unlimited"
    if rate >= MIB:
        return f"{rate / MIB:.2f} MiB/s"
    return f"{rate / KIB:.1f} KiB/s" if rate >= KIB else f"{rate:.0f} B/s"

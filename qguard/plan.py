"""Current and wanted limits -> the few calls that lead from one to the other, decreases first.

Pure. Preview prints a plan, a cycle records and applies it; both get it from here.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from qguard.snapshot import UNLIMITED, Bool, Int64

KEEP: Final = -1
"""Wanted limit of a torrent that is to be left as it is."""

HASHES_PER_CALL: Final = 1000
"""One call is one synchronous loop in the client: 1,000 changed torrents take it about 5 ms."""

SMALL_RAISE_WAIT: Final = 60.0
"""Seconds since its last change after which a torrent gets even a small raise."""

_ABOVE_ALL: Final = 2**62
"""Stands for "unlimited" where limits are compared or added up."""


class Why(IntEnum):
    """Why a torrent's limit is to change."""

    NONE = 0
    SHARE = 1
    """its share of the tracker's cap"""
    STANDING = 2
    """the standing limit of a sleeping torrent"""
    LEFT_ROLLOUT = 3
    """its original back: it left the rollout"""
    UNCAPPED = 4
    """its original back: its tracker has no cap any more"""
    UNMANAGED = 5
    """its original back: its tracker is no longer managed"""
    ROLLBACK = 6
    """rollback"""


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One request: these rows get this limit."""

    limit: int
    """bytes/s, `UNLIMITED` to take a limit off."""
    rows: Int64


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What would be written, in this order."""

    rows: Int64
    """(M,) rows that change, in the order of the calls."""
    old: Int64
    """(M,) bytes/s now."""
    new: Int64
    """(M,) bytes/s then."""
    why: Int64
    """(M,) `Why` codes."""
    calls: tuple[Call, ...]
    waiting: int = 0
    """Small raises that are put off."""
    unstaged: int = 0
    """Sleeping torrents whose first standing limit is put off to later cycles."""

    def __len__(self) -> int:
        """The number of torrents that change, M."""
        return len(self.rows)


def height(limit: Int64) -> Int64:
    """Limits as numbers that can be compared: unlimited is above all."""
    return np.where(limit == UNLIMITED, _ABOVE_ALL, limit)


def make(
    current: Int64,
    wanted: Int64,
    why: Int64,
    *,
    since_written: np.ndarray[tuple[int], np.dtype[np.float64]],
    first_contact: Bool,
    heat: Int64,
    small_raise: float,
    first_contact_batch: int,
) -> Plan:
    """Lead from `current` to `wanted`.

    Args:
        current: (N,) limits in the client now, bytes/s.
        wanted: (N,) limits to reach, `KEEP` where nothing is to change.
        why: (N,) `Why` codes.
        since_written: (N,) seconds since qguard last changed the torrent, infinite where it never did.
        first_contact: (N,) sleeping torrents that would get their first standing limit.
        heat: (N,) the order in which those get it: the hottest first.
        small_raise: a raise by less than this fraction may wait; decreases and restored originals never do.
        first_contact_batch: how many first standing limits go into one plan.
    """
    changes = (wanted != KEEP) & (wanted != current)
    raises = height(wanted) > height(current)
    share = (why == Why.SHARE) | (why == Why.STANDING)
    small = (
        changes
        & share
        & raises
        & (current != UNLIMITED)
        & (wanted - current < small_raise * current)
        & (since_written < SMALL_RAISE_WAIT)
    )
    changes &= ~small

    first = np.flatnonzero(changes & first_contact)
    later = first[np.argsort(-heat[first], kind="stable")][first_contact_batch:]
    changes[later] = False

    plan = ordered(current, np.where(changes, wanted, KEEP), why)
    return Plan(plan.rows, plan.old, plan.new, plan.why, plan.calls, waiting=int(small.sum()), unstaged=len(later))


def ordered(current: Int64, wanted: Int64, why: Int64) -> Plan:
    """All changes at once: decreases before raises (I3), one call per value, at most `HASHES_PER_CALL` each."""
    rows = np.flatnonzero((wanted != KEEP) & (wanted != current))
    old, new = current[rows], wanted[rows]
    raised = height(new) > height(old)
    order = np.lexsort((rows, height(new), raised))
    rows, old, new, raised = rows[order], old[order], new[order], raised[order]
    borders = np.flatnonzero((new[1:] != new[:-1]) | (raised[1:] != raised[:-1])) + 1
    calls = tuple(
        Call(int(wanted[group[0]]), group[at : at + HASHES_PER_CALL])
        for group in np.split(rows, borders)
        if len(group)
        for at in range(0, len(group), HASHES_PER_CALL)
    )
    return Plan(rows, old, new, why[rows], calls)

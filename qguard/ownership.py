"""Whose limit is it: the owner's, ours, or somebody else's who came after us."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from qguard.ledger import Claim, Key, Outcome
from qguard.snapshot import Bool, Int64, Torrents

NONE: Final = -1
"""No value, in columns of limits (0 is "unlimited")."""


@dataclass(frozen=True, slots=True, eq=False)
class Ownership:
    """The ledger's claims as (N,) columns, aligned with the torrents of one reading."""

    claimed: Bool
    """qguard touched it and holds its original."""
    original: Int64
    """bytes/s before qguard first touched it; `NONE` where it never did."""
    expected: Int64
    """bytes/s that our last write left, `NONE` where there was none."""
    pending: Int64
    """bytes/s of a write whose outcome is not known, `NONE` where there is none."""
    foreign: Bool
    """Left to somebody who changed it after us."""
    rolled_back: Bool
    """Left alone since a rollback, until resumed."""
    since_written: np.ndarray[tuple[int], np.dtype[np.float64]]
    """Seconds since our last write, infinite where there was none."""

    @property
    def held(self) -> Bool:
        """Not ours to write at present."""
        return self.foreign | self.rolled_back


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What a reading says about earlier writes; for the ledger."""

    outcomes: tuple[tuple[Key, Outcome, int], ...] = ()
    """Of writes whose outcome was not known."""
    foreign: Mapping[Key, int] = field(default_factory=dict)
    """Torrents to leave to somebody else from now on, and their value for them."""
    reset: Mapping[Key, int] = field(default_factory=dict)
    """Torrents whose value counts as our last one though it is not what we wrote last: the client lost our write, or
    somebody's value that is to be overwritten."""
    seen: tuple[Key, ...] = ()
    """Every torrent with a foreign value, also where the policy is to write ours again."""


def columns(claims: Mapping[Key, Claim], torrents: Torrents, wall_now: float) -> Ownership:
    """Align the claims with the torrents. A claim on a torrent that was deleted and added again does not count."""
    n = len(torrents)
    keys = list(claims)
    rows = torrents.rows_of(np.array([key[0] for key in keys], "S40"))
    added = np.array([key[1] for key in keys], np.int64)
    live = rows >= 0
    live[live] &= torrents.added_on[rows[live]] == added[live]
    at = rows[live]
    held = [claim for claim, there in zip(claims.values(), live, strict=True) if there]

    def numbers(values: Iterable[int | None]) -> Int64:
        column = np.full(n, NONE, np.int64)
        column[at] = [NONE if value is None else value for value in values]
        return column

    def flags(values: Iterable[bool]) -> Bool:
        column = np.zeros(n, np.bool_)
        column[at] = list(values)
        return column

    since = np.full(n, np.inf)
    since[at] = [wall_now - c.written_at if c.written_at else np.inf for c in held]
    return Ownership(
        claimed=flags(c.original is not None for c in held),
        original=numbers(c.original for c in held),
        expected=numbers(c.written for c in held),
        pending=numbers(c.pending for c in held),
        foreign=flags(c.hold == "foreign" for c in held),
        rolled_back=flags(c.hold == "rollback" for c in held),
        since_written=since,
    )


def suspects(own: Ownership, torrents: Torrents, maybe_reset: Bool) -> Int64:
    """Rows whose value is neither expected nor the original, where the client may have lost our last write.

    For these the ledger must say whether qguard itself ever wrote the value.
    """
    odd = _unexpected(own, torrents) & maybe_reset & (torrents.up_limit != own.original)
    return np.flatnonzero(odd)


def _unexpected(own: Ownership, torrents: Torrents) -> Bool:
    wrote = own.claimed & ~own.held & (own.expected != NONE) & (own.pending == NONE)
    odd: Bool = wrote & (torrents.up_limit != own.expected)
    return odd


def reconcile(
    own: Ownership,
    torrents: Torrents,
    maybe_reset: Bool,
    *,
    written_before: Mapping[Key, frozenset[int]],
    reassert: Bool,
) -> tuple[Ownership, Findings]:
    """Compare what is there with what we wrote.

    Args:
        own: the claims.
        torrents: the reading.
        maybe_reset: (N,) whether the client may have lost our last write.
        written_before: for the rows of `suspects`, all values qguard ever wrote there.
        reassert: (N,) whether the torrent's tracker has foreign values overwritten instead of yielded to.

    Returns:
        The claims as they stand now, and what the ledger has to note.
    """
    value = torrents.up_limit
    # A pending write can be judged now. The value before it is the expected one, or the original when it was the first.
    pending = own.pending != NONE
    former = np.where(own.expected == NONE, own.original, own.expected)
    applied = pending & (value == own.pending)
    lost = pending & ~applied & ((value == former) | (value == own.original) | maybe_reset)
    overridden = pending & ~applied & ~lost

    unexpected = _unexpected(own, torrents)
    ours_again = unexpected & maybe_reset & (value == own.original)
    for row in suspects(own, torrents, maybe_reset):
        (key,) = torrents.keys(np.array([row]))
        ours_again[row] = int(value[row]) in written_before.get(key, frozenset())
    foreign = (unexpected & ~ours_again) | overridden
    yielded = foreign & ~reassert

    outcomes = [
        (key, outcome, int(value[row]))
        for mask, outcome in ((applied, "applied"), (lost, "lost"), (overridden, "overridden"))
        for row, key in _with_keys(torrents, mask)
    ]
    reset = ours_again | (foreign & reassert) | (lost & (own.expected != NONE) & (own.expected != value))
    findings = Findings(
        outcomes=tuple(outcomes),  # type: ignore[arg-type] # the literals above are outcomes
        foreign={key: int(value[row]) for row, key in _with_keys(torrents, yielded)},
        reset={key: int(value[row]) for row, key in _with_keys(torrents, reset)},
        seen=tuple(key for _, key in _with_keys(torrents, foreign)),
    )
    settled = replace(
        own,
        expected=np.where(applied | reset, value, own.expected),
        pending=np.full(len(value), NONE, np.int64),
        foreign=own.foreign | yielded,
    )
    return settled, findings


def _with_keys(torrents: Torrents, mask: Bool) -> Iterable[tuple[int, Key]]:
    rows = np.flatnonzero(mask)
    return zip(rows.tolist(), torrents.keys(rows), strict=True)

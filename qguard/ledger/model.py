"""The words of the ledger: claims, intents, changes, controls."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from qguard.ledger.errors import LedgerError

Key = tuple[str, int]
"""(info-hash as 40 lower-case hex digits, added_on in epoch seconds): deleted and added again is another torrent."""

Outcome = Literal["applied", "lost", "overridden", "gone"]
"""What became of a change: in force, never arrived, replaced by somebody else's value, or its torrent vanished."""

HoldKind = Literal["", "foreign", "rollback"]
"""Why a torrent is left alone: nothing, somebody else's limit, or a rollback that was not resumed yet."""

HIGHEST_LIMIT: Final = 2147483646
"""bytes/s. What lies above it means unlimited to qBittorrent."""

HIGHEST_INTEGER: Final = 2**63 - 1
"""What SQLite can hold."""

_HASH: Final = re.compile(r"[0-9a-f]{40}")


class Hold(NamedTuple):
    """A torrent that is to be left alone; an empty kind lifts the hold."""

    kind: HoldKind
    value: int | None = None
    """bytes/s: the limit that was found, or restored, when the hold began."""


class Claim(msgspec.Struct, frozen=True):
    """A torrent that qguard has touched, is about to, or leaves alone on purpose. Limits in bytes/s, 0 for none."""

    hash: str
    added_on: int
    tracker: str
    """Name of the rule, as of the last change; empty for a hold on a torrent that was never claimed."""
    original: int | None
    """The limit before qguard first touched it; None when it is not claimed and only a hold is remembered."""
    written: int | None
    """The last value known to have been applied by qguard."""
    pending: int | None
    """The value of a change whose outcome is not known."""
    pending_change: int | None
    """The id of that change."""
    hold: HoldKind
    hold_value: int | None
    claimed_at: float
    """Epoch seconds."""
    written_at: float
    """Epoch seconds at which `written` was last confirmed; 0.0 for never."""
    last_action: int | None

    @property
    def key(self) -> Key:
        """How the ledger names this torrent."""
        return self.hash, self.added_on


class Intent(msgspec.Struct, frozen=True):
    """A change that is about to be sent. Limits in bytes/s, 0 for none."""

    hash: str
    added_on: int
    tracker: str
    old: int
    new: int
    why: str
    original: int
    """Counts only when the torrent has no claim yet."""

    @property
    def key(self) -> Key:
        """How the ledger names this torrent."""
        return self.hash, self.added_on


class Action(msgspec.Struct, frozen=True):
    """What `Ledger.record` stored: the id of the action and each intent with the id of its change."""

    id: int
    changes: tuple[tuple[int, Intent], ...]


class Change(msgspec.Struct, frozen=True):
    """One line of the history. Limits in bytes/s, 0 for none; times in epoch seconds."""

    id: int
    action: int
    kind: str
    at: float
    hash: str
    added_on: int
    tracker: str
    old: int
    new: int
    why: str
    outcome: str
    """An `Outcome`, or "recorded" while it is not known."""
    observed: int | None
    """The limit that was read back."""
    settled_at: float | None


class ActionSummary(msgspec.Struct, frozen=True):
    """One action and how many of its changes ended how."""

    id: int
    kind: str
    at: float
    who: str
    reason: str
    outcomes: Mapping[str, int]


class Control(msgspec.Struct, frozen=True):
    """A decision by API or command that outlives restarts."""

    value: Any
    """Anything JSON can hold, except null."""
    at: float
    who: str
    reason: str


def check_intents(intents: Iterable[Intent]) -> None:
    """Refuse what must never be sent.

    Raises:
        LedgerError: an impossible hash or limit, or two changes of one torrent.
    """
    seen: set[Key] = set()
    for intent in intents:
        check_key(intent.key)
        check_limit(intent.key, intent.old)
        check_limit(intent.key, intent.new, HIGHEST_LIMIT)
        check_limit(intent.key, intent.original)
        if intent.key in seen:
            raise LedgerError(f"refused to record two changes of {intent.hash} in one action")
        seen.add(intent.key)


def check_key(key: Key) -> None:
    """Raise LedgerError for a key that is not (40 hex digits, 64-bit integer)."""
    name, added_on = key
    if not _HASH.fullmatch(name):
        raise LedgerError(f"refused to record {name!r}: not an info-hash of 40 lower-case hex digits")
    if type(added_on) is not int or abs(added_on) > HIGHEST_INTEGER:
        raise LedgerError(f"refused to record {name}: {added_on!r} is not a time in whole seconds")


def check_limit(key: Key, limit: int, highest: int = HIGHEST_INTEGER) -> None:
    """Raise LedgerError for a limit (bytes/s) that is not a plain integer, negative, or above `highest`."""
    if type(limit) is not int or not 0 <= limit <= highest:
        raise LedgerError(f"refused to record {limit!r} B/s for {key[0]}: not a whole number from 0 to {highest}")

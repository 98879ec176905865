"""The ledger: one connection, one writer, and a mirror in memory that never runs ahead of the disk."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, ParamSpec, Self, TypeVar

import aiosqlite
import msgspec
import structlog

from qguard.ledger import claims as claim_rules
from qguard.ledger import history, originals, schema
from qguard.ledger.claims import Draft
from qguard.ledger.errors import LedgerError, of_sqlite
from qguard.ledger.model import (
    Action,
    ActionSummary,
    Change,
    Claim,
    Control,
    Hold,
    HoldKind,
    Intent,
    Key,
    Outcome,
    check_intents,
    check_key,
    check_limit,
)
from qguard.ledger.originals import Original

ADOPTED: Final = ("adopted", "*")
"""The control that says an operator decided about limits found at first contact."""

DAY: Final = 86400.0

COMPACT_FROM: Final = 1000
"""Superfluous lines of the plain file that are not worth rewriting it."""

_T = TypeVar("_T")
_P = ParamSpec("_P")
_log: Final = structlog.get_logger(__name__)

_LOAD_CLAIMS: Final = """
    SELECT hash, added_on, tracker, original, written, pending, pending_change, hold, hold_value,
           claimed_at, written_at, last_action
    FROM claims
"""
_STORE_CLAIM: Final = "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NO_HOLDS: Final[Mapping[Key, Hold]] = MappingProxyType({})
_NO_VALUES: Final[Mapping[Key, int]] = MappingProxyType({})
_NO_CONTROLS: Final[Mapping[tuple[str, str], object]] = MappingProxyType({})


class Ledger:
    """What qguard changed, means to change and must be able to undo.

    Nothing may be sent to qBittorrent unless `record` returned. Every method that stores something either stores all
    of it, and only then changes `claims` and `controls`, or raises LedgerError and changes nothing; being cancelled
    does not stop it half way. One process writes, see `ServiceLock`; others may open with `readonly`. It has to be
    closed: its connection has a thread that the process would wait for.
    """

    def __init__(self, db: aiosqlite.Connection, path: Path, *, clock: Callable[[], float], readonly: bool) -> None:
        """Use `open`."""
        self.path = path
        self.originals_path = originals.originals_path(path)
        self._db: aiosqlite.Connection | None = db
        self._clock = clock
        self._readonly = readonly
        self._lock = asyncio.Lock()
        self._claims: dict[Key, Claim] = {}
        self._controls: dict[tuple[str, str], Control] = {}
        self._has_changes = False

    @classmethod
    async def open(
        cls, path: Path | str, *, clock: Callable[[], float] = time.time, readonly: bool = False
    ) -> "Ledger":
        """Open the database at `path`, and the plain file beside it.

        Args:
            path: of the database; it and its folder are created when missing, for their owner only.
            clock: epoch seconds.
            readonly: for commands beside a running service: reads what was there at this moment, never writes.

        Raises:
            LedgerError: it cannot be read or written, is not a ledger, or is one of a newer qguard.
        """
        path = _absolute(path)
        ledger = cls(await schema.connect(path, readonly=readonly), path, clock=clock, readonly=readonly)
        try:
            await ledger._load()
            if not readonly:
                await asyncio.to_thread(ledger._reconcile)
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def close(self) -> None:
        """Finish what is under way and let go of the files. Closing twice does nothing."""
        async with self._lock:
            db, self._db = self._db, None
            if db is not None:
                await db.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def claims(self) -> Mapping[Key, Claim]:
        """All claims and holds, as stored."""
        return MappingProxyType(self._claims)

    @property
    def controls(self) -> Mapping[tuple[str, str], Control]:
        """All controls by (name, scope), as stored."""
        return MappingProxyType(self._controls)

    @property
    def is_new(self) -> bool:
        """Whether no change was ever recorded and nothing adopted: the limits found are of unknown origin."""
        return not self._has_changes and ADOPTED not in self._controls

    def originals(self, tracker: str | None = None) -> list[Claim]:
        """The claims that have an original to restore, of one tracker or all."""
        return [
            claim for claim in self._claims.values() if claim.original is not None and tracker in (None, claim.tracker)
        ]

    async def record(
        self,
        kind: str,
        intents: Iterable[Intent],
        *,
        who: str,
        reason: str,
        holds: Mapping[Key, Hold] = _NO_HOLDS,
        controls: Mapping[tuple[str, str], object] = _NO_CONTROLS,
    ) -> Action:
        """Store, durably, what is about to be sent.

        Args:
            kind: of action, like "cycle" or "rollback".
            intents: at most one per torrent.
            who: caused it.
            reason: in words, without announce URLs.
            holds: to set, or with an empty kind to lift, in the same step.
            controls: to set, or with None to clear, in the same step.

        Raises:
            LedgerError: nothing was stored, so nothing may be sent.
        """
        wanted = tuple(intents)
        check_intents(wanted)
        return await self._finish(self._record, kind, wanted, who, reason, holds, controls)

    async def _record(
        self,
        kind: str,
        intents: tuple[Intent, ...],
        who: str,
        reason: str,
        holds: Mapping[Key, Hold],
        controls: Mapping[tuple[str, str], object],
    ) -> Action:
        at = self._clock()
        decided = _decided(controls, at, who, reason)
        async with self._transaction() as db:
            action = await _insert_action(db, kind, at, who, reason)
            first = 1 + await schema.number(db, "SELECT seq FROM sqlite_sequence WHERE name = 'changes'")
            changes = tuple(enumerate(intents, first))
            draft = Draft(self._claims)
            for change, intent in changes:
                before = draft.get(intent.key)
                draft.put(intent.key, claim_rules.recorded(before, intent, change=change, action=action, at=at))
            _hold(draft, holds, at)
            await self._secure(draft)
            await db.executemany(
                """INSERT INTO changes (id, action, hash, added_on, tracker, old, new, why)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                [(change, action, i.hash, i.added_on, i.tracker, i.old, i.new, i.why) for change, i in changes],
            )
            await _store_claims(db, draft)
            await _store_controls(db, decided)
        self._take(draft, decided)
        self._has_changes |= bool(changes)
        return Action(action, changes)

    async def settle(
        self,
        outcomes: Iterable[tuple[Key, Outcome, int | None]],
        *,
        release: Collection[Key] = (),
        holds: Mapping[Key, Hold] = _NO_HOLDS,
        reset: Mapping[Key, int] = _NO_VALUES,
    ) -> None:
        """Store what became of pending changes. What has none pending is passed over.

        Args:
            outcomes: torrent, outcome, and the limit that was read back in bytes/s (None when there is none).
            release: torrents that have their originals back; they stay known only while a hold is on them.
            holds: to set, or with an empty kind to lift, in the same step.
            reset: claimed torrents that have another value than our last write, bytes/s, which counts as ours from
                now on: the client lost the write, or the value is somebody's that is to be overwritten.

        Raises:
            LedgerError: nothing was stored.
        """
        await self._finish(self._settle, tuple(outcomes), release, holds, reset)

    async def _settle(
        self,
        outcomes: tuple[tuple[Key, Outcome, int | None], ...],
        release: Collection[Key],
        holds: Mapping[Key, Hold],
        reset: Mapping[Key, int],
    ) -> None:
        at = self._clock()
        draft = Draft(self._claims)
        ended: list[tuple[Outcome, int | None, float, int | None]] = []
        for key, outcome, observed in outcomes:
            claim = draft.get(key)
            if claim is None or claim.pending_change is None:
                continue
            ended.append((outcome, observed, at, claim.pending_change))
            draft.put(key, claim_rules.settled(claim, outcome, at=at))
        for key, value in reset.items():
            check_limit(key, value)
            claim = draft.get(key)
            if claim is not None and claim.original is not None:
                draft.put(key, msgspec.structs.replace(claim, written=value))
        _hold(draft, holds, at)
        restored = []
        for key in release:
            claim = draft.get(key)
            if claim is not None and claim.original is not None:
                restored.append(key)
                draft.put(key, claim_rules.released(claim))
        if not draft.changed:
            return
        async with self._transaction() as db:
            await db.executemany("UPDATE changes SET outcome = ?, observed = ?, settled_at = ? WHERE id = ?", ended)
            await _store_claims(db, draft)
        self._take(draft)
        if restored:
            await self._tidy(originals.append, self.originals_path, originals.release_lines(restored))

    async def hold(self, keys: Iterable[Key], kind: HoldKind, value: int | None = None) -> None:
        """Leave these torrents alone; `value` is the limit they were found with, bytes/s.

        Raises:
            LedgerError: nothing was stored.
        """
        await self.settle((), holds=dict.fromkeys(keys, Hold(kind, value)))

    async def unhold(self, keys: Iterable[Key]) -> None:
        """Lift the holds on these torrents.

        Raises:
            LedgerError: nothing was stored.
        """
        await self.hold(keys, "")

    async def set_control(self, name: str, scope: str, value: object, who: str, reason: str) -> None:
        """Remember a decision; `value` is anything JSON can hold, None clears it.

        Raises:
            LedgerError: nothing was stored.
        """
        await self._finish(self._control, _decided({(name, scope): value}, self._clock(), who, reason))

    async def clear_control(self, name: str, scope: str) -> None:
        """Forget a decision.

        Raises:
            LedgerError: nothing was stored.
        """
        await self._finish(self._control, {(name, scope): None})

    async def _control(self, decided: dict[tuple[str, str], Control | None]) -> None:
        async with self._transaction() as db:
            await _store_controls(db, decided)
        self._take(Draft(self._claims), decided)

    async def adopt(self, originals: Mapping[Key, tuple[int, int, str]], *, mode: str, who: str) -> None:
        """Claim torrents with originals that an operator gave, at first contact. Claims keep originals they have.

        Args:
            originals: (original, current limit, tracker) of each torrent; limits in bytes/s, 0 for unlimited.
            mode: where the originals come from, kept with the control.
            who: decided it.

        Raises:
            LedgerError: nothing was stored.
        """
        for key, (original, current, _) in originals.items():
            check_key(key)
            check_limit(key, original)
            check_limit(key, current)
        await self._finish(self._adopt, originals, mode, who)

    async def _adopt(self, adopted: Mapping[Key, tuple[int, int, str]], mode: str, who: str) -> None:
        at = self._clock()
        decided = _decided({ADOPTED: {"mode": mode, "torrents": len(adopted)}}, at, who, mode)
        draft = Draft(self._claims)
        for key, (original, current, tracker) in adopted.items():
            before = draft.get(key)
            if before is None or before.original is None:
                claim = claim_rules.claimed(before, key, tracker=tracker, original=original, at=at)
                draft.put(key, msgspec.structs.replace(claim, written=current, written_at=at))
        async with self._transaction() as db:
            await self._secure(draft)
            await _insert_action(db, "adopt", at, who, mode)
            await _store_claims(db, draft)
            await _store_controls(db, decided)
        self._take(draft, decided)

    async def forget(self, keys: Iterable[Key]) -> None:
        """Drop everything but the history of torrents that the client will never list again.

        Raises:
            LedgerError: nothing was dropped.
        """
        await self._finish(self._forget, set(keys))

    async def _forget(self, keys: set[Key]) -> None:
        draft = Draft(self._claims)
        for key in keys & self._claims.keys():
            draft.put(key, None)
        if not draft.changed:
            return
        async with self._transaction() as db:
            await _store_claims(db, draft)
        self._take(draft)
        await self._tidy(self._compact, keys)

    async def prune(self, keep_days: float, max_rows: int) -> int:
        """Shorten the history, oldest first; claims, and the changes they wait for, stay.

        Args:
            keep_days: changes older than this go.
            max_rows: of what is left, all but this many go.

        Returns:
            How many changes were deleted.

        Raises:
            LedgerError: it stopped; what was deleted until then stays deleted.
        """
        self._writable()
        before = self._clock() - keep_days * DAY
        async with self._reading() as db:
            boundary = await history.prune_boundary(db, before=before, max_rows=max_rows)
        deleted, done = 0, 0
        while done < boundary:
            count, done = await self._finish(self._prune, done, boundary)
            deleted += count
        return deleted

    async def _prune(self, after: int, boundary: int) -> tuple[int, int]:
        async with self._transaction() as db:
            return await history.prune_batch(db, after=after, boundary=boundary)

    async def first_old_since(self, action: int | None = None, since: float | None = None) -> dict[Key, int]:
        """What torrents had before an action, or before a time, in bytes/s.

        Args:
            action: the torrents that this action changed, and what each had before it.
            since: the torrents changed at or after this time (epoch seconds), and what each had before the first time.

        Returns:
            Only torrents with a change that may have been applied.

        Raises:
            LedgerError: there is no such action, or the history does not reach back so far any more.
            ValueError: not exactly one of the two was given.
        """
        if (action is None) == (since is None):
            raise ValueError("give either an action or a time")
        async with self._reading() as db:
            if action is not None:
                return await history.first_old_of_action(db, action)
            return await history.first_old_since(db, since or 0.0)

    async def ever_written(self, keys: Iterable[Key]) -> dict[Key, frozenset[int]]:
        """Every value (bytes/s) that qguard wrote or meant to write to each of these torrents, and their originals.

        Raises:
            LedgerError: it could not be read.
        """
        async with self._reading() as db:
            values = await history.values_written(db, set(keys))
        for key, found in values.items():
            claim = self._claims.get(key)
            if claim is not None:  # its last values may outlive the history
                found.update(v for v in (claim.original, claim.written, claim.pending) if v is not None)
        return {key: frozenset(found) for key, found in values.items()}

    async def history(
        self,
        *,
        hash: str | None = None,  # noqa: A002 - the word of qBittorrent's and our API
        tracker: str | None = None,
        action: int | None = None,
        before_id: int | None = None,
        limit: int = 100,
    ) -> list[Change]:
        """One page of changes, newest first; `before_id` is the last id of the page before.

        Raises:
            LedgerError: it could not be read.
        """
        query = history.changes_query(hash=hash, tracker=tracker, action=action, before_id=before_id, limit=limit)
        async with self._reading() as db:
            return await history.changes(db, query)

    async def actions(self, before_id: int | None = None, limit: int = 50) -> list[ActionSummary]:
        """One page of actions, newest first; `before_id` is the last id of the page before.

        Raises:
            LedgerError: it could not be read.
        """
        async with self._reading() as db:
            return await history.actions(db, before_id=before_id, limit=limit)

    async def _load(self) -> None:
        async with self._reading() as db:
            await db.execute("BEGIN")  # one moment, however much the service writes meanwhile
            for row in await db.execute_fetchall(_LOAD_CLAIMS):
                claim = Claim(*row)
                self._claims[claim.key] = claim
            for name, scope, value, at, who, reason in await db.execute_fetchall(
                "SELECT name, scope, value, at, who, reason FROM controls"
            ):
                self._controls[name, scope] = Control(msgspec.json.decode(value), at, who, reason)
            self._has_changes = bool(await schema.number(db, "SELECT seq FROM sqlite_sequence WHERE name = 'changes'"))
            await db.execute("COMMIT")

    def _reconcile(self) -> None:
        """Bring the plain file up to the database; what only the file says stays, it may know more."""
        found = originals.load(self.originals_path)
        if found.damaged:
            aside = self.originals_path.with_name(f"{self.originals_path.name}.damaged-{int(self._clock())}")
            self.originals_path.rename(aside)
            _log.warning("originals file was damaged and is written anew", lines=found.damaged, kept_as=str(aside))
        ours = {key: Original(c.original, c.tracker) for key, c in self._claims.items() if c.original is not None}
        if found.damaged or found.lines > 2 * len(found.entries) + COMPACT_FROM:
            originals.rewrite(self.originals_path, (found.entries | ours).items())
            return
        missing = {
            key: original
            for key, original in ours.items()
            if key not in found.entries or found.entries[key].limit != original.limit
        }
        originals.append(self.originals_path, originals.original_lines(missing.items()))

    def _compact(self, without: set[Key]) -> None:
        entries = originals.load(self.originals_path).entries
        originals.rewrite(self.originals_path, ((k, original) for k, original in entries.items() if k not in without))

    async def _secure(self, draft: Draft) -> None:
        """Put new originals into the plain file; the database may only know of them afterwards."""
        lines = [(key, Original(c.original or 0, c.tracker)) for key, c in draft.new_originals().items()]
        await asyncio.to_thread(originals.append, self.originals_path, originals.original_lines(lines))

    async def _tidy(self, work: Callable[..., None], *args: object) -> None:
        """Take lines out of the plain file. They are superfluous, so that failing to is no failure of ours."""
        try:
            await asyncio.to_thread(work, *args)
        except LedgerError as error:
            _log.warning("originals file keeps superfluous lines", error=str(error))

    def _take(self, draft: Draft, decided: Mapping[tuple[str, str], Control | None] = MappingProxyType({})) -> None:
        """Let the mirror follow what was committed."""
        for key, claim in draft.changed.items():
            if claim is None:
                self._claims.pop(key, None)
            else:
                self._claims[key] = claim
        for name, control in decided.items():
            if control is None:
                self._controls.pop(name, None)
            else:
                self._controls[name] = control

    def _writable(self) -> None:
        if self._readonly:
            raise LedgerError(f"ledger {self.path} is open for reading only: ask the running service to do this")

    async def _finish(self, work: Callable[_P, Awaitable[_T]], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Do `work` alone and to its end, even when the caller is cancelled meanwhile."""

        async def alone() -> _T:
            async with self._lock:
                return await work(*args, **kwargs)

        self._writable()
        return await asyncio.shield(asyncio.ensure_future(alone()))

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[aiosqlite.Connection]:
        """The connection, while no transaction is open on it."""
        async with self._lock:
            try:
                yield self._connection()
            except sqlite3.Error as error:
                raise of_sqlite(self.path, error) from error

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[aiosqlite.Connection]:
        """All of it or nothing. The lock is held already."""
        db = self._connection()
        try:
            await db.execute("BEGIN IMMEDIATE")
            yield db
            await db.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # some failures end the transaction themselves
                await db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise of_sqlite(self.path, error) from error
            if isinstance(error, (ValueError, OverflowError)):  # what a parameter of SQLite must not be
                raise LedgerError(f"ledger {self.path}: refused to store a value: {error}") from error
            raise

    def _connection(self) -> aiosqlite.Connection:
        if self._db is None:
            raise LedgerError(f"ledger {self.path} is closed")
        return self._db


def _absolute(path: Path | str) -> Path:
    return Path(path).absolute()


def _decided(
    controls: Mapping[tuple[str, str], object], at: float, who: str, reason: str
) -> dict[tuple[str, str], Control | None]:
    return {name: None if value is None else Control(value, at, who, reason) for name, value in controls.items()}


def _hold(draft: Draft, holds: Mapping[Key, Hold], at: float) -> None:
    for key, hold in holds.items():
        check_key(key)
        draft.put(key, claim_rules.held(draft.get(key), key, hold, at=at))


async def _insert_action(db: aiosqlite.Connection, kind: str, at: float, who: str, reason: str) -> int:
    cursor = await db.execute(
        "INSERT INTO actions (kind, at, who, reason) VALUES (?, ?, ?, ?)", (kind, at, who, reason)
    )
    return cursor.lastrowid or 0


async def _store_claims(db: aiosqlite.Connection, draft: Draft) -> None:
    gone = [key for key, claim in draft.changed.items() if claim is None]
    kept = [msgspec.structs.astuple(claim) for claim in draft.changed.values() if claim is not None]
    await db.executemany("DELETE FROM claims WHERE hash = ? AND added_on = ?", gone)
    await db.executemany(_STORE_CLAIM, kept)


async def _store_controls(db: aiosqlite.Connection, decided: Mapping[tuple[str, str], Control | None]) -> None:
    for (name, scope), control in decided.items():
        if control is None:
            await db.execute("DELETE FROM controls WHERE name = ? AND scope = ?", (name, scope))
            continue
        try:
            value = msgspec.json.encode(control.value).decode()
        except (TypeError, ValueError) as error:
            raise LedgerError(f"control {name} ({scope}): JSON cannot hold {control.value!r}") from error
        await db.execute(
            "INSERT OR REPLACE INTO controls (name, scope, value, at, who, reason) VALUES (?, ?, ?, ?, ?, ?)",
            (name, scope, value, control.at, control.who, control.reason),
        )

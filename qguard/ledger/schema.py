"""The database file: who may open it, what its tables are, how older ones are brought up to date."""

import errno
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

import aiosqlite

from qguard.ledger.errors import LedgerError, damaged, of_sqlite, of_system

APPLICATION_ID: Final = 0x71677264
"""In the header of the file: "qgrd"."""

BUSY_TIMEOUT: Final = 5.0
"""Seconds to wait for a reader's checkpoint or a backup before giving up on a write."""

WAL_KEPT: Final = 16 * 2**20
"""Bytes of write-ahead log that stay on disk after a burst."""

_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE actions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL,
            at REAL NOT NULL,
            who TEXT NOT NULL,
            reason TEXT NOT NULL
        )""",
        "CREATE INDEX actions_by_time ON actions (at)",
        """CREATE TABLE changes (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            action INTEGER NOT NULL REFERENCES actions (id),
            hash TEXT NOT NULL,
            added_on INTEGER NOT NULL,
            tracker TEXT NOT NULL,
            old INTEGER NOT NULL,
            new INTEGER NOT NULL,
            why TEXT NOT NULL,
            outcome TEXT NOT NULL DEFAULT 'recorded'
                CHECK (outcome IN ('recorded', 'applied', 'lost', 'overridden', 'gone')),
            observed INTEGER,
            settled_at REAL
        )""",
        "CREATE INDEX changes_by_hash ON changes (hash)",
        "CREATE INDEX changes_by_tracker ON changes (tracker)",
        "CREATE INDEX changes_by_action ON changes (action, id, outcome)",
        """CREATE TABLE claims (
            hash TEXT NOT NULL CHECK (length(hash) = 40),
            added_on INTEGER NOT NULL,
            tracker TEXT NOT NULL,
            original INTEGER CHECK (original >= 0),
            written INTEGER,
            pending INTEGER,
            pending_change INTEGER REFERENCES changes (id),
            hold TEXT NOT NULL CHECK (hold IN ('', 'foreign', 'rollback')),
            hold_value INTEGER,
            claimed_at REAL NOT NULL,
            written_at REAL NOT NULL,
            last_action INTEGER,
            PRIMARY KEY (hash, added_on),
            CHECK ((pending IS NULL) = (pending_change IS NULL)),
            CHECK (original IS NOT NULL OR hold <> '')
        ) WITHOUT ROWID""",
        # Deleting a change asks whether a claim still needs it; without this every deletion would read all claims.
        "CREATE INDEX claims_by_pending ON claims (pending_change) WHERE pending_change IS NOT NULL",
        """CREATE TABLE controls (
            name TEXT NOT NULL,
            scope TEXT NOT NULL,
            value TEXT NOT NULL,
            at REAL NOT NULL,
            who TEXT NOT NULL,
            reason TEXT NOT NULL,
            PRIMARY KEY (name, scope)
        ) WITHOUT ROWID""",
        # Up to where the history was pruned: what was asked for before that cannot be answered any more.
        "CREATE TABLE pruned (id INTEGER PRIMARY KEY CHECK (id = 1), action INTEGER NOT NULL, at REAL NOT NULL)",
    ),
)

VERSION: Final = len(_MIGRATIONS)


async def connect(path: Path, *, readonly: bool) -> aiosqlite.Connection:
    """Open the database at `path` (absolute), created or brought up to date unless `readonly`.

    Raises:
        LedgerError: it is missing (readonly), cannot be written, is not a ledger, or is one of a newer qguard.
    """
    if readonly:
        _need_file(path)
    else:
        _make_file(path)
    mode = "ro" if readonly else "rw"
    try:
        db = await aiosqlite.connect(
            f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
        )
    except sqlite3.Error as error:
        raise of_sqlite(path, error) from error
    try:
        await _make_ready(db, path, readonly=readonly)
    except sqlite3.Error as error:
        await db.close()
        raise of_sqlite(path, error) from error
    except BaseException:
        await db.close()
        raise
    return db


def _need_file(path: Path) -> None:
    if not path.is_file():
        raise LedgerError(f"there is no ledger at {path}: start qguard once, or correct database_path")


def _make_file(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_new = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Some mounted volumes know no modes, and the file may be another user's that we are allowed to write.
            with suppress(OSError):
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise of_system(path, error) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):  # the log goes beside the database
        raise of_system(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def sync_folder(folder: Path) -> None:
    """Make the creation or renaming of a file in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def _make_ready(db: aiosqlite.Connection, path: Path, *, readonly: bool) -> None:
    try:
        version = await _version(db, path)
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
            _refuse(path, "is not an SQLite database")
        raise
    if version > VERSION:
        raise LedgerError(
            f"ledger {path} was written by a newer qguard (version {version} of its tables, this one knows {VERSION}):"
            " start that version again, or set database_path to another file"
        )
    if readonly:
        if version < VERSION:
            raise LedgerError(f"ledger {path} is empty or of an older qguard: start the service once to prepare it")
        await db.execute("PRAGMA query_only = ON")
        return
    mode = await db.execute_fetchall("PRAGMA journal_mode = WAL")
    if [tuple(row) for row in mode] != [("wal",)]:
        raise LedgerError(f"ledger {path}: no write-ahead log is possible there: set database_path to a local disk")
    await db.execute("PRAGMA synchronous = FULL")
    await db.execute("PRAGMA foreign_keys = ON")
    await db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
    await _migrate(db, path)


async def _version(db: aiosqlite.Connection, path: Path) -> int:
    """The version of our tables, 0 for an empty database."""
    application = await number(db, "PRAGMA application_id")
    version = await number(db, "PRAGMA user_version")
    tables = await number(db, "SELECT count(*) FROM sqlite_master")
    if application == APPLICATION_ID:
        if not tables:
            raise damaged(path, "it has no tables")
        return version
    if application or version or tables:
        _refuse(path, "is the database of another program")
    return 0


def _refuse(path: Path, what: str) -> NoReturn:
    raise LedgerError(f"{path} {what}, not a qguard ledger: set database_path to another file, or move this one away")


async def _migrate(db: aiosqlite.Connection, path: Path) -> None:
    await db.execute("BEGIN IMMEDIATE")
    try:
        for version in range(await _version(db, path), VERSION):
            for statement in _MIGRATIONS[version]:
                await db.execute(statement)
        await db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        await db.execute(f"PRAGMA user_version = {VERSION}")
        await db.execute("COMMIT")
    except BaseException:
        await db.execute("ROLLBACK")
        raise


async def number(db: aiosqlite.Connection, sql: str) -> int:
    """The one integer that `sql` answers, 0 for NULL or nothing."""
    rows = list(await db.execute_fetchall(sql))
    return int(rows[0][0] or 0) if rows else 0

"""What can go wrong with the ledger, in one line that says what to do."""

import errno
import sqlite3
from pathlib import Path
from typing import Final

_FULL: Final = "the disk is full: free some space there"
_READ_ONLY: Final = "the file system is read-only: mount it writable, or set database_path to a folder that is"
_FORBIDDEN: Final = "not permitted: give the user that runs qguard write access to the file and its folder"
_OS_REMEDIES: Final = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "the file may not grow further: raise the file size limit (ulimit -f)",
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EEXIST: "its folder is a file: correct database_path",
    errno.ENOTDIR: "a part of this path is a file, not a folder: correct database_path",
    errno.EISDIR: "this is a folder: database_path must name a file in it",
}
_SQLITE_REMEDIES: Final = {
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": "it cannot be written: give the user that runs qguard write access to the file and its folder",
    "SQLITE_BUSY": "another program keeps it locked: end that one (a backup, an sqlite3 shell) and try again",
    "SQLITE_CANTOPEN": "it cannot be opened: check that its folder exists and can be written by the user of qguard",
    "SQLITE_IOERR": "the disk did not read or write: check free space, the file size limit and the health of the disk",
}
_DAMAGED: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")


class LedgerError(Exception):
    """The ledger could not be read or written; what was asked was not stored."""


class PrunedError(LedgerError):
    """The history does not reach back far enough any more; what is younger than `at` (epoch seconds) is all there."""

    def __init__(self, words: str, at: float) -> None:
        super().__init__(words)
        self.at = at


def of_system(path: Path, error: OSError) -> LedgerError:
    """The LedgerError for an error of the operating system at `path`."""
    remedy = _OS_REMEDIES.get(error.errno or 0, f"{error.strerror}: check the disk and the folder")
    return LedgerError(f"ledger {path}: {remedy}")


def of_sqlite(path: Path, error: sqlite3.Error) -> LedgerError:
    """The LedgerError for an error of SQLite with the database at `path`."""
    name = getattr(error, "sqlite_errorname", "") or ""
    for code, remedy in _SQLITE_REMEDIES.items():
        if name == code or name.startswith(code + "_"):
            return LedgerError(f"ledger {path}: {remedy} ({name})")
    if name.startswith(_DAMAGED):
        return damaged(path, str(error))
    return LedgerError(f"ledger {path}: SQLite refused: {error}")


def damaged(path: Path, what: str) -> LedgerError:
    """The LedgerError for a database that is ours and cannot be used."""
    return LedgerError(
        f"ledger {path} is damaged ({what}): stop qguard, move the file away, start again and run"
        f" `qguard adopt --originals {path.with_suffix('')}.originals.jsonl`"
    )

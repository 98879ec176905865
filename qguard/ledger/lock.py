"""One service per ledger, and where it listens."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from qguard.ledger.errors import LedgerError, of_system

_CONTENT_LIMIT: Final = 4096
_READERS_TIMEOUT: Final = 2.0
"""Seconds to wait for those who only look whether somebody holds the lock; they take microseconds."""

_STEP: Final = 0.005


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock; url and token are empty until the service listens."""

    pid: int = 0
    url: str = ""
    token: str = ""
    started: float = 0.0
    """Epoch seconds."""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Holder(pid={self.pid}, url={self.url!r}, started={self.started})"


class LockedError(LedgerError):
    """Another process uses the ledger; `holder` says which."""

    def __init__(self, path: Path, holder: Holder) -> None:
        where = f"process {holder.pid}" + (f" at {holder.url}" if holder.url else ", still starting")
        super().__init__(f"ledger {path} is in use by {where}: stop that one first, or set another database_path")
        self.holder = holder


class ServiceLock:
    """The right to write to a ledger, for as long as this process lives.

    The kernel keeps it and takes it back when the process ends, however it ends; the content of the file counts only
    while somebody holds the lock. The file is never deleted: another process may be about to lock it.
    """

    def __init__(self, database_path: Path | str) -> None:
        self.database_path = Path(database_path).absolute()
        self.path = lock_path(self.database_path)
        self._handle: int | None = None
        self._started = 0.0

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LockedError: another process, or another lock of this one, has it.
            LedgerError: the file cannot be written.
        """
        if self._handle is not None:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise of_system(self.path, error) from error
        try:
            self._win(handle)
        except BaseException:
            os.close(handle)
            raise
        self._handle, self._started = handle, time.time()
        self.publish("", "")

    def publish(self, url: str, token: str) -> None:
        """Say where this process listens, and the token that its commands show.

        Raises:
            LedgerError: the lock is not held, or the file cannot be written.
        """
        if self._handle is None:
            raise LedgerError(f"{self.path} is not locked by this process")
        content = msgspec.json.encode(Holder(os.getpid(), url, token, self._started))
        try:
            # One write, padded over what was there: a reader sees the old content or the new.
            os.pwrite(self._handle, content.ljust(os.fstat(self._handle).st_size), 0)
        except OSError as error:
            raise of_system(self.path, error) from error

    def release(self) -> None:
        """Give the lock back. Releasing twice does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _win(self, handle: int) -> None:
        deadline = time.monotonic() + _READERS_TIMEOUT
        while not _try(handle, fcntl.LOCK_EX):
            # Whoever shares it only looks; a holder does not share.
            if not _try(handle, fcntl.LOCK_SH) or time.monotonic() > deadline:
                raise LockedError(self.database_path, _content(handle))
            fcntl.flock(handle, fcntl.LOCK_UN)
            time.sleep(_STEP)


def lock_path(database_path: Path) -> Path:
    """Where the lock of a database is."""
    return database_path.with_name(database_path.name + ".lock")


def read_holder(database_path: Path | str) -> Holder | None:
    """Who uses the ledger with this database, None for nobody.

    Raises:
        LedgerError: it cannot be told, because the lock file may not be read.
    """
    path = lock_path(Path(database_path).absolute())
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise of_system(path, error) from error
    try:
        return None if _try(handle, fcntl.LOCK_SH) else _content(handle)
    finally:
        os.close(handle)


def _try(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _content(handle: int) -> Holder:
    try:
        return msgspec.json.decode(os.pread(handle, _CONTENT_LIMIT, 0), type=Holder)
    except msgspec.DecodeError:  # it was locked a moment ago and says nothing yet
        return Holder()

"""The key that is made when we can be reached from elsewhere and none is configured."""

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import structlog

NAME: Final = "qguard.api_key"
"""Of the file, beside the ledger."""

SECRET_BYTES: Final = 32
SHORTEST: Final = 32
"""Characters below which the content cannot be a key of ours, but a file that was not written to its end."""

log = structlog.get_logger("qguard")


class KeyFileError(Exception):
    """The file cannot be used; one line that says what to do."""


def generated_key(path: Path) -> str:
    """The key in a file that only its user can read; made now where there is none.

    Raises:
        KeyFileError: the file is somebody else's, or cannot be read or written.
    """
    remedy = "set server.api_key, or make the folder writable"
    try:
        found = _read(path)
        if found is None:
            found = secrets.token_urlsafe(SECRET_BYTES)
            _write(path, found)
            log.warning(f"reachable from elsewhere and no server.api_key is set: a key was made, it is in {path}")
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}; {remedy}") from None
    return found


def _read(path: Path) -> str | None:
    """None where there is no key."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(handle, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_uid not in {os.geteuid(), 0}:
            raise KeyFileError(f"{path} is not a file of this user: remove it, or set server.api_key")
        if found.st_mode & 0o077:
            with contextlib.suppress(OSError):  # a file system without modes; the warning tells
                os.fchmod(handle, 0o600)
            log.warning(f"{path} was open to other users: if one may have read it, delete it and restart for a new key")
        key = file.read(4096).strip()
    return key if len(key) >= SHORTEST else None


def _write(path: Path, key: str) -> None:
    """At once or not at all: a key that is half on disk would lock everybody out."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

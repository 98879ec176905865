"""The plain file: every original a second time, one JSON object per line, readable by sed and awk.

A line either gives a torrent's original or says that it was restored; the last line about a torrent wins. A line is
in the file, durably, before the database knows of it. So the file may say more than the database, never less.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from qguard.ledger.errors import LedgerError, of_system
from qguard.ledger.model import Key
from qguard.ledger.schema import sync_folder

_HASH: Final = r"^[0-9a-f]{40}$"
_CHUNK: Final = 65536
_TEMPORARY: Final = ".new"


class Original(NamedTuple):
    """What a torrent had: bytes/s, 0 for unlimited, and the rule it was under."""

    limit: int
    tracker: str


@dataclass(slots=True)
class Contents:
    """What a plain file says."""

    entries: dict[Key, Original] = field(default_factory=dict)
    """In the order of their last lines."""
    lines: int = 0
    damaged: list[int] = field(default_factory=list)
    """Numbers of complete lines that make no sense. A torn last line is none of them."""


class _OriginalLine(msgspec.Struct, frozen=True):
    hash: str
    added_on: int
    limit: int
    tracker: str


class _ReleaseLine(msgspec.Struct, frozen=True):
    hash: str
    added_on: int
    released: bool = True


class _AnyLine(msgspec.Struct, frozen=True):
    hash: str
    added_on: int
    limit: int | None = None
    tracker: str = ""
    released: bool = False


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_AnyLine).decode


def originals_path(database: Path) -> Path:
    """Where the plain file of a database is: beside it, `ledger.db` has `ledger.originals.jsonl`."""
    return database.with_name(f"{database.stem}.originals.jsonl")


def original_lines(originals: Iterable[tuple[Key, Original]]) -> bytes:
    """Lines that give originals."""
    return b"".join(_encode(_OriginalLine(*key, *original)) + b"\n" for key, original in originals)


def release_lines(keys: Iterable[Key]) -> bytes:
    """Lines that say these torrents have their originals back."""
    return b"".join(_encode(_ReleaseLine(*key)) + b"\n" for key in keys)


def read_originals_file(path: Path) -> dict[Key, int]:
    """The originals in a plain file: bytes/s by key, 0 for unlimited.

    Raises:
        LedgerError: it cannot be read, or a line other than a torn last one makes no sense.
    """
    if not path.exists():
        raise LedgerError(f"there is no file {path}: give the .originals.jsonl file beside the ledger")
    contents = load(path)
    if contents.damaged:
        raise LedgerError(
            f"{path}, line {contents.damaged[0]}: not an original as qguard writes it"
            ' ({"hash":"<40 hex>","added_on":N,"limit":N,"tracker":"name"}): correct or remove that line'
        )
    return {key: original.limit for key, original in contents.entries.items()}


def load(path: Path) -> Contents:
    """Everything a plain file says; nothing when there is none.

    Raises:
        LedgerError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Contents()
    except OSError as error:
        raise of_system(path, error) from error
    contents = Contents()
    *lines, tail = data.split(b"\n")
    if _parse(tail):
        lines.append(tail)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        contents.lines += 1
        parsed = _parse(line)
        if parsed is None:
            contents.damaged.append(number)
            continue
        key = parsed.hash, parsed.added_on
        contents.entries.pop(key, None)
        if parsed.limit is not None:
            contents.entries[key] = Original(parsed.limit, parsed.tracker)
    return contents


def _parse(line: bytes) -> _AnyLine | None:
    try:
        parsed = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not re.match(_HASH, parsed.hash) or (parsed.limit is None) != parsed.released or (parsed.limit or 0) < 0:
        return None
    return parsed


def append(path: Path, lines: bytes) -> None:
    """Add complete lines and make them durable, the file's name included.

    Raises:
        LedgerError: they could not be stored; the file is as it was, save for a superfluous or torn last line.
    """
    if not lines:
        return
    try:
        is_new = not path.exists()
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _mend_tail(handle)
            _store(handle, lines)
        finally:
            os.close(handle)
        if is_new:
            sync_folder(path.parent)
    except OSError as error:
        raise of_system(path, error) from error


def rewrite(path: Path, entries: Iterable[tuple[Key, Original]]) -> None:
    """Replace the file, in one step: whoever reads it, whenever the power fails, sees the old or the new one.

    Raises:
        LedgerError: it could not be stored; the file is as it was.
    """
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _store(handle, original_lines(entries))
        finally:
            os.close(handle)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise of_system(path, error) from error


def _store(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
    os.fsync(handle)


def _mend_tail(handle: int) -> None:
    """Complete or cut off a last line without an end, so that the next line does not become part of it."""
    size = os.fstat(handle).st_size
    tail, start = b"", size
    while start and b"\n" not in tail:
        start = max(0, start - _CHUNK)
        tail = os.pread(handle, size - start, start)
    torn = tail.rpartition(b"\n")[2]
    if not torn:
        return
    if _parse(torn):  # an editor that leaves out the last line end
        os.write(handle, b"\n")
    else:
        os.ftruncate(handle, size - len(torn))

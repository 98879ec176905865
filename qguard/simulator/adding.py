"""torrents/add: what is in .torrent files and magnet links."""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from qguard.simulator.client import Torrent
from qguard.simulator.listing import Details

_END: Final = ord("e")
_DEEPEST: Final = 100
_SKIPS_CHECKING: Final = ("skip_checking", "seedMode")
_STOPPED: Final = ("paused", "stopped")


class NoTorrentError(Exception):
    """Not a .torrent file, or not a magnet link."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A torrent as its file or link describes it."""

    infohash: str
    name: str
    tiers: tuple[str, ...]
    """Announce URLs."""
    size: int = 0
    piece: int = 2**20
    private: bool = False
    metadata: bool = True
    infohash_v1: str = ""
    infohash_v2: str = ""
    files: tuple[tuple[str, int], ...] = ()
    """Path below the save path, and bytes."""


def parse_file(raw: bytes) -> Parsed:
    """A .torrent file, v1, v2 or hybrid.

    Raises:
        NoTorrentError: it is none.
    """
    try:
        outer, spans, end = _dictionary(raw, 0, 0)
        begin, stop = spans[b"info"]
        info = outer[b"info"]
        name = info[b"name"].decode(errors="replace")
        files = _files(info, name)
        tiers = [url for tier in outer.get(b"announce-list", []) for url in tier] or [outer.get(b"announce", b"")]
        announce = tuple(dict.fromkeys(url.decode() for url in tiers if url))
        piece = int(info[b"piece length"])
    except (KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise NoTorrentError from error
    if end != len(raw) or piece <= 0:
        raise NoTorrentError
    v1 = hashlib.sha1(raw[begin:stop], usedforsecurity=False).hexdigest() if b"pieces" in info else ""
    v2 = hashlib.sha256(raw[begin:stop]).hexdigest() if info.get(b"meta version") == 2 else ""
    if not v1 and not v2:
        raise NoTorrentError
    return Parsed(
        infohash=v2[:40] or v1,
        name=name,
        tiers=announce,
        size=sum(size for _, size in files),
        piece=piece,
        private=info.get(b"private") == 1,
        infohash_v1=v1,
        infohash_v2=v2,
        files=files,
    )


def parse_magnet(link: str) -> Parsed:
    """A magnet link with a v1 hash.

    Raises:
        NoTorrentError: it is none.
    """
    try:
        parts = urlsplit(link.strip())
    except ValueError:
        raise NoTorrentError from None
    if parts.scheme != "magnet":
        raise NoTorrentError
    query = parse_qs(parts.query)
    for topic in query.get("xt", []):
        kind, _, value = topic.rpartition(":")
        if kind == "urn:btih" and (infohash := _v1(value)):
            name = unquote(query.get("dn", [infohash])[0])
            tiers = tuple(dict.fromkeys(query.get("tr", [])))
            return Parsed(infohash, name, tiers, metadata=False, infohash_v1=infohash)
    raise NoTorrentError


def _v1(value: str) -> str:
    try:
        if len(value) == 40:
            return bytes.fromhex(value).hex()
        return base64.b32decode(value.upper()).hex() if len(value) == 32 else ""
    except (ValueError, binascii.Error):
        return ""


def _files(info: dict[bytes, Any], name: str) -> tuple[tuple[str, int], ...]:
    if b"length" in info:
        return ((name, int(info[b"length"])),)
    if b"files" in info:
        rows = info[b"files"]
        return tuple(("/".join([name, *(p.decode() for p in row[b"path"])]), int(row[b"length"])) for row in rows)
    return tuple(_tree(info[b"file tree"], name))


def _tree(node: dict[bytes, Any], path: str) -> list[tuple[str, int]]:
    found = []
    for name, inner in node.items():
        here = f"{path}/{name.decode()}"
        found += [(here, int(inner[b""][b"length"]))] if b"" in inner else _tree(inner, here)
    return found


def _dictionary(raw: bytes, at: int, depth: int) -> tuple[dict[bytes, Any], dict[bytes, tuple[int, int]], int]:
    """A bencoded dictionary, where each value stands, and where it ends."""
    if raw[at : at + 1] != b"d" or depth > _DEEPEST:
        raise ValueError("no dictionary")
    at += 1
    made, spans = {}, {}
    while raw[at] != _END:
        key, at = _value(raw, at, depth + 1)
        begin = at
        made[key], at = _value(raw, at, depth + 1)
        spans[key] = (begin, at)
    return made, spans, at + 1


def _value(raw: bytes, at: int, depth: int) -> tuple[Any, int]:
    """A bencoded value, and where it ends."""
    first = raw[at : at + 1]
    if first == b"d":
        made, _, end = _dictionary(raw, at, depth)
        return made, end
    if first == b"l" and depth <= _DEEPEST:
        items = []
        at += 1
        while raw[at] != _END:
            item, at = _value(raw, at, depth + 1)
            items.append(item)
        return items, at + 1
    if first == b"i":
        end = raw.index(b"e", at)
        return int(raw[at + 1 : end]), end + 1
    colon = raw.index(b":", at)
    size = int(raw[at:colon])
    if size < 0 or colon + 1 + size > len(raw):
        raise ValueError("a text beyond the end")
    return raw[colon + 1 : colon + 1 + size], colon + 1 + size


def is_there(parsed: Parsed, folder: Path) -> bool:
    """Whether files of the right sizes are in a folder; what is in them is not looked at."""
    try:
        return parsed.metadata and all((folder / path).stat().st_size == size for path, size in parsed.files)
    except (OSError, ValueError):
        return False


def yes(form: Mapping[str, str], *names: str) -> bool:
    """Whether one of these options is set."""
    return any(form.get(name, "").lower() in {"true", "1"} for name in names)


def make(
    parsed: Parsed, form: Mapping[str, str], *, folder: str, habit: int, now: int
) -> tuple[Torrent, Details, bool]:
    """The torrent that the options of torrents/add make of it.

    Args:
        parsed: the file or link.
        form: the options.
        folder: where torrents go when the options name no other.
        habit: how its leechers behave.
        now: epoch seconds.

    Returns:
        The torrent, what is special about it, and whether it is finished as soon as it has been checked.
    """
    where = form.get("savepath") or folder
    skipped = parsed.metadata and yes(form, *_SKIPS_CHECKING)
    checked = parsed.metadata and not skipped and is_there(parsed, Path(where))
    stopped = yes(form, *_STOPPED)
    down = not (skipped or checked)
    torrent = Torrent(
        infohash=parsed.infohash,
        name=form.get("rename") or parsed.name,
        announce=parsed.tiers,
        category=form.get("category", ""),
        tags=tuple(dict.fromkeys(tag.strip() for tag in form.get("tags", "").split(",") if tag.strip())),
        added_on=now,
        size=parsed.size,
        downloading=down,
        habit=-1 if down or stopped else habit,
    )
    details = Details(
        save_path=where,
        private=parsed.private,
        stopped=stopped,
        metadata=parsed.metadata,
        infohash_v1=parsed.infohash_v1,
        infohash_v2=parsed.infohash_v2,
        piece=parsed.piece,
    )
    return torrent, details, checked and not stopped

"""Torrents that cost nothing: sparse files of zeros, whose pieces all have the same hash."""

import hashlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.daemon import Daemon
from tests.support.webapi import WebApi

PIECE: Final = 64 * 1024  # small, because an unchecked seed hashes a piece when its first block is asked for
_SEEDING: Final = frozenset({"uploading", "stalledUP", "forcedUP", "queuedUP"})


@dataclass(frozen=True)
class Torrent:
    """One torrent and its content.

    Attributes:
        name: of the torrent and of its only file.
        infohash: v1, hexadecimal, lower case.
        metainfo: the .torrent file.
        size: of the content in bytes; a multiple of `piece`.
        piece: piece length in bytes.
    """

    name: str
    infohash: str
    metainfo: bytes
    size: int
    piece: int = PIECE


def bencode(value: object) -> bytes:
    """Bencode integers, strings, bytes, sequences and dictionaries with string keys.

    Raises:
        TypeError: for anything else.
    """
    match value:
        case bool():
            raise TypeError("bencoding has no booleans: use 0 or 1")
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%s" % (len(value), value)
        case str():
            return bencode(value.encode())
        case dict():
            items = sorted((str(key).encode(), item) for key, item in value.items())
            return b"d%se" % b"".join(bencode(key) + bencode(item) for key, item in items)
        case list() | tuple():
            return b"l%se" % b"".join(map(bencode, value))
    raise TypeError(f"cannot bencode {type(value).__name__}")


def make_torrent(
    name: str,
    folder: Path | None,
    *,
    tiers: Sequence[Sequence[str]] = (),
    private: bool = True,
    size: int = 64 * PIECE,
) -> Torrent:
    """Make a torrent, and its content as a sparse file of zeros.

    Args:
        name: of torrent and file; decides the info-hash together with `private` and `size`.
        folder: gets the content; None makes none.
        tiers: announce URLs, tier by tier.
        private: the private flag.
        size: content in bytes, a multiple of `PIECE`.

    Raises:
        ValueError: `size` is no multiple of `PIECE`.
    """
    if size <= 0 or size % PIECE:
        raise ValueError(f"size {size} is no positive multiple of {PIECE}")
    info: dict[str, object] = {
        "length": size,
        "name": name,
        "piece length": PIECE,
        "pieces": _ZERO_PIECE_HASH * (size // PIECE),
    }
    if private:
        info["private"] = 1
    metainfo: dict[str, object] = {"info": info}
    if tiers:
        metainfo |= {"announce": tiers[0][0], "announce-list": [list(tier) for tier in tiers]}
    if folder is not None:
        with (folder / name).open("wb") as content:
            content.truncate(size)
    return Torrent(name, hashlib.sha1(bencode(info), usedforsecurity=False).hexdigest(), bencode(metainfo), size)


def make_torrents(
    count: int,
    folder: Path | None,
    *,
    prefix: str = "torrent",
    tiers: Sequence[Sequence[str]] = (),
    private: bool = True,
    size: int = 64 * PIECE,
) -> list[Torrent]:
    """Make `count` torrents named `prefix`-00000 and on; see `make_torrent`."""
    return [
        make_torrent(f"{prefix}-{number:05}", folder, tiers=tiers, private=private, size=size)
        for number in range(count)
    ]


def seed(
    daemon: Daemon,
    api: WebApi,
    torrents: Sequence[Torrent],
    *,
    up_limit: int | None = None,
    category: str | None = None,
    tags: Collection[str] = (),
    batch: int = 500,
    timeout: float = 120.0,
) -> None:
    """Add torrents with content in `daemon.data`, unchecked; return when all of them seed and are stored.

    Args:
        daemon: the client that seeds.
        api: a session on it.
        torrents: what to add.
        up_limit: upload limit in bytes/s; None leaves the client's default.
        category: their category.
        tags: their tags.
        batch: torrents in one request.
        timeout: seconds until they all must seed.

    Raises:
        TimeoutError: names how many do not seed, and in which states they are, or how many are not stored.
    """
    deadline = time.monotonic() + timeout
    options = {
        "savepath": str(daemon.inside(daemon.data)),
        "skip_checking": "true",
        "seedMode": "true",  # what skip_checking is called since Web API 2.16
        "autoTMM": "false",
        "contentLayout": "Original",
        "paused": "false",
        "stopped": "false",
        "addToTopOfQueue": "false",
    }
    if up_limit is not None:
        options["upLimit"] = str(up_limit)
    if category is not None:
        options["category"] = category
    if tags:
        options["tags"] = ",".join(tags)
    for start in range(0, len(torrents), batch):
        chosen = torrents[start : start + batch]
        api.add([(f"{torrent.name}.torrent", torrent.metainfo) for torrent in chosen], options)
    hashes = [torrent.infohash for torrent in torrents]
    wait_seeding(api, hashes, timeout=timeout)
    wait_stored(daemon, hashes, timeout=max(1.0, deadline - time.monotonic()))


def wait_seeding(api: WebApi, hashes: Iterable[str], *, timeout: float = 120.0) -> None:
    """Wait until all torrents are present and seed.

    Raises:
        TimeoutError: names how many do not, and their states.
    """
    wanted = set(hashes)
    deadline = time.monotonic() + timeout
    while True:
        rows = api.torrents()
        states = {name: rows[name]["state"] if name in rows else "absent" for name in wanted}
        waiting = [state for state in states.values() if state not in _SEEDING]
        if not waiting:
            return
        if time.monotonic() > deadline:
            counts = {state: waiting.count(state) for state in sorted(set(waiting))}
            raise TimeoutError(f"{len(waiting)} of {len(wanted)} torrents do not seed after {timeout:g} s: {counts}")
        # The answer says all there is to know and nothing announces the next change; a tenth of what a full read of
        # thousands of torrents costs keeps the client free to get on with it.
        time.sleep(0.05 + len(rows) / 5_000)


def wait_stored(daemon: Daemon, hashes: Iterable[str], *, timeout: float = 60.0) -> None:
    """Wait until the client has written torrents to its profile, so that they outlive a kill or a quick stop.

    Raises:
        TimeoutError: says how many are missing.
    """
    wanted = {f"{name}.{kind}" for name in hashes for kind in ("torrent", "fastresume")}
    deadline = time.monotonic() + timeout
    while missing := wanted - {path.name for path in daemon.backup.iterdir()}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(missing)} files are missing in {daemon.backup} after {timeout:g} s")
        time.sleep(0.05)  # a thread of the client writes them; it tells nobody


_ZERO_PIECE_HASH: Final = hashlib.sha1(bytes(PIECE), usedforsecurity=False).digest()


def wait_limit_stored(daemon: Daemon, infohash: str, limit: int, *, timeout: float = 30.0) -> None:
    """Wait until a limit is in the torrent's resume data: a stop right after a change may lose it (5.1 defers).

    Raises:
        TimeoutError: it is not.
    """
    deadline = time.monotonic() + timeout
    wanted = b"17:upload_rate_limiti%de" % limit
    while wanted not in (daemon.backup / f"{infohash}.fastresume").read_bytes():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the limit of {infohash} is not stored after {timeout} s")
        time.sleep(0.05)

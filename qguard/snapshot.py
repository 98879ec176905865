"""One moment of a qBittorrent client's torrents, as columns."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]
Objects = NDArray[np.object_]
InfoHashes = NDArray[np.bytes_]

UNLIMITED: Final = 0
"""How qBittorrent and all of our columns write "no limit"."""

SESSION_EVIDENCE: Final = 4 * 2**20
"""Bytes a torrent must have uploaded in a session before its counters can tell one session from the next: the two
counters are read a moment apart, so small differences mean nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Torrents:
    """Torrents of one client, sorted by info-hash, N rows in every column."""

    infohash: InfoHashes
    """S40: torrent ID, 40 hex digits in lower case; the truncated v2 hash for v2 and hybrid torrents."""
    added_on: Int64
    """Epoch seconds; with the info-hash the identity of a torrent: one deleted and added again is a new one."""
    up_limit: Int64
    """bytes/s, `UNLIMITED` for none."""
    upspeed: Int64
    """bytes/s of payload, as the client smooths it (an EMA that takes 10 s for 90 % of a step)."""
    uploaded: Int64
    """Payload bytes, all time."""
    uploaded_session: Int64
    """Payload bytes since the client started."""
    leechers: Int64
    """Connected leechers."""
    downloading: Bool
    """Still downloading and running."""
    announce: Objects
    """Tuples of announce URLs, percent-encoded as in the magnet link. They contain passkeys."""
    category: Objects
    """str, empty for none."""
    tags: Objects
    """str, separated by comma and space."""
    name: Objects
    """str"""

    def __len__(self) -> int:
        """The number of torrents, N."""
        return len(self.infohash)

    def take(self, rows: NDArray[Any] | slice) -> "Torrents":
        """The torrents at these rows (indices or a mask)."""
        return Torrents(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def rows_of(self, infohash: InfoHashes | Sequence[str]) -> Int64:
        """The row of each info-hash, -1 for those that are not there."""
        return find(self.infohash, np.asarray(infohash, "S40"))

    def keys(self, rows: NDArray[Any]) -> list[tuple[str, int]]:
        """(info-hash, added_on) of each of these rows: how the ledger names a torrent."""
        hashes = [h.decode() for h in self.infohash[rows].tolist()]
        return list(zip(hashes, self.added_on[rows].tolist(), strict=True))


def empty() -> Torrents:
    """A client without torrents."""
    number = np.zeros(0, np.int64)
    things = np.zeros(0, object)
    return Torrents(
        infohash=np.zeros(0, "S40"),
        added_on=number,
        up_limit=number,
        upspeed=number,
        uploaded=number,
        uploaded_session=number,
        leechers=number,
        downloading=np.zeros(0, np.bool_),
        announce=things,
        category=things,
        tags=things,
        name=things,
    )


def find(sorted_hashes: InfoHashes, wanted: InfoHashes) -> Int64:
    """Rows of `wanted` in `sorted_hashes`, -1 where missing. Both are S40; the first is sorted."""
    if not len(sorted_hashes):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(sorted_hashes, wanted), len(sorted_hashes) - 1)
    return np.where(sorted_hashes[at] == wanted, at, -1).astype(np.int64)


def merge_active(before: Torrents, active: Torrents) -> Torrents:
    """What is known after a reading of the active torrents only.

    Active torrents are as just read. The others are as they were before, except that they upload nothing now.
    Torrents that were deleted stay until the next full reading; writing to them is harmless.
    """
    silent = replace(before, upspeed=np.zeros_like(before.upspeed), leechers=np.zeros_like(before.leechers))
    return merge_some(silent, active)


def merge_some(before: Torrents, some: Torrents) -> Torrents:
    """What is known after a reading of some torrents: these are as just read, the others as they were."""
    rest = before.take(some.rows_of(before.infohash) < 0)
    joined = Torrents(**{f.name: np.concatenate([getattr(some, f.name), getattr(rest, f.name)]) for f in fields(some)})
    return joined.take(np.argsort(joined.infohash, kind="stable"))


@dataclass(frozen=True, slots=True, eq=False)
class Counters:
    """Byte counters by which one session of the client can be told from the next, M rows."""

    infohash: InfoHashes
    added_on: Int64
    uploaded: Int64
    uploaded_session: Int64

    @classmethod
    def of(cls, torrents: Torrents, most: int | None = None) -> "Counters":
        """The counters of the `most` torrents that uploaded most in this session (all by default)."""
        order = np.argsort(-torrents.uploaded_session, kind="stable")[:most]
        return cls(
            torrents.infohash[order],
            torrents.added_on[order],
            torrents.uploaded[order],
            torrents.uploaded_session[order],
        )

    def to_rows(self) -> list[list[Any]]:
        """As JSON can keep it."""
        hashes = [h.decode() for h in self.infohash.tolist()]
        columns = (hashes, self.added_on.tolist(), self.uploaded.tolist(), self.uploaded_session.tolist())
        return [list(row) for row in zip(*columns, strict=True)]

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[Any]]) -> "Counters":
        """What `to_rows` made."""
        hashes, *numbers = zip(*rows, strict=True) if rows else ((), (), (), ())
        return cls(np.array(hashes, "S40"), *(np.array(column, np.int64) for column in numbers))


def client_restarted(before: Counters, after: Torrents) -> bool | None:
    """Whether the client was restarted between two readings, by its byte counters; None when they cannot tell.

    A session counter that falls means a restart. One of a torrent with enough upload that grows in step with the
    all-time counter means the same session.
    """
    rows = after.rows_of(before.infohash)
    known = rows >= 0
    known[known] &= after.added_on[rows[known]] == before.added_on[known]
    new = after.take(rows[known])
    old_session, old_uploaded = before.uploaded_session[known], before.uploaded[known]
    if (new.uploaded_session < old_session).any():
        return True
    telling = old_session >= SESSION_EVIDENCE
    if not telling.any():
        return None
    drift = (new.uploaded - old_uploaded) - (new.uploaded_session - old_session)
    return bool((np.abs(drift[telling]) * 2 > old_session[telling]).all())

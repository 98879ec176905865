"""What webhooks announced and no cycle has acted on yet.

A hook is answered at once and never waits: its torrent is put down here, and the loop is woken. What stands here is
also in a small file, so that it survives a restart of qguard. It is not synced to disk for every hook: after a power
cut qBittorrent starts anew too, and the next full listing finds whatever was added. The file never holds more than
twice what may wait, whatever is sent: hooks may come from anybody nearby.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

MOST: Final = 10_000
"""Torrents that may wait; a burst of adds is hundreds."""

LINES_PER_TORRENT: Final = 2
"""Times `MOST` lines at which the file is written anew."""

GIVE_UP_AFTER: Final = 120.0
"""Seconds after which a torrent that the client does not know is dropped: it was deleted again, or never added."""

FIRST_RETRY: Final = 0.25
"""Seconds until a torrent that the client does not know yet is looked for again; doubles each time."""

LONGEST_RETRY: Final = 8.0

TRIES_BEFORE_DOUBT: Final = 3
"""Looks at a hash before it is tried as the v1 or v2 hash of a torrent that goes by another."""


class InboxFullError(Exception):
    """More torrents wait than can be kept; the hook is told so and nothing is lost silently."""


class _Line(msgspec.Struct, frozen=True):
    hash: str


class _Waiting(msgspec.Struct):
    since: float
    due: float
    tries: int = 0


class Inbox:
    """Torrents to look at soon, each once however often it is named. Times are steady seconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._waiting: dict[str, _Waiting] = {}
        self.accepted = 0
        self.refused = 0
        self.given_up = 0
        self.last_at: float | None = None
        left = list(dict.fromkeys(reversed(_read(path))))[:MOST]  # of too many, the newest
        # In the file. It may be long, or end with half a line: then the first note writes it anew.
        self._lines = LINES_PER_TORRENT * MOST if left else 0
        for infohash in reversed(left):
            self._waiting[infohash] = _Waiting(clock(), clock())

    def __len__(self) -> int:
        """How many torrents wait."""
        return len(self._waiting)

    def put(self, infohash: str) -> None:
        """Note a torrent; one that waits already is looked at again at once.

        Raises:
            InboxFullError: too many wait, or the note cannot be kept.
        """
        now = self._clock()
        self.last_at = now
        waiting = self._waiting.get(infohash)
        if waiting is not None:
            waiting.due = min(waiting.due, now)
            self.accepted += 1
            return
        if len(self._waiting) >= MOST:
            self.refused += 1
            raise InboxFullError(f"{MOST} torrents wait already")
        try:
            self._note(infohash)
        except OSError as error:
            self.refused += 1
            raise InboxFullError(f"{self._path} cannot be written ({error.strerror})") from None
        self._waiting[infohash] = _Waiting(now, now)
        self.accepted += 1

    def due(self) -> list[str]:
        """Torrents to look at now."""
        now = self._clock()
        return [infohash for infohash, waiting in self._waiting.items() if waiting.due <= now]

    def names(self) -> list[str]:
        """All torrents that wait."""
        return list(self._waiting)

    def next_due(self) -> float | None:
        """When the next torrent is to be looked at, None when none waits."""
        return min((waiting.due for waiting in self._waiting.values()), default=None)

    def found(self, infohash: Iterable[str]) -> None:
        """These were acted on."""
        for known in infohash:
            self._waiting.pop(known, None)
        self._forget_when_empty()

    def missing(self, infohash: Iterable[str]) -> list[str]:
        """The client does not know these yet: look again later, or give up after a while.

        Returns:
            Those that were looked for often enough to be known by another of their hashes, if at all.
        """
        now, doubtful = self._clock(), []
        for name in infohash:
            waiting = self._waiting.get(name)
            if waiting is None:
                continue
            if now - waiting.since >= GIVE_UP_AFTER:
                del self._waiting[name]
                self.given_up += 1
                continue
            waiting.tries += 1
            waiting.due = now + min(FIRST_RETRY * 2 ** (waiting.tries - 1), LONGEST_RETRY)
            if waiting.tries == TRIES_BEFORE_DOUBT:
                doubtful.append(name)
        self._forget_when_empty()
        return doubtful

    def doubt_again(self, infohash: Iterable[str]) -> None:
        """These could not be tried by another of their hashes; `missing` shall name them once more."""
        for name in infohash:
            if name in self._waiting:
                self._waiting[name].tries = TRIES_BEFORE_DOUBT - 1

    def _note(self, infohash: str) -> None:
        """One more line, or a new file where lines of torrents that wait no more are most of it. Raises OSError."""
        if self._lines >= LINES_PER_TORRENT * MOST:
            _rewrite(self._path, [*self._waiting, infohash])
            self._lines = len(self._waiting) + 1
        else:
            _append(self._path, [infohash])
            self._lines += 1

    def _forget_when_empty(self) -> None:
        if not self._waiting:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._lines = 0


class Latest:
    """When the last hook came, over restarts: the time of a small file.

    A burst of hooks writes it once. What comes within `EVERY` seconds after that is noted at the end, or by a later
    hook; a kill loses no more than that.

    Args:
        path: of the file.
        clock: epoch seconds.
    """

    EVERY: Final = 60.0
    """Seconds between two writes."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self.at: float | None = None
        """Epoch seconds; None where none is known to have come."""
        with contextlib.suppress(OSError):
            self.at = path.stat().st_mtime
        self._kept = self.at

    def note(self) -> None:
        """A hook came now."""
        self.at = self._clock()
        if self._kept is None or abs(self.at - self._kept) >= self.EVERY:
            self.keep()

    def keep(self) -> None:
        """Write what is not written yet. It is for people: where it cannot be written, nothing else suffers."""
        if self.at is None or self.at == self._kept:
            return
        self._kept = self.at
        with contextlib.suppress(OSError):
            os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
            os.utime(self._path, (self.at, self.at))


def _rewrite(path: Path, names: Iterable[str]) -> None:
    """A file with just these in the place of the old one."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    _append(fresh, names)
    fresh.replace(path)


def _append(path: Path, names: Iterable[str]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(b"".join(msgspec.json.encode(_Line(name)) + b"\n" for name in names))


def _read(path: Path) -> list[str]:
    """What a former process left, in order; a torn last line is not a torrent."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return []
    names = []
    for line in lines:
        with contextlib.suppress(msgspec.DecodeError):
            names.append(msgspec.json.decode(line, type=_Line).hash)
    return names

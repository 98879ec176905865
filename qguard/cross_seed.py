"""Finished torrents, passed on to cross-seed.

A queue of its own and one worker: nothing here is ever in the way of a hook's answer or of a cycle. Only torrents that
qBittorrent really has and that are finished there are passed on, with what qBittorrent says of them and not what the
hook said, and each once in a while only: a neighbour may send hooks without a key, and every torrent that is passed on
makes cross-seed search with the owner's accounts.

What waits is also in a small file, so that it survives a restart of qguard. As with the inbox it is not synced to disk
for every hook: the file outlives a kill, and after a power cut the latest lines may be missing. A torrent that was
being passed on at a kill is passed on again.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import msgspec
import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

from qguard.config.model import CrossSeed
from qguard.qbittorrent.client import TorrentClient
from qguard.qbittorrent.decode import TorrentDetails
from qguard.qbittorrent.errors import ClientError

MOST: Final = 1000
"""Torrents that may wait to be passed on."""

ATTEMPTS: Final = 5
"""Tries for one torrent; with the pauses between them a restart of cross-seed is bridged."""

FIRST_PAUSE: Final = 1.0
"""Seconds between the first two tries; doubles each time."""

LONGEST_PAUSE: Final = 30.0

REPEAT_AFTER: Final = 6 * 3600.0
"""Seconds until a torrent that was passed on may be so again; qBittorrent tells of a finished torrent once."""

REMEMBERED: Final = 10_000
"""Torrents of which it is remembered that they were passed on."""

CHECKING_STATES: Final = frozenset({"checkingDL", "checkingUP", "checkingResumeData"})
"""States in which nobody knows yet whether a torrent is finished, as after a restart of the client."""

LISTING_PAUSE: Final = 60.0
"""Seconds between two full listings that look for hashes by which no torrent goes."""

LINES_PER_TORRENT: Final = 4
"""Times `MOST` lines at which the file is written anew."""

log = structlog.get_logger("qguard")


class _AgainError(Exception):
    """Worth another try."""


class _DroppedError(Exception):
    """Not worth one."""


class _UnknownError(Exception):
    """The client does not have that torrent; one that is finished is surely there."""


class _UnfinishedError(Exception):
    """The client has that torrent and does not have all of it."""


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the file."""

    hash: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
    over: bool = False
    """Passed on or given up: it waits no more."""


class Kept:
    """The file of what waits: a line when a torrent comes, and one when it is done with."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = 0
        self._torn = True
        """Whether the file may hold something else than what waits, so that it has to be written anew."""

    def read(self) -> list[str]:
        """What a former process left, in order. Raises OSError."""
        waiting: dict[str, None] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in _lines(self.path.read_bytes()):
                if line.over:
                    waiting.pop(line.hash, None)
                else:
                    waiting.setdefault(line.hash)
        return list(waiting)

    def add(self, line: _Line, waiting: Collection[str]) -> None:
        """Note one line; `waiting` is all that waits with it. Raises OSError."""
        if self._torn or not waiting or self._lines >= LINES_PER_TORRENT * MOST:
            self.write(waiting)
            return
        self._torn = True
        _append(self.path, [line])
        self._torn = False
        self._lines += 1

    def write(self, waiting: Iterable[str]) -> None:
        """Put a file with just these in the place of the old one; none when nothing waits. Raises OSError."""
        self._torn = True
        lines = [_Line(infohash) for infohash in waiting]
        if lines:
            fresh = self.path.with_name(self.path.name + ".new")
            fresh.unlink(missing_ok=True)
            _append(fresh, lines)
            fresh.replace(self.path)
        else:
            self.path.unlink(missing_ok=True)
        self._torn = False
        self._lines = len(lines)


def _lines(raw: bytes) -> Iterator[_Line]:
    """The lines that can be read; a torn one names no torrent."""
    for line in raw.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=_Line)


def _append(path: Path, lines: Iterable[_Line]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


class Forwarder:
    """Passes torrents on, one after the other, in the order of their hooks.

    Args:
        settings: the section of the configuration that is in force at the moment.
        client: the client that is in force at the moment.
        path: where what waits is kept; None keeps it in memory only.
        pause: seconds between the first two tries.
        clock: steady seconds.
    """

    def __init__(
        self,
        settings: Callable[[], CrossSeed],
        client: Callable[[], TorrentClient],
        *,
        path: Path | None = None,
        pause: float = FIRST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.forwarded = 0
        self.dropped = 0
        self.unknown = 0
        """Hashes that the client does not have."""
        self.unfinished = 0
        """Torrents that the client has not finished."""
        self.repeated = 0
        """Torrents that were passed on a short while ago."""
        self._passed: dict[tuple[str, int], float] = {}  # (hash, added_on) -> when, the latest last
        self._clock = clock
        self._listed_at: float | None = None
        self._why = ""
        self._unkept = ""
        self._started = False
        self._kept = None if path is None else Kept(path)
        self._settings = settings
        self._client = client
        self._pause = pause
        self._waiting: dict[str, None] = {}
        self._news = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many torrents wait, the one that is being passed on included."""
        return len(self._waiting)

    @property
    def problem(self) -> str:
        """What is wrong, until a torrent is passed on again or the configuration changes; empty when nothing is."""
        dropped = f"{self.dropped} finished torrents were not passed on to cross-seed; the last: {self._why}"
        return "; ".join(words for words in (dropped if self._why else "", self._unkept) if words)

    def start(self) -> None:
        """Take up what a former process left: only a running service does, a single command leaves it alone."""
        if self._started or self._kept is None:
            return
        self._started = True
        try:
            left = self._kept.read()
        except OSError as error:
            self._cannot_keep(self._kept, error)
            return
        if not self._settings().enabled:
            if left:
                log.info(f"{len(left)} finished torrents are not passed on: cross_seed is switched off")
            self._keep(lambda kept: kept.write(()))
            return
        self._waiting = dict.fromkeys([*left[:MOST], *self._waiting])
        for _ in left[MOST:]:
            self._drop(f"{MOST} torrents wait already; is cross-seed slow or down?")
        if self._waiting:
            log.info(f"{len(self._waiting)} finished torrents still wait to be passed on to cross-seed")
            self._begin()
        self._keep(lambda kept: kept.write(self._waiting))

    def offer(self, infohash: str) -> None:
        """Note a finished torrent; returns at once. One that waits already is not noted twice."""
        self.start()  # before the file is changed
        if not self._settings().enabled:
            return
        if infohash not in self._waiting:
            if len(self._waiting) >= MOST:
                self._drop(f"{MOST} torrents wait already; is cross-seed slow or down?")
                return
            self._waiting[infohash] = None
            self._keep(lambda kept: kept.add(_Line(infohash), self._waiting))
        self._begin()

    def reconfigured(self) -> None:
        """The configuration has changed: earlier failures are over, and nothing waits when it is switched off."""
        self._why = ""
        self._passed.clear()  # it may be another cross-seed
        if not self._settings().enabled and self._waiting:
            self._waiting.clear()
            self._keep(lambda kept: kept.write(()))

    async def close(self) -> None:
        """End the worker; what still waits is passed on by the next process, or (kept nowhere) by none."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        if not self._waiting:
            return
        if self._kept is None or self._unkept:
            log.warning(f"{len(self._waiting)} finished torrents were not passed on to cross-seed before the end")
        else:
            log.info(f"{len(self._waiting)} finished torrents are passed on to cross-seed after the next start")

    def _begin(self) -> None:
        """Let the worker look."""
        self._news.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="cross-seed")

    def _done(self, infohash: str) -> None:
        """A torrent waits no more."""
        if infohash in self._waiting:
            del self._waiting[infohash]
            self._keep(lambda kept: kept.add(_Line(infohash, over=True), self._waiting))

    def _keep(self, change: Callable[[Kept], None]) -> None:
        """Change the file. It is no reason to refuse a torrent when that fails: it is passed on all the same."""
        if self._kept is None:
            return
        try:
            change(self._kept)
        except OSError as error:
            self._cannot_keep(self._kept, error)
        else:
            self._unkept = ""

    def _cannot_keep(self, kept: Kept, error: OSError) -> None:
        words = f"a restart would lose what waits for cross-seed: {kept.path} cannot be used ({error.strerror})"
        if words != self._unkept:
            log.warning(words)
        self._unkept = words

    async def _work(self) -> None:
        # No proxies and no netrc of the environment, no redirects: the key goes to the configured address alone.
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as http:
            while True:
                self._news.clear()
                while self._waiting:
                    infohash = next(iter(self._waiting))
                    await self._pass_on(http, infohash)
                    self._done(infohash)
                await self._news.wait()

    async def _pass_on(self, http: httpx.AsyncClient, infohash: str) -> None:
        """All tries for one torrent."""
        tries = AsyncRetrying(
            retry=retry_if_exception_type(_AgainError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=self._pause, max=LONGEST_PAUSE) + wait_random(0, self._pause / 4),
            reraise=True,
        )
        try:
            async for attempt in tries:
                with attempt:
                    await self._try(http, infohash)
        except _UnknownError:
            # No problem of ours or cross-seed's, and no more than a count: anybody may invent hashes.
            self.unknown += 1
        except _UnfinishedError:
            self.unfinished += 1
        except (_AgainError, _DroppedError) as error:
            self._drop(str(error))
        except Exception as error:  # noqa: BLE001 - the worker must outlive a fault of ours
            self._drop(f"{type(error).__name__}: {error}")

    async def _try(self, http: httpx.AsyncClient, infohash: str) -> None:
        """One try, under the configuration of this moment."""
        torrent = await self._look_up(infohash)
        settings = self._settings()
        if torrent is None or not settings.enabled or not settings.url or infohash not in self._waiting:
            return
        if not self._may_pass(torrent):
            return
        key = settings.secret_api_key
        try:
            answer = await http.post(
                settings.url,
                json=payload(torrent),
                headers={"X-API-Key": key} if key else {},
                timeout=settings.timeout,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _AgainError(f"it cannot be reached ({type(error).__name__}): is cross_seed.url right?") from None
        except httpx.TimeoutException:
            # It has the request and works on it: sent again, it would do the same work twice.
            self._note_passed(torrent)
            raise _DroppedError(
                f"no answer in {settings.timeout:g} s: see its log, or raise cross_seed.timeout"
            ) from None
        except httpx.HTTPError as error:
            raise _AgainError(f"the connection broke ({type(error).__name__})") from None
        if answer.is_server_error:
            raise _AgainError(f"it answered {answer.status_code}: see its log")
        if answer.status_code in {401, 403}:
            raise _DroppedError(f"it refused the key ({answer.status_code}): check cross_seed.api_key")
        if not answer.is_success:
            raise _DroppedError(f"it answered {answer.status_code}: check cross_seed.url")
        self._note_passed(torrent)
        self.forwarded += 1
        self._why = ""
        log.info(f"passed {infohash} on to cross-seed")

    def _may_pass(self, torrent: TorrentDetails) -> bool:
        """Whether a torrent is finished, and was not passed on a short while ago."""
        if torrent.state in CHECKING_STATES:
            raise _AgainError(f"{torrent.hash} is being checked by qBittorrent: send its hook again when that is done")
        if torrent.progress < 1:
            raise _UnfinishedError
        at = self._passed.get((torrent.hash, torrent.added_on))
        if at is None or self._clock() - at >= REPEAT_AFTER:
            return True
        self.repeated += 1
        return False

    def _note_passed(self, torrent: TorrentDetails) -> None:
        key = torrent.hash, torrent.added_on
        self._passed.pop(key, None)
        self._passed[key] = self._clock()
        while len(self._passed) > REMEMBERED:
            del self._passed[next(iter(self._passed))]

    async def _look_up(self, infohash: str) -> TorrentDetails | None:
        """What the client says of a torrent, None when it is not wanted any more.

        A client that does not answer is waited for: after a restart of the machine it may be up later than we are, and
        no other torrent could be looked up meanwhile.

        Raises:
            _UnknownError: the client does not have it; that is never passed on.
        """
        pause = self._pause
        while self._settings().enabled and infohash in self._waiting:
            client = self._client()
            try:
                torrent = await client.details(infohash) or await self._by_other_hash(client, infohash)
            except ClientError:
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
                continue
            if torrent is None:
                raise _UnknownError
            return torrent
        return None

    async def _by_other_hash(self, client: TorrentClient, infohash: str) -> TorrentDetails | None:
        """A hybrid torrent by its v1 hash. That takes a full listing, so invented hashes get it now and then only."""
        now = self._clock()
        if self._listed_at is not None and now - self._listed_at < LISTING_PAUSE:
            return None
        other = (await client.aliases()).get(infohash)
        self._listed_at = now
        return await client.details(other) if other else None

    def _drop(self, why: str) -> None:
        self.dropped += 1
        if why != self._why:
            log.warning(f"a finished torrent was not passed on to cross-seed: {why}")
        self._why = why


def payload(torrent: TorrentDetails) -> dict[str, Any]:
    """What cross-seed is sent. It knows torrents by their v1 hash, where they have one."""
    return {
        "infoHash": torrent.infohash_v1 or torrent.hash,
        "name": torrent.name,
        "category": torrent.category,
        "tags": torrent.tags,
        "savePath": torrent.save_path,
    }

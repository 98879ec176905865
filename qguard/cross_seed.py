"""Finished torrents, passed on to cross-seed.

A queue of its own, in memory, and one worker: nothing here is ever in the way of a hook's answer or of a cycle. Only
torrents that qBittorrent really has are passed on, with what qBittorrent says of them and not what the hook said.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any, Final

import httpx
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

LISTING_PAUSE: Final = 60.0
"""Seconds between two full listings that look for hashes by which no torrent goes."""

log = structlog.get_logger("qguard")


class _AgainError(Exception):
    """Worth another try."""


class _DroppedError(Exception):
    """Not worth one."""


class _UnknownError(Exception):
    """The client does not have that torrent; one that is finished is surely there."""


class Forwarder:
    """Passes torrents on, one after the other, in the order of their hooks.

    Args:
        settings: the section of the configuration that is in force at the moment.
        client: the client that is in force at the moment.
        pause: seconds between the first two tries.
        clock: steady seconds.
    """

    def __init__(
        self,
        settings: Callable[[], CrossSeed],
        client: Callable[[], TorrentClient],
        *,
        pause: float = FIRST_PAUSE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.forwarded = 0
        self.dropped = 0
        self.unknown = 0
        self._clock = clock
        self._listed_at: float | None = None
        self._why = ""
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
        if not self._why:
            return ""
        return f"{self.dropped} finished torrents were not passed on to cross-seed; the last: {self._why}"

    def offer(self, infohash: str) -> None:
        """Note a finished torrent; returns at once. One that waits already is not noted twice."""
        if not self._settings().enabled:
            return
        if infohash not in self._waiting and len(self._waiting) >= MOST:
            self._drop(f"{MOST} torrents wait already; is cross-seed slow or down?")
            return
        self._waiting[infohash] = None
        self._news.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name="cross-seed")

    def reconfigured(self) -> None:
        """The configuration has changed: earlier failures are over, and nothing waits when it is switched off."""
        self._why = ""
        if not self._settings().enabled:
            self._waiting.clear()

    async def close(self) -> None:
        """End the worker; what still waits is not passed on, and that is logged."""
        if self._worker is not None:
            self._worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._worker
            self._worker = None
        if self._waiting:
            log.warning(f"{len(self._waiting)} finished torrents were not passed on to cross-seed before the end")

    async def _work(self) -> None:
        # No proxies and no netrc of the environment, no redirects: the key goes to the configured address alone.
        async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as http:
            while True:
                self._news.clear()
                while self._waiting:
                    infohash = next(iter(self._waiting))
                    await self._pass_on(http, infohash)
                    self._waiting.pop(infohash, None)
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
        except (_AgainError, _DroppedError) as error:
            self._drop(str(error))
        except Exception as error:  # noqa: BLE001 - the worker must outlive a fault of ours
            self._drop(f"{type(error).__name__}: {error}")

    async def _try(self, http: httpx.AsyncClient, infohash: str) -> None:
        """One try, under the configuration of this moment."""
        settings = self._settings()
        if not settings.enabled or not settings.url or infohash not in self._waiting:
            return
        torrent = await self._look_up(infohash)
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
        self.forwarded += 1
        self._why = ""
        log.info(f"passed {infohash} on to cross-seed")

    async def _look_up(self, infohash: str) -> TorrentDetails:
        """What the client says of a torrent; what it does not have is never passed on."""
        client = self._client()
        try:
            torrent = await client.details(infohash)
            if torrent is None:
                torrent = await self._by_other_hash(client, infohash)
        except ClientError:
            raise _AgainError("qBittorrent does not answer, so it is not known whether it has the torrent") from None
        if torrent is None:
            raise _UnknownError
        return torrent

    async def _by_other_hash(self, client: TorrentClient, infohash: str) -> TorrentDetails | None:
        """A hybrid torrent by its v1 hash. That takes a full listing, so invented hashes get it now and then only."""
        now = self._clock()
        if self._listed_at is not None and now - self._listed_at < LISTING_PAUSE:
            return None
        self._listed_at = now
        other = (await client.aliases()).get(infohash)
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

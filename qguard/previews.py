"""Looking without disturbing: a connection of its own for whoever only wants to know, and answers that are still true.

A cycle may write while a preview reads. So whatever changes what a preview rests on is counted, and a preview that
saw the count move looks again. Nobody ever waits for a preview, except other previews.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar, cast

from qguard.answers import RequestError
from qguard.cycle import Memory, World, look
from qguard.decision import Decision
from qguard.policy import Policy
from qguard.qbittorrent.client import TorrentClient
from qguard.qbittorrent.errors import ClientError, LoginRefusedError

T = TypeVar("T")

TRIES: Final = 3
"""Looks, when limits change during each."""

PATIENCE: Final = 10.0
"""Seconds to wait for a change that is under way, and for other previews."""

RENEW_AFTER: Final = 1800.0
"""Seconds without use after which the connection is made anew: qBittorrent forgets a session after an hour, and a login
that is needed again would look as if it had been restarted."""

NEVER: Final = -1

READS: Final = frozenset(
    {
        "active_torrents",
        "aliases",
        "alternative_speed",
        "details",
        "limits",
        "named_torrents",
        "other_listing",
        "preferences",
        "requests",
        "torrents",
        "transfer",
        "version",
    }
)
"""What a preview may use of a client."""


class Changes:
    """Counts what changes the things that a preview rests on: limits, ledger, memory, configuration."""

    def __init__(self) -> None:
        self._number = 0
        self._under_way = 0
        self._settled = asyncio.Event()
        self._settled.set()

    def note(self) -> None:
        """Something has changed at this moment."""
        self._number += 1

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Something changes from here to the end."""
        self._number += 1
        self._under_way += 1
        self._settled.clear()
        try:
            yield
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._settled.set()

    async def settled(self, patience: float) -> int:
        """The count, once nothing changes any more.

        Raises:
            TimeoutError: after `patience` seconds something still does.
        """
        async with asyncio.timeout(patience):
            await self._settled.wait()
        return self._number

    def is_still(self, number: int) -> bool:
        """Whether nothing has changed since `settled` gave this count."""
        return number == self._number


@dataclass(frozen=True, slots=True)
class Basis:
    """What the next cycle would begin with."""

    world: World
    memory: Memory
    policy: Policy
    force_full: bool
    refused: LoginRefusedError | None
    """The login that the loop tried in vain; every further one brings a ban closer."""


class _Mark(NamedTuple):
    """Up to where both connections have seen the same restarts."""

    at: float | None
    """When the loop's last reading was taken."""
    theirs: int
    """Sessions of the loop's connection then."""
    ours: int


class Previews:
    """One look at a time, on a connection that is made when it is first needed.

    Args:
        make_client: for the configuration in force.
        basis: what the next cycle would begin with, at this moment.
        clock: steady seconds.
        changes: counts them.
    """

    def __init__(
        self,
        make_client: Callable[[], TorrentClient],
        basis: Callable[[], Basis],
        clock: Callable[[], float],
        changes: Changes,
    ) -> None:
        self._make_client = make_client
        self._basis = basis
        self._clock = clock
        self._changes = changes
        self._client: TorrentClient | None = None
        self._used = 0.0
        self._mark = _Mark(None, NEVER, 0)
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[Decision] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def next_cycle(self) -> Decision:
        """What the next cycle would do. Those who ask while somebody looks already get that answer.

        Raises:
            ClientError: the client did not answer.
            RequestError: too much changes, or too many ask.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self.under(lambda basis: basis.policy), name="preview")
            self._looking.add_done_callback(_heard)
        return await asyncio.shield(self._looking)

    async def under(self, policy: Callable[[Basis], Policy]) -> Decision:
        """What the next cycle would do under some policy; raises as `next_cycle`."""

        async def once(basis: Basis) -> Decision:
            return (await look(basis.world, policy(basis), basis.memory, force_full=basis.force_full))[0]

        return await self.ask(once)

    async def ask(self, work: Callable[[Basis], Awaitable[T]]) -> T:
        """Let `work` look at the world until nothing has changed meanwhile.

        Raises:
            ClientError: the client did not answer.
            RequestError: too much changes, or too many ask.
        """
        async with self._turn():
            for _ in range(TRIES):
                try:
                    number = await self._changes.settled(PATIENCE)
                except TimeoutError:
                    raise _busy("limits are being changed at this moment") from None
                try:
                    client = await self._connected()
                    found = await work(self._seen_by(client, self._basis()))
                except ClientError:
                    if self._changes.is_still(number):
                        raise
                    continue  # perhaps the connection was that of a former configuration
                self._used = self._clock()
                if self._changes.is_still(number):
                    return found
            raise _busy("limits were changed each time while this was looked at")

    async def client(self) -> TorrentClient:
        """The connection, logged in; for reading only.

        Raises:
            ClientError: there is none.
        """
        return cast("TorrentClient", _Eyes(await self._connected(), 0))

    async def _connected(self) -> TorrentClient:
        if (refused := self._basis().refused) is not None:
            raise LoginRefusedError(str(refused))
        if self._client is not None and self._clock() - self._used >= RENEW_AFTER:
            self.renew()
        if self._client is None:
            self._client, self._mark = self._make_client(), _Mark(None, NEVER, 0)
        self._used = self._clock()
        client, theirs = self._client, self._basis().world.client.sessions
        await client.version()  # the login counts as a new session, and is no sign of a restart
        if theirs != self._mark.theirs:
            if self._mark.theirs != NEVER:
                await client.alternative_speed()  # the loop has seen it by now; here it is still to be found out
            self._mark = _Mark(None, theirs, client.sessions)
        return client

    def renew(self) -> None:
        """Let go of the connection: the next look makes another. Returns at once, even when a request hangs."""
        if self._client is not None:
            task = asyncio.create_task(self._client.close(), name="close")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            self._client = None

    async def close(self) -> None:
        """End what is under way, and let go of the connection."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        self.renew()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _seen_by(self, client: TorrentClient, basis: Basis) -> Basis:
        """The basis with our connection in it.

        Its sessions count on from those of the loop's connection, so that a restart shows in both and a login in none.
        """
        at = basis.memory.reading.at if basis.memory.reading else None
        if self._mark.at != at or at is None:
            self._mark = _Mark(at, self._mark.theirs, client.sessions)
        eyes = cast("TorrentClient", _Eyes(client, basis.world.client.sessions - self._mark.ours))
        world = World(eyes, basis.world.ledger, basis.world.clock, basis.world.wall_clock)
        return Basis(world, basis.memory, basis.policy, basis.force_full, basis.refused)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._lock.acquire()
        except TimeoutError:
            raise _busy("others look at this moment") from None
        try:
            yield
        finally:
            self._lock.release()


class _Eyes:
    """A client that cannot be written to."""

    def __init__(self, client: TorrentClient, ahead: int) -> None:
        self._client = client
        self._ahead = ahead

    @property
    def sessions(self) -> int:
        """As the loop's connection would count them."""
        return self._client.sessions + self._ahead

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the client has
        if name not in READS:
            raise AttributeError(f"a preview may not use {name}")
        return getattr(self._client, name)


def _busy(words: str) -> RequestError:
    return RequestError("busy", words, "ask again in a moment", 503)


def _heard(task: asyncio.Task[Decision]) -> None:
    """Whoever waited has the error; when nobody did, nobody misses it."""
    if not task.cancelled():
        task.exception()

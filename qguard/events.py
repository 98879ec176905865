"""What happens, told to whoever listens at that moment. Nobody's slowness holds anything up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from qguard.log import redact

MOST_LISTENERS: Final = 32
"""Streams at a time; each costs a connection."""

BACKLOG: Final = 64
"""Events that may wait for one listener; at three per cycle that is minutes. One that falls behind further is dropped,
and can come again."""


LOOK_EVERY: Final = 2.0
"""Seconds between two looks at whether a listener still may listen, besides the one before each event."""


class TooManyListenersError(Exception):
    """As many listen as may."""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened."""

    id: int
    """Grows by one from event to event, so that a listener sees when it missed some."""
    kind: str
    """cycle, trackers or health."""
    data: bytes
    """JSON, without secrets."""


class Events:
    """Everybody who listens."""

    def __init__(self, *, most: int = MOST_LISTENERS, backlog: int = BACKLOG) -> None:
        self._most = most
        self._backlog = backlog
        self._queues: set[asyncio.Queue[Event | None]] = set()
        self._number = 0
        self._is_closed = False
        self.dropped = 0
        """Listeners that were too slow."""

    def __len__(self) -> int:
        """How many listen."""
        return len(self._queues)

    @property
    def is_full(self) -> bool:
        """Whether nobody else may listen."""
        return len(self._queues) >= self._most

    def publish(self, kind: str, data: object) -> None:
        """Tell everybody; `data` is anything msgspec can write."""
        self._number += 1
        if not self._queues:
            return
        event = make(self._number, kind, data)
        for queue in list(self._queues):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self.dropped += 1
                self._end(queue)

    async def listen(
        self,
        *first: tuple[str, object],
        may_listen: Callable[[], bool] = lambda: True,
        look_every: float = LOOK_EVERY,
    ) -> AsyncIterator[Event]:
        """Everything that happens from now on, after the events `first`, until too slow or closed.

        Args:
            first: kinds and data.
            may_listen: asked before every event, and every `look_every` seconds; it ends when that says no.
            look_every: seconds.

        Raises:
            TooManyListenersError: at the first step.
        """
        if self.is_full:
            raise TooManyListenersError(f"{self._most} listen already")
        queue: asyncio.Queue[Event | None] = asyncio.Queue(self._backlog)
        self._queues.add(queue)
        if self._is_closed:
            self._end(queue)
        try:
            for kind, data in first:
                yield make(self._number, kind, data)
            while may_listen():
                try:
                    async with asyncio.timeout(look_every):
                        event = await queue.get()
                except TimeoutError:
                    continue
                if event is None or not may_listen():
                    return
                yield event
        finally:
            self._queues.discard(queue)

    def close(self) -> None:
        """End all streams, for good."""
        self._is_closed = True
        for queue in list(self._queues):
            self._end(queue)

    def _end(self, queue: asyncio.Queue[Event | None]) -> None:
        """What waits is not worth sending: who comes again gets the state of then."""
        self._queues.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(None)


def make(number: int, kind: str, data: Any) -> Event:  # noqa: ANN401 - anything msgspec can write
    """An event with its data encoded, secrets hidden."""
    return Event(number, kind, redact.json(data))

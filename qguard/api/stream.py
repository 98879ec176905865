"""Server-sent events, to listeners that may stop listening in any way they like."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from qguard.events import Event, TooManyListenersError

SEND_TIMEOUT: Final = 30.0
"""Seconds after which a listener that takes nothing is let go of."""

PING: Final = 15
"""Seconds between two signs of life, so that proxies keep the connection."""


class Stream(EventSourceResponse):
    """A stream that ends without a word when its listener takes nothing any more."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        super().__init__(_encoded(events), ping=PING, sep="\n", send_timeout=SEND_TIMEOUT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve it."""
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def _encoded(events: AsyncIterator[Event]) -> AsyncIterator[ServerSentEvent]:
    with contextlib.suppress(TooManyListenersError):  # others came between the answer's head and this
        async for event in events:
            yield ServerSentEvent(event.data.decode(), event=event.kind, id=str(event.id))

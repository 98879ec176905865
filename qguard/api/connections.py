"""What a connection may cost: time to send a request, pieces to send it in, and how many there may be at once.

uvicorn bounds the time between two requests only; who sends a request byte by byte would hold a connection for ever.
"""

import asyncio
import http
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

import h11
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from qguard.api.access import is_direct, is_loopback, network
from qguard.api.headers import LARGEST_HEADERS, SECURITY, error_body

REQUEST_TIMEOUT: Final = 15.0
"""Seconds within which a request must have arrived, body included; the largest has 1 MiB."""

ANSWER_TIMEOUT: Final = 60.0
"""Seconds for which an answer may lie unread."""

MOST_CONNECTIONS: Final = 512
"""At once, below the usual limit of 1024 open files."""

MOST_PER_ADDRESS: Final = 384
"""Of these, by one address; a burst of 300 hooks from one container fits."""

RESERVED: Final = 64
"""More of them for this machine, so that commands get through when others have taken all. Requests that a proxy here
hands on are refused there, and when these places are taken too, the oldest one that is not being answered gives way."""

MOST_PIECES: Final = 4096
"""Pieces in which the body of one request may come; each costs some 10 us, however small it is."""

TOO_MANY: Final = (503, "too_many_connections", "too many connections are open", "try again in a second")

UVICORN: Final[Mapping[str, Any]] = {
    "ws": "none",
    "proxy_headers": False,  # uvicorn believes any proxy on this machine; Access.peer is who decides
    "h11_max_incomplete_event_size": LARGEST_HEADERS,
    "timeout_keep_alive": 15,
    "server_header": False,
    "access_log": False,
    "log_config": None,
    "lifespan": "off",
}
"""Settings of uvicorn that belong to the doors, besides `http`."""


class Place(Protocol):
    """A connection, as far as it can lose its place."""

    @property
    def is_answered(self) -> bool:
        """Whether it waits for an answer."""

    def give_way(self) -> None:
        """End it."""


@dataclass(slots=True)
class Bounds:
    """The bounds of one server, and how many connections each caller has.

    A caller is an IPv4 address, an IPv6 network of 64 bits, or this machine with all its addresses.
    """

    timeout: float = REQUEST_TIMEOUT
    most: int = MOST_CONNECTIONS
    per_address: int = MOST_PER_ADDRESS
    reserved: int = RESERVED
    pieces: int = MOST_PIECES
    open: Counter[str] = field(default_factory=Counter)
    extra: dict[Place, None] = field(default_factory=dict)
    """Those in reserved places, the oldest first."""

    def take(self, address: str, place: Place) -> bool:
        """Count a connection, if there may be one more."""
        group = _group(address)
        if self.open.total() < self.most and self.open[group] < self.per_address:
            self.open[group] += 1
            return True
        if not is_loopback(address):
            return False
        if len(self.extra) >= self.reserved:
            oldest = next((one for one in self.extra if not one.is_answered), None)
            if oldest is None:
                return False
            self.give_back(address, oldest)
            oldest.give_way()
        self.extra[place] = None
        return True

    def give_back(self, address: str, place: Place) -> None:
        """It has ended. Whoever gave way has given back."""
        if place in self.extra:
            del self.extra[place]
            return
        group = _group(address)
        self.open[group] -= 1
        if not self.open[group]:
            del self.open[group]


def _group(address: str) -> str:
    return "this machine" if is_loopback(address) else network(address)


class _Pieces(h11.Connection):
    """A parser that counts the pieces of each body."""

    def __init__(self, largest_head: int, most: int) -> None:
        super().__init__(h11.SERVER, largest_head)
        self._most = most
        self._count = 0

    @property
    def are_too_many(self) -> bool:
        """Whether the body of this request came in more pieces than it may."""
        return self._count > self._most

    def next_event(self) -> Any:  # noqa: ANN401 - as h11 has it
        """The next event.

        Raises:
            RemoteProtocolError: this is no HTTP, or in too many pieces.
        """
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._count = 0
        self._count += isinstance(event, h11.Data)
        if self.are_too_many:
            raise h11.RemoteProtocolError("too many pieces")
        return event


class BoundedProtocol(H11Protocol):
    """The protocol of uvicorn, with bounds."""

    bounds: ClassVar[Bounds]
    conn: _Pieces
    _timer: asyncio.TimerHandle | None = None
    _counted: str | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - as uvicorn has it
        super().__init__(*arguments, **named)
        self.conn = _Pieces(LARGEST_HEADERS, self.bounds.pieces)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Count it, or refuse it."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.bounds.take(address, self):
            self._refuse(*TOO_MANY)
            return
        self._counted = address
        if self in self.bounds.extra:
            self.app = _for_direct_callers(self.app)
        # The kernel ends the connection of who does not take its answer.
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(ANSWER_TIMEOUT * 1000)
        )
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give its place to another."""
        self._unwatch()
        if self._counted is not None:
            self.bounds.give_back(self._counted, self)
            self._counted = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, but not for ever."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Take up what was sent ahead meanwhile; the time for that begins now."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY or self.conn.trailing_data[0]:
            self._watch()

    @property
    def is_answered(self) -> bool:
        """Whether a whole request waits for its answer."""
        return self.conn.their_state in {h11.DONE, h11.MUST_CLOSE} and self.conn.our_state is not h11.DONE

    def give_way(self) -> None:
        """Let another have this place."""
        self._counted = None
        self._refuse(*TOO_MANY)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; without the parser's words."""
        if self.conn.are_too_many:
            most = f"the body comes in more than {self.bounds.pieces} pieces"
            self._refuse(413, "too_many_pieces", most, "send it in larger ones")
            return
        self._refuse(400, "bad_request", "this is not HTTP/1.1", "see /openapi.json")

    def _watch(self) -> None:
        """The timer runs from the first byte of a request, or the connection, to its last."""
        if self.transport.is_closing() or self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._unwatch()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.bounds.timeout, self._too_slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self.transport.close()  # nothing was asked
            return
        self._refuse(
            408, "too_slow", f"the request did not arrive within {self.bounds.timeout:g} s", "send it in one go"
        )

    def _refuse(self, status: int, code: str, message: str, hint: str) -> None:
        """Answer, where no answer has begun, and close."""
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = error_body(code, message, hint)
            phrase = http.HTTPStatus(status).phrase
            fields = {
                **SECURITY,
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                "Connection": "close",
            }
            lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in fields.items())]
            self.transport.write("\r\n".join([*lines, "\r\n"]).encode() + body)
        self.transport.close()


def _for_direct_callers(app: ASGIApp) -> ASGIApp:
    """Refuse what a proxy on this machine hands on."""
    status, code, message, hint = TOO_MANY
    headers = {**SECURITY, "Connection": "close"}
    busy = Response(error_body(code, message, hint), status, headers, media_type="application/json")

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        taken = app if is_direct(scope["client"][0], shown, scope["http_version"]) else busy
        await taken(scope, receive, send)

    return inner


def bounded_protocol(bounds: Bounds | None = None) -> type[BoundedProtocol]:
    """A protocol class for one server."""
    return type("_Protocol", (BoundedProtocol,), {"bounds": bounds or Bounds()})

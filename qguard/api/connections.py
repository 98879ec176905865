"""What a connection may cost: time to send a request, and how many there may be at once.

uvicorn bounds the time between two requests only; who sends a request byte by byte would hold a connection for ever.
"""

import asyncio
import http
import socket
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from qguard.api.access import is_loopback
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
"""More of them for this machine, so that commands get through when others have taken all."""

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


@dataclass(slots=True)
class Bounds:
    """The bounds of one server, and how many connections each address has."""

    timeout: float = REQUEST_TIMEOUT
    most: int = MOST_CONNECTIONS
    per_address: int = MOST_PER_ADDRESS
    reserved: int = RESERVED
    open: Counter[str] = field(default_factory=Counter)

    def take(self, address: str) -> bool:
        """Count a connection, if there may be one more."""
        here = is_loopback(address)
        total = self.open.total()
        if total >= self.most + self.reserved * here or (not here and self.open[address] >= self.per_address):
            return False
        self.open[address] += 1
        return True

    def give_back(self, address: str) -> None:
        """It has ended."""
        self.open[address] -= 1
        if not self.open[address]:
            del self.open[address]


class BoundedProtocol(H11Protocol):
    """The protocol of uvicorn, with bounds."""

    bounds: ClassVar[Bounds]
    _timer: asyncio.TimerHandle | None = None
    _counted: str | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        """Count it, or refuse it."""
        super().connection_made(transport)
        address = self.client[0] if self.client else ""
        if not self.bounds.take(address):
            self._refuse(503, "too_many_connections", "too many connections are open", "try again in a second")
            return
        self._counted = address
        # The kernel ends the connection of who does not take its answer.
        transport.get_extra_info("socket").setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(ANSWER_TIMEOUT * 1000)
        )
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give its place to another."""
        self._unwatch()
        if self._counted is not None:
            self.bounds.give_back(self._counted)
            self._counted = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, but not for ever."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; without the parser's words."""
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


def bounded_protocol(bounds: Bounds | None = None) -> type[BoundedProtocol]:
    """A protocol class for one server."""
    return type("_Protocol", (BoundedProtocol,), {"bounds": bounds or Bounds()})

"""Headers: what every answer carries, and how many a request may bring."""

from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qguard.api.schemas import ErrorAnswer, ErrorDetail

MOST_HEADERS: Final = 100
LARGEST_HEADERS: Final = 16_384
"""Bytes of all names and values of a request; browsers and proxies send some kB."""

SECURITY: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""On every answer that does not say otherwise. There is no CORS header: no page elsewhere reads anything."""


def error_body(code: str, message: str, hint: str) -> bytes:
    """The JSON of a refusal, for those who answer before the application does."""
    return msgspec.json.encode(ErrorAnswer(ErrorDetail(code, message, hint)))


def secured(app: ASGIApp) -> ASGIApp:
    """Refuse requests with too many headers; put ours on every answer."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        inner = app if scope["type"] != "http" or _fits(scope) else _TOO_LARGE
        await inner(scope, receive, send_with)

    return outer


def _fits(scope: Scope) -> bool:
    headers = scope["headers"]
    return len(headers) <= MOST_HEADERS and sum(len(n) + len(v) for n, v in headers) <= LARGEST_HEADERS


_TOO_LARGE: Final = Response(
    error_body("headers_too_large", "the request has too many or too large headers", "send fewer"),
    431,
    {"Connection": "close"},
    media_type="application/json",
)

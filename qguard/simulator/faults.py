"""Faults on demand: what may go wrong between a program and its client, each for so many requests or so many seconds.

POST a fault as JSON to /simulator/faults (from this machine only), GET tells what is under way, DELETE ends everything.
The same as Python: `Faults.begin` and `Faults.clear`.
"""

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final, Literal, get_args

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qguard.simulator.webui import WebUi

PATH: Final = "/simulator/faults"
LARGEST: Final = 65_536
LONGEST: Final = 3600.0
MOST: Final = 10_000

Kind = Literal[
    "slow",
    "status",
    "logged-out",
    "lost-reply",
    "truncated",
    "garbled",
    "vanish",
    "restart",
    "ban",
    "second-tool",
    "clock-jump",
]
WORDS: Final[dict[Kind, str]] = {
    "slow": "answers come `delay` seconds late",
    "status": "requests are refused with `status` and not done",
    "logged-out": "all sessions end, and the request is refused with 403",
    "lost-reply": "requests are done, and the connection is closed without an answer",
    "truncated": "the connection is closed after half of an answer",
    "garbled": "half of an answer comes as if it were all of it",
    "vanish": "`share` of the torrents are missing in listings",
    "restart": "the client is restarted: sessions end, `share` of the limits are lost; for `seconds` nobody answers",
    "ban": "this machine may not log in for `seconds`, and sessions end",
    "second-tool": "another tool writes `limit` to `share` of the torrents, `count` times, every `delay` seconds",
    "clock-jump": "the client's time leaps by `delay` seconds: counters, ages and the time of day",
}

_AT_ONCE: Final = frozenset({"restart", "ban", "clock-jump"})


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """One fault.

    Attributes:
        path: end of the paths that it is for, such as torrents/info; empty for all.
        count: for how many requests (writes, for second-tool); None for as many as come in `seconds`.
        seconds: for how long at most.
        delay: seconds.
        share: part of the torrents, 0 to 1.
        limit: bytes/s, 0 for none.
    """

    kind: Kind
    path: str = ""
    count: int | None = 1
    seconds: float = 600.0
    delay: float = 2.0
    status: int = 500
    share: float = 0.5
    limit: int = 77_777


class FaultError(Exception):
    """A fault that cannot be; one line that says why."""


def checked(fault: Fault) -> Fault:
    """The same fault.

    Raises:
        FaultError: it is out of bounds.
    """
    bounds = (
        (fault.count is None or 1 <= fault.count <= MOST, f"count must be 1 to {MOST}, or null"),
        (0 < fault.seconds <= LONGEST, f"seconds must be more than 0, at most {LONGEST:.0f}"),
        (0 < fault.delay <= LONGEST, f"delay must be more than 0, at most {LONGEST:.0f} seconds"),
        (400 <= fault.status <= 599, "status must be 400 to 599"),
        (0 <= fault.share <= 1, "share must be 0 to 1"),
        (0 <= fault.limit < 2**31 - 1, "limit must be 0 to 2147483646 bytes/s"),
    )
    for fine, words in bounds:
        if not fine:
            raise FaultError(words)
    return fault


@dataclass(slots=True, eq=False)
class _Active:
    fault: Fault
    until: float
    left: int | None
    next_at: float = 0.0


@dataclass(slots=True, eq=False)
class Faults:
    """What goes wrong at present with one client.

    Attributes:
        met: how often each kind has come to pass.
    """

    ui: WebUi
    met: dict[str, int] = field(default_factory=dict)
    _active: list[_Active] = field(default_factory=list)

    def begin(self, fault: Fault) -> None:
        """Let it happen from now on.

        Raises:
            FaultError: it is out of bounds.
        """
        checked(fault)
        now = self.ui.clock()
        if fault.kind in _AT_ONCE:
            self._note(fault)
            self._happen(fault)
        if fault.kind not in {"ban", "clock-jump"}:
            # A restart is over when its time is, however many requests come.
            left = None if fault.kind == "restart" else fault.count
            self._active.append(_Active(fault, now + fault.seconds, left, now))

    def clear(self) -> None:
        """End everything; what has been done stays done."""
        self._active.clear()

    def present(self) -> list[dict[str, Any]]:
        """What is under way: each fault, and how much of it is left."""
        now = self.ui.clock()
        self._forget(now)
        return [
            msgspec.to_builtins(one.fault) | {"requests_left": one.left, "seconds_left": round(one.until - now, 1)}
            for one in self._active
        ]

    def tick(self) -> None:
        """What happens without a request."""
        now = self.ui.clock()
        self._forget(now)
        for one in self._active:
            if one.fault.kind == "second-tool" and now >= one.next_at:
                one.next_at = now + one.fault.delay
                self._write(one)

    def take(self, path: str) -> list[Fault]:
        """The faults that a request meets, each kind once; counts them down."""
        self._forget(self.ui.clock())
        met: dict[str, Fault] = {}
        for one in self._active:
            fault = one.fault
            if fault.kind == "second-tool" or fault.kind in met or not path.endswith(fault.path):
                continue
            met[fault.kind] = fault
            if fault.kind != "restart":
                self._note(fault)
            if one.left is not None:
                one.left -= 1
        return list(met.values())

    def _forget(self, now: float) -> None:
        self._active = [one for one in self._active if now < one.until and one.left != 0]

    def _note(self, fault: Fault) -> None:
        self.met[fault.kind] = self.met.get(fault.kind, 0) + 1

    def _happen(self, fault: Fault) -> None:
        if fault.kind == "restart":
            self.ui.restart(lose=fault.share)
        elif fault.kind == "ban":
            self.ui.sessions.end_all()
            for peer in ("127.0.0.1", "::1"):
                self.ui.sessions.ban(peer, fault.seconds)
        else:
            self.ui.leap(fault.delay)

    def _write(self, one: _Active) -> None:
        client = self.ui.client
        self._note(one.fault)
        rows = np.flatnonzero(client.leechers.rng.random(len(client)) < one.fault.share)
        client.set_limit([client.torrents[row].infohash for row in rows], one.fault.limit)
        if one.left is not None:
            one.left -= 1


Closers = MutableMapping[tuple[str, int], Callable[[], None]]
"""Address of a caller -> what closes its connection."""


class FaultyApp:
    """An ASGI application in front of another: the faults, and the endpoint that begins them.

    Args:
        app: what is faulty.
        faults: which faults.
        closers: filled in by the server; without it, a connection cannot be closed and `ConnectionResetError` is
            raised instead.
    """

    def __init__(self, app: ASGIApp, faults: Faults, closers: Closers | None = None) -> None:
        self._app = app
        self._faults = faults
        self._closers = closers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == PATH:
            response = await control(self._faults, Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        met = {fault.kind: fault for fault in self._faults.take(scope["path"])}
        if "restart" in met:
            await self._close(scope, receive)
            return
        if "logged-out" in met:
            self._faults.ui.sessions.end_all()
            await Response("Forbidden", 403)(scope, receive, send)
            return
        if "status" in met:
            await Response("injected by the simulator", met["status"].status)(scope, receive, send)
            return
        if not met:
            await self._app(scope, receive, send)
            return
        start, body = await _collected(self._app, scope, receive)
        if "slow" in met:
            await asyncio.sleep(met["slow"].delay)
        if "vanish" in met and start["status"] == 200:
            body = without(body, met["vanish"].share)
        if "garbled" in met:
            body = body[: len(body) // 2]
        if "lost-reply" in met:
            await self._close(scope, receive)
            return
        await send(_with_length(start, len(body)))
        if "truncated" in met:
            await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await self._close(scope, receive)
            return
        await send({"type": "http.response.body", "body": body})

    async def _close(self, scope: Scope, receive: Receive) -> None:
        """Close the connection as it is."""
        close = None if self._closers is None else self._closers.get(tuple(scope.get("client") or ()))
        if close is None:
            raise ConnectionResetError("the simulator closes the connection")
        close()
        while (await receive())["type"] != "http.disconnect":
            pass


async def _collected(app: ASGIApp, scope: Scope, receive: Receive) -> tuple[Message, bytes]:
    """The whole answer of an application."""
    start: Message = {}
    parts: list[bytes] = []

    async def keep(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            parts.append(message.get("body", b""))

    await app(scope, receive, keep)
    return start, b"".join(parts)


def _with_length(start: Message, length: int) -> Message:
    headers = [pair for pair in start.get("headers", []) if pair[0].lower() != b"content-length"]
    if start["status"] != 204:
        headers.append((b"content-length", str(length).encode()))
    return {**start, "headers": headers}


def without(body: bytes, share: float) -> bytes:
    """A listing (torrents/info or sync/maindata) from which a part of the torrents is missing, always the same ones."""

    def gone(infohash: str) -> bool:
        return int(infohash[:6], 16) < share * 2**24

    try:
        if body.startswith(b"["):
            rows = msgspec.json.decode(body, type=list[msgspec.Raw])
            names = [row["hash"] for row in msgspec.json.decode(body, type=list[dict[str, Any]])]
            return msgspec.json.encode([row for row, name in zip(rows, names, strict=True) if not gone(name)])
        parts = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        torrents = msgspec.json.decode(parts["torrents"], type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, KeyError):
        return body
    kept = {name: row for name, row in torrents.items() if not gone(name)}
    return msgspec.json.encode({**parts, "torrents": msgspec.Raw(msgspec.json.encode(kept))})


_DECODER: Final = msgspec.json.Decoder(Fault)


async def control(faults: Faults, request: Request) -> Response:
    """POST begins a fault, GET lists them, DELETE ends them; only from this machine, and never for a web page."""
    peer = request.client.host if request.client else ""
    if not _is_loopback(peer) or request.headers.get("origin"):
        return _said(403, "only programs on this machine may begin faults")
    match request.method:
        case "GET":
            return _json({"present": faults.present(), "met": faults.met, "kinds": WORDS})
        case "DELETE":
            faults.clear()
            return Response(status_code=204)
        case "POST":
            return await _begin(faults, request)
    return _said(405, "POST a fault, GET the list, DELETE all")


async def _begin(faults: Faults, request: Request) -> Response:
    if int(request.headers.get("content-length", LARGEST + 1)) > LARGEST:
        return _said(413, f"a fault has at most {LARGEST} bytes, and a Content-Length")
    try:
        faults.begin(_DECODER.decode(await request.body()))
    except (msgspec.DecodeError, FaultError) as error:
        return _said(422, f"no such fault: {error}; kinds are {', '.join(get_args(Kind))}")
    return _json({"present": faults.present()})


def _is_loopback(peer: str) -> bool:
    try:
        return ip_address(peer).is_loopback
    except ValueError:
        return False


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _said(status: int, words: str) -> Response:
    return _json({"error": words}, status)

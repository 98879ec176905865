"""The table of endpoints as a Starlette application: doors, decoding, typed errors."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
import structlog
from python_multipart.multipart import parse_options_header
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from allocators.base import BadAllocationError
from qguard.answers import Health, RequestError
from qguard.api.access import SAFE, Access, Need, Peer, shown_key
from qguard.api.contract import JSON, Call, Endpoint
from qguard.api.doors import CSRF_HEADER, Doors, TooManyFailuresError
from qguard.api.endpoints import ENDPOINTS
from qguard.api.headers import error_body, secured
from qguard.api.login import LoginBody, LogoutAnswer, cookie_name, describe, drop_cookie, log_in, login_page, set_cookie
from qguard.api.schemas import ErrorAnswer, ErrorDetail, WebhookBody
from qguard.api.sessions import Session
from qguard.config import ConfigError
from qguard.ledger import LedgerError
from qguard.log import redact
from qguard.qbittorrent.errors import ClientError, LoginRefusedError
from qguard.service import Service

T = TypeVar("T")

Answer = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger("qguard")

FORM: Final = "application/x-www-form-urlencoded"

LARGEST_BODY: Final = 2**20
"""Bytes; a configuration to preview is the largest thing anybody sends."""

LARGEST_HOOK: Final = 2**16
"""Bytes of a hook's body; a torrent's name and paths are the largest part."""

CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
"""Of a form. Python knows others that fail in ways of their own, or take long."""

_PLACE: Final = r" - at `[$.\[\]\w]+`"

_OWN_WORDS: Final = re.compile(
    r"(Expected `[^`]*`(, got `\w+`| [<>]=? \S+| of length [<>=]+ \d+| that's a multiple of \S+)?"
    r"|Object missing required field `\w+`|Input data was truncated|JSON is malformed: [^`\"]+ \(byte \d+\))"
    rf"({_PLACE})?"
)
"""What msgspec says of a value without repeating it. Names of fields stand there only where the type has them."""

SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "x-api-key", CSRF_HEADER})


async def _unless_stopping(answer: Awaitable[object]) -> object:
    """An answer, or why there will be none: requests that are not done when the service ends are cancelled."""
    try:
        return await answer
    except asyncio.CancelledError:
        raise RequestError("stopping", "the service is stopping", "ask again when it runs", 503) from None


FAILURES: Final[dict[type[Exception], tuple[int, str, str]]] = {
    ConfigError: (422, "bad_configuration", "the last good configuration stays in force"),
    LoginRefusedError: (502, "login_refused", "correct the credentials in the configuration"),
    ClientError: (503, "client_unavailable", "nothing was concluded; try again when it answers"),
    LedgerError: (500, "ledger", "nothing was written to the client"),
    BadAllocationError: (503, "strategy", "choose another allocation_strategy"),
}
"""Status, code and hint of each expected failure; the first that fits counts."""


def make_app(service: Service, doors: Doors | Access) -> ASGIApp:
    """The HTTP interface of one service; plain rules are doors that never change."""
    if isinstance(doors, Access):
        doors = Doors.fixed(doors)
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint

    def route(path: str, methods: list[str], answer: Answer) -> Route:
        return Route(path, _guarded(answer), methods=methods)

    def serving(methods: dict[str, Endpoint]) -> Answer:
        # A GET route answers HEAD too.
        return lambda request: _serve(
            service, doors, methods["GET" if request.method == "HEAD" else request.method], request
        )

    app = Starlette(
        routes=[
            *(route(path, list(methods), serving(methods)) for path, methods in paths.items()),
            route("/login", ["POST"], lambda request: _log_in(doors, request)),
            route("/logout", ["POST"], lambda request: _log_out(doors, request)),
            route("/session", ["GET"], lambda request: _session(doors, request)),
        ],
        exception_handlers={HTTPException: _not_there},
    )
    # A redirect would be lost on a hook's curl, and would lead to whatever the Host header says.
    app.router.redirect_slashes = False
    return secured(app)


def _guarded(answer: Answer) -> Answer:
    """Errors become answers. Whatever is not foreseen is told to the log only: it may hold anything.

    What is refused here is refused in fixed words, and nothing is hidden in them: `***` in place of what a stranger
    sent, or of a word of ours, would tell him that it is a secret.
    """

    async def guarded(request: Request) -> Response:
        try:
            return await answer(request)
        except RequestError as error:
            return _refusal(error)
        except HTTPException:
            raise
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except Exception:  # a fault of ours must not end in the words of the server
            log.exception(f"{request.method} {request.scope['path']!r} failed")
            return _error(500, "internal", "this is a fault of qguard", "its log says more")

    return guarded


@dataclass(frozen=True, slots=True)
class _Visit:
    """A request that may be looked at: its host and origin are in order."""

    headers: Mapping[str, str]
    peer: Peer
    cookie: str
    """Name of the session's cookie."""
    token: str
    """Its value, empty for none."""
    session: Session | None

    @property
    def harmless(self) -> dict[str, str]:
        """The headers without those that hold secrets."""
        return {name: value for name, value in self.headers.items() if name not in SECRET_HEADERS}

    def admit(self, doors: Doors, need: Need, method: str, field_key: str = "") -> str:
        """Who calls; see Doors.admit."""
        return doors.admit(self.peer, self.headers, need, method=method, field_key=field_key, session=self.session)

    def may_read(self, doors: Doors, method: str) -> bool:
        """Whether this caller may look at everything. A wrong key counts here too: who asks could try many."""
        try:
            self.admit(doors, Need.READ, method)
        except RequestError:
            return False
        return True

    def still_open(self, doors: Doors, need: Need) -> Callable[[], bool]:
        """Tells at any later time whether this caller would be let in; see Doors.is_open."""
        key = shown_key(self.headers)
        return lambda: doors.is_open(self.peer, need, key=key, token=self.token)


def _visit(doors: Doors, request: Request, *, is_open: bool = False) -> _Visit:
    """Check host and origin, find the session.

    Raises:
        RequestError: the request is not meant for us, or comes from a page elsewhere.
    """
    # Joined, since what counts in X-Forwarded-For may be in a second header of that name.
    headers = {name: ",".join(request.headers.getlist(name)) for name in request.headers}
    access = doors.access
    peer = access.peer(
        request.client.host if request.client else "", headers, http_version=request.scope["http_version"]
    )
    access.check_host(headers.get("host", ""))
    if not (is_open and request.method in SAFE):
        access.check_origin(headers, peer, request.method)
    name = cookie_name((request.scope.get("server") or ("", 0))[1] or 0)
    token = request.cookies.get(name, "")
    return _Visit(headers, peer, name, token, doors.sessions.find(token) if token else None)


async def _serve(service: Service, doors: Doors, endpoint: Endpoint, request: Request) -> Response:
    """Let in who may, decode, call, encode."""
    visit = _visit(doors, request, is_open=endpoint.need is Need.NOTHING)
    body: msgspec.Struct | None = None
    if endpoint.need is Need.HOOK:
        # The key of a hook may stand in its body.
        body = hook = await _hook_body(request)
        who = visit.admit(doors, endpoint.need, request.method, hook.api_key)
    else:
        try:
            who = visit.admit(doors, endpoint.need, request.method)
        except RequestError as error:
            # Who opens the page in a browser has no other way to show a key.
            if request.url.path == "/" and error.code == "no_key" and "text/html" in visit.headers.get("accept", ""):
                return HTMLResponse(login_page(), error.status)
            raise
        if endpoint.body is not None:
            body = _decode(await _read(request, LARGEST_BODY), endpoint.body)
    query = _convert(dict(request.query_params), endpoint.query)
    call = Call(
        who,
        body,
        query,
        request.path_params,
        visit.harmless,
        visit.still_open(doors, endpoint.need),
        endpoint.need is not Need.NOTHING or visit.may_read(doors, request.method),
    )
    answer, status = await _done(endpoint, service, call)
    _ = doors.access  # after a reload: new keys end sessions, and the answer must not show them
    if isinstance(answer, Response):  # a page, metrics, events
        return answer
    return _as_json(await redact.json_beside(answer), status)


async def _done(endpoint: Endpoint, service: Service, call: Call) -> tuple[object, int]:
    """The answer to a caller who was let in, and its status. The words of an error may quote anything."""
    try:
        answer = await _unless_stopping(endpoint.handler(service, call))
    except RequestError as error:
        found = ErrorDetail(error.code, error.message, error.hint)
        return ErrorAnswer(found), error.status
    except tuple(FAILURES) as error:
        status, code, hint = next(found for kind, found in FAILURES.items() if isinstance(error, kind))
        return ErrorAnswer(ErrorDetail(code, str(error), hint)), status
    is_bad = isinstance(answer, Health) and answer.status == "unhealthy"
    return answer, 503 if is_bad else endpoint.status


async def _log_in(doors: Doors, request: Request) -> Response:
    """A key becomes a session; a form gets pages, JSON gets JSON."""
    visit = _visit(doors, request)
    raw, is_form = await _read(request, LARGEST_HOOK), _media_type(request) == FORM
    try:
        body = _convert(await _form(request, raw), LoginBody) if is_form else _decode(raw, LoginBody)
        token, session = log_in(doors, visit.peer, body)
    except RequestError as error:
        if not is_form:
            raise
        return HTMLResponse(login_page(f"{error.message}; {error.hint}"), error.status)
    doors.sessions.end(visit.token)
    answer = RedirectResponse("/", 303) if is_form else _json(describe(session.role, session))
    set_cookie(answer, visit.cookie, token, secure=visit.peer.secure)
    return answer


async def _log_out(doors: Doors, request: Request) -> Response:
    """The session ends, here and in the browser."""
    visit = _visit(doors, request)
    visit.admit(doors, Need.READ, request.method)
    doors.sessions.end(visit.token)
    answer = _json(LogoutAnswer())
    drop_cookie(answer, visit.cookie, secure=visit.peer.secure)
    return answer


async def _session(doors: Doors, request: Request) -> Response:
    """What this caller may do."""
    visit = _visit(doors, request)
    who = visit.admit(doors, Need.READ, request.method)
    return _json(describe(who, None if shown_key(visit.headers) else visit.session))


async def _hook_body(request: Request) -> WebhookBody:
    """A hook's form or JSON. Read in full before it is parsed, so that its size is bounded."""
    raw = await _read(request, LARGEST_HOOK)
    is_json = _media_type(request) == JSON
    return _decode(raw, WebhookBody) if is_json else _convert(await _form(request, raw), WebhookBody)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _form(request: Request, raw: bytes) -> dict[str, str]:
    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    _, options = parse_options_header(request.headers.get("content-type", ""))
    if options.get(b"charset", b"").decode("latin-1").lower() not in CHARSETS:
        raise RequestError("bad_body", "a form in this charset is not taken", "send UTF-8", 422)
    try:
        form = await Request(request.scope, again).form(max_files=0, max_fields=30)
    except HTTPException:
        raise RequestError(
            "bad_body", "this is no form, or one with more than 30 fields", "see /openapi.json", 422
        ) from None
    return {key: value for key, value in form.items() if isinstance(value, str)}


async def _read(request: Request, most: int) -> bytes:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > most:
            raise RequestError("too_large", f"the body is larger than {most} bytes", "send less", 413)
    return bytes(raw)


def _decode(raw: bytes, kind: type[T]) -> T:
    """A JSON body; an empty one counts as {}."""
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        words = f"the body is not what is expected: {_what_is_wrong(error, kind)}"
        raise RequestError("bad_body", words, "send JSON; see /openapi.json", 422) from None


def _convert(fields: dict[str, str], kind: type[T]) -> T:
    """Query or form fields, where everything is text."""
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        words = f"a field is not what is expected: {_what_is_wrong(error, kind)}"
        raise RequestError("bad_field", words, "see /openapi.json", 422) from None


def _what_is_wrong(error: Exception, kind: type[Any]) -> str:
    """What is wrong with a body or a field, without a word of what was sent."""
    text = str(error)
    if _OWN_WORDS.fullmatch(text):
        return text
    if "unknown field" in text:
        return f"a field is not known; known are {', '.join(kind.__struct_fields__)}"
    place = re.search(f"{_PLACE}$", text)
    if "enum value" in text and place:
        return f"Expected another value{place[0]}"
    return "it is not well-formed"


async def _not_there(_: Request, error: Exception) -> Response:
    """No such path or method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    code = {404: "not_found", 405: "bad_method"}.get(status, "refused")
    answer = _error(status, code, str(getattr(error, "detail", error)), "see /openapi.json")
    answer.headers.update(headers or {})
    return answer


def _json(answer: object) -> Response:
    return _as_json(redact.json(answer), 200)


def _as_json(body: bytes, status: int) -> Response:
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _error(status: int, code: str, message: str, hint: str) -> Response:
    """An error in fixed words; see _guarded."""
    return _as_json(error_body(code, message, hint), status)


def _refusal(error: RequestError) -> Response:
    answer = _error(error.status, error.code, error.message, error.hint)
    if isinstance(error, TooManyFailuresError):
        answer.headers["Retry-After"] = str(error.retry_after)
    elif error.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer

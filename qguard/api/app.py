"""Routes over the service. Each endpoint decodes, calls one method, encodes; nothing else."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from allocators.base import BadAllocationError
from qguard.answers import RequestError
from qguard.api import schemas
from qguard.api.access import Access
from qguard.config import ConfigError
from qguard.ledger import LedgerError
from qguard.log import redact
from qguard.qbittorrent.errors import ClientError, LoginRefusedError
from qguard.rollback import Scope
from qguard.service import Service

T = TypeVar("T")

LARGEST_BODY: Final = 2**20
"""Bytes; a configuration to preview is the largest thing anybody sends."""

Handler = Callable[[Service, Request, str], Awaitable[object]]


def make_app(service: Service, access: Access) -> Starlette:
    """The HTTP interface of one service."""

    async def health(_: Request) -> Response:
        answer = service.health()
        return _json(answer, 503 if answer.status == "unhealthy" else 200)

    return Starlette(
        routes=[
            Route("/health", health, methods=["GET"]),
            *(Route(path, _guarded(handler, service, access), methods=[method]) for method, path, handler in CLOSED),
        ]
    )


def _guarded(handler: Handler, service: Service, access: Access) -> Callable[[Request], Awaitable[Response]]:
    """Let in who may, and turn every expected failure into a typed answer."""

    async def endpoint(request: Request) -> Response:
        if not access.host_is_ours(request.headers.get("host", "")):
            return _error(
                400,
                "unknown_host",
                "this is not a name of ours",
                "call us by address, or add it to server.allowed_hosts",
            )
        who = access.caller(request.client.host if request.client else "", request.headers)
        if who is None:
            return _error(401, "no_key", "a key is needed", "send it as X-API-Key or Authorization: Bearer")
        if request.method != "GET" and not access.same_origin(request.headers):
            return _error(403, "other_origin", "this request comes from a page elsewhere", "call from the same origin")
        try:
            return _json(await _unless_stopping(handler(service, request, who)))
        except RequestError as error:
            return _error(error.status, error.code, error.message, error.hint)
        except tuple(FAILURES) as error:
            status, code, hint = next(answer for kind, answer in FAILURES.items() if isinstance(error, kind))
            return _error(status, code, str(error), hint)

    return endpoint


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
    BadAllocationError: (500, "strategy", "choose another allocation_strategy"),
}
"""Status, code and hint of each expected failure; the first that fits counts."""


async def force(service: Service, request: Request, who: str) -> object:
    """Run a cycle now, on a full listing."""
    body = await _body(request, schemas.ForceBody)
    return await service.cycle(who=who, reason=body.reason, force_full=True)


async def preview(service: Service, request: Request, who: str) -> object:
    """What the next cycle would do."""
    return await service.preview()


async def preview_other(service: Service, request: Request, who: str) -> object:
    """What the next cycle would do under another configuration."""
    return await service.preview((await _body(request, schemas.PreviewBody)).config)


async def roll_back(service: Service, request: Request, who: str) -> object:
    """Put earlier limits back."""
    body = await _body(request, schemas.RollbackBody)
    if not (body.confirm or body.dry_run):
        raise RequestError("not_confirmed", "a rollback must be confirmed", 'send {"confirm": true}')
    return await service.rollback(
        Scope(body.tracker, body.cycle, body.since),
        who=who,
        reason=body.reason or "Manual rollback",
        force=body.force,
        dry_run=body.dry_run,
    )


async def rollout(service: Service, request: Request, who: str) -> object:
    """Set the percentage of torrents that are managed."""
    body = await _body(request, schemas.RolloutBody)
    return await service.set_rollout(body.percentage, tracker=body.tracker, who=who, reason=body.reason)


async def pause(service: Service, request: Request, who: str) -> object:
    """Write nothing any more."""
    body = await _body(request, schemas.PauseBody)
    return await service.pause(tracker=body.tracker, until=body.until, who=who, reason=body.reason)


async def resume(service: Service, request: Request, who: str) -> object:
    """Take up again what was paused or rolled back."""
    body = await _body(request, schemas.ResumeBody)
    return await service.resume(
        tracker=body.tracker, who=who, reason=body.reason, foreign=body.foreign, hashes=body.hashes
    )


async def adopt(service: Service, request: Request, who: str) -> object:
    """Say which limits count as originals."""
    return await service.adopt((await _body(request, schemas.AdoptBody)).originals, who=who)


async def trackers(service: Service, request: Request, who: str) -> object:
    """Announce hosts of the client's torrents."""
    return await service.trackers()


async def match(service: Service, request: Request, who: str) -> object:
    """Which rule takes an announce URL."""
    query = request.query_params
    if "url" not in query:
        raise RequestError("no_url", "the announce URL is missing", "send it as ?url=", 422)
    return service.match(query["url"], query.get("category", ""), query.get("tags", ""))


async def explain(service: Service, request: Request, who: str) -> object:
    """Why a torrent has the limit it has."""
    return await service.explain(request.path_params["hash"])


async def ledger(service: Service, request: Request, who: str) -> object:
    """A page of the history."""
    query = request.query_params
    return await service.history(
        infohash=query.get("hash"),
        tracker=query.get("tracker"),
        cycle=_whole(query.get("cycle"), "cycle"),
        before_id=_whole(query.get("before"), "before"),
        limit=min(_whole(query.get("limit"), "limit") or 100, 1000),
    )


async def reload(service: Service, request: Request, who: str) -> object:
    """Read the configuration file again."""
    return await service.reload()


CLOSED: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("POST", "/cycle/force", force),
    ("GET", "/preview/next-cycle", preview),
    ("POST", "/preview/next-cycle", preview_other),
    ("POST", "/rollback", roll_back),
    ("POST", "/rollout", rollout),
    ("POST", "/pause", pause),
    ("POST", "/resume", resume),
    ("POST", "/adopt", adopt),
    ("GET", "/trackers", trackers),
    ("GET", "/match/test", match),
    ("GET", "/explain/{hash}", explain),
    ("GET", "/ledger", ledger),
    ("POST", "/config/reload", reload),
)
"""Everything that needs a key."""


async def _body(request: Request, kind: type[T]) -> T:
    """Decode a JSON body; an empty one counts as {}."""
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > LARGEST_BODY:
            raise RequestError("too_large", f"the body is larger than {LARGEST_BODY} bytes", status=413)
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise RequestError("bad_body", f"the body is not what is expected: {error}", "send JSON", 422) from None


def _whole(text: str | None, name: str) -> int | None:
    if text is None:
        return None
    if not text.isdecimal():
        raise RequestError("bad_query", f"{name}={text!r} is not a whole number", status=422)
    return int(text)


def _json(answer: object, status: int = 200) -> Response:
    body = msgspec.json.encode(redact.strings(msgspec.to_builtins(answer)))
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _error(status: int, code: str, message: str, hint: str) -> Response:
    return _json({"error": {"code": code, "message": message, "hint": hint}}, status)

"""The table of endpoints as a Starlette application: doors, decoding, typed errors."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from allocators.base import BadAllocationError
from qguard.answers import Health, RequestError
from qguard.api.access import Access, Need
from qguard.api.endpoints import ENDPOINTS, Call, Endpoint
from qguard.api.schemas import ErrorAnswer, ErrorDetail, HookBody
from qguard.config import ConfigError
from qguard.ledger import LedgerError
from qguard.log import redact
from qguard.qbittorrent.errors import ClientError, LoginRefusedError
from qguard.service import Service

T = TypeVar("T")

LARGEST_BODY: Final = 2**20
"""Bytes; a configuration to preview is the largest thing anybody sends."""

LARGEST_HOOK: Final = 2**16
"""Bytes of a hook's body; a torrent's name and paths are the largest part."""

FAILURES: Final[dict[type[Exception], tuple[int, str, str]]] = {
    ConfigError: (422, "bad_configuration", "the last good configuration stays in force"),
    LoginRefusedError: (502, "login_refused", "correct the credentials in the configuration"),
    ClientError: (503, "client_unavailable", "nothing was concluded; try again when it answers"),
    LedgerError: (500, "ledger", "nothing was written to the client"),
    BadAllocationError: (500, "strategy", "choose another allocation_strategy"),
}
"""Status, code and hint of each expected failure; the first that fits counts."""


def make_app(service: Service, access: Access) -> Starlette:
    """The HTTP interface of one service."""
    paths: dict[str, dict[str, Endpoint]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
    return Starlette(
        routes=[
            Route(path, _dispatch(service, access, methods), methods=list(methods)) for path, methods in paths.items()
        ],
        exception_handlers={HTTPException: _not_there},
    )


def _dispatch(
    service: Service, access: Access, methods: dict[str, Endpoint]
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        # A GET route answers HEAD too.
        endpoint = methods["GET" if request.method == "HEAD" else request.method]
        try:
            return await _serve(service, access, endpoint, request)
        except RequestError as error:
            return _error(error.status, error.code, error.message, error.hint)
        except tuple(FAILURES) as error:
            status, code, hint = next(found for kind, found in FAILURES.items() if isinstance(error, kind))
            return _error(status, code, str(error), hint)

    return answer


async def _serve(service: Service, access: Access, endpoint: Endpoint, request: Request) -> Response:
    """Let in who may, decode, call, encode."""
    headers, address = request.headers, request.client.host if request.client else ""
    access.check_host(headers.get("host", ""))
    body: msgspec.Struct | None = None
    if endpoint.need is Need.HOOK:
        # The key of a hook may stand in its body.
        body = hook = await _hook_body(request)
        who = access.caller(address, headers, endpoint.need, field_key=hook.api_key)
    else:
        who = access.caller(address, headers, endpoint.need)
        if request.method not in {"GET", "HEAD"}:
            access.check_origin(headers)
        if endpoint.body is not None:
            body = _decode(await _read(request, LARGEST_BODY), endpoint.body)
    query = _convert(dict(request.query_params), endpoint.query)
    answer = await endpoint.handler(service, Call(who, body, query, request.path_params))
    return _json(answer, 503 if isinstance(answer, Health) and answer.status == "unhealthy" else endpoint.status)


async def _hook_body(request: Request) -> HookBody:
    """A hook's form or JSON. Read in full before it is parsed, so that its size is bounded."""
    raw = await _read(request, LARGEST_HOOK)
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        return _decode(raw, HookBody)

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": raw, "more_body": False}

    form = await Request(request.scope, again).form(max_files=0, max_fields=30)
    return _convert({key: value for key, value in form.items() if isinstance(value, str)}, HookBody)


async def _read(request: Request, most: int) -> bytes:
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > most:
            raise RequestError("too_large", f"the body is larger than {most} bytes", "send less", 413)
    return raw


def _decode(raw: bytes, kind: type[T]) -> T:
    """A JSON body; an empty one counts as {}."""
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("bad_body", f"the body is not what is expected: {error}", "send JSON", 422) from None


def _convert(fields: dict[str, str], kind: type[T]) -> T:
    """Query or form fields, where everything is text."""
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise RequestError("bad_field", f"a field is not what is expected: {error}", "see /openapi.json", 422) from None


async def _not_there(_: Request, error: Exception) -> Response:
    """No such path or method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    code = {404: "not_found", 405: "bad_method"}.get(status, "refused")
    answer = _error(status, code, str(getattr(error, "detail", error)), "see /openapi.json")
    answer.headers.update(headers or {})
    return answer


def _json(answer: object, status: int = 200) -> Response:
    body = msgspec.json.encode(redact.strings(msgspec.to_builtins(answer)))
    return Response(body, status, media_type="application/json", headers={"Cache-Control": "no-store"})


def _error(status: int, code: str, message: str, hint: str) -> Response:
    return _json(ErrorAnswer(ErrorDetail(code, message, hint)), status)

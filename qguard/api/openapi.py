"""The table of endpoints as an OpenAPI 3.1 document. Types make the schemas, so that the two cannot drift apart."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from qguard import __version__
from qguard.api import schemas
from qguard.api.access import Need
from qguard.api.contract import JSON, Endpoint
from qguard.api.login import LoginBody, LogoutAnswer, SessionAnswer

DESCRIPTION: Final = "Keeps each tracker's share of qBittorrent's upload under that tracker's cap, and can undo it."

REFERENCE: Final = "#/components/schemas/{name}"

_ERROR: Final = {"$ref": REFERENCE.format(name="ErrorAnswer")}

NAMES: Final[Mapping[str, str]] = {
    "qguard.ledger.model.Change": "RecordedChange",
    "qguard.report.Change": "ProposedChange",
}
"""Of types that share one in the code; they would be called by their modules."""

FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")

ERRORS: Final[Mapping[int, str]] = {
    400: "The request cannot be meant for this service, or is not confirmed.",
    401: "A key is needed, or the one shown does not open this.",
    403: "The request comes from a page elsewhere, or its session does not allow this.",
    404: "There is no such tracker, torrent, cycle or file.",
    408: "The request took too long to arrive.",
    409: "Not in this state or in this combination.",
    413: "The body is too large.",
    422: "The body or a field is not what is expected.",
    429: "Too many wrong keys came from this address.",
    431: "Too many or too large headers.",
    500: "The ledger or the strategy failed, or qguard has a fault; nothing was written to qBittorrent.",
    502: "qBittorrent refused the login.",
    503: "qBittorrent does not answer, or this cannot be served at present: too many connections, or the end is near.",
}

ALWAYS: Final = frozenset({400, 408, 431, 500, 503})
"""What any request may be answered: before its path is looked at, or because the service is ending."""

NEEDS: Final[Mapping[Need, str]] = {
    Need.NOTHING: "Public.",
    Need.READ: "Needs the read key or the API key.",
    Need.ALL: "Needs the API key.",
    Need.HOOK: "Needs the hook key or the API key; without a hook key, private addresses need none.",
}

SCHEMES: Final[Mapping[str, Mapping[str, str]]] = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
    "Session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "qguard_session_8089",
        "description": "Of POST /login; its name ends with the port at which the service listens.",
    },
    "CsrfToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-CSRF-Token",
        "description": "Of GET /session; with a session, whatever is not a GET or HEAD needs it too.",
    },
}
KEYS: Final[tuple[dict[str, list[str]], ...]] = ({"ApiKey": []}, {"Bearer": []})
"""For programs."""
READING: Final[tuple[dict[str, list[str]], ...]] = (*KEYS, {"Session": []})
CHANGING: Final[tuple[dict[str, list[str]], ...]] = (*KEYS, {"Session": [], "CsrfToken": []})

LOGIN: Final = (
    (
        "POST",
        "/login",
        "log_in",
        "Exchange a key for a session cookie; for pages.",
        LoginBody,
        SessionAnswer,
        (409, 413, 422),
    ),
    ("POST", "/logout", "log_out", "End the session of the cookie.", None, LogoutAnswer, ()),
    (
        "GET",
        "/session",
        "session",
        "What this caller may do, and the token against forged requests.",
        None,
        SessionAnswer,
        (),
    ),
)
"""Operations that the application serves itself."""


@cache
def document(endpoints: tuple[Endpoint, ...]) -> dict[str, Any]:
    """The document, ready for JSON."""
    types = _types(endpoints)
    made, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    schema = dict(zip(map(str, types), made, strict=True))
    for kind in types:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            _describe(kind, components, schema[str(kind)])
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema, components)
    for method, path, name, summary, body, answer, errors in LOGIN:
        operation: dict[str, Any] = {
            "operationId": name,
            "summary": summary,
            "responses": _responses(200, {JSON: schema[str(answer)]}, {*errors, *ALWAYS, 401, 403, 429}),
            "security": list(CHANGING if path == "/logout" else READING),
        }
        if body is not None:
            content = {kind: {"schema": schema[str(body)]} for kind in (JSON, FORMS[0])}
            operation["requestBody"] = {"required": True, "content": content}
        if path == "/login":
            operation["security"] = []
            operation["responses"] = _answers_to_form(operation["responses"])
        paths.setdefault(path, {})[method.lower()] = operation
    made_of: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "qguard",
            "version": __version__,
            "description": f"{DESCRIPTION} Without a configured key, requests from this machine itself need none."
            " Rates, caps and limits are bytes/s, times are epoch seconds, a limit of 0 is none."
            " What is not here is answered with 404 and an ErrorAnswer, another method with 405.",
        },
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items())), "securitySchemes": dict(SCHEMES)},
    }
    whole: dict[str, Any] = _whole(made_of)
    return whole


def _whole(thing: Any) -> Any:  # noqa: ANN401 - JSON in, JSON out
    """A number that is a multiple of 1 is called an integer, which in JSON it is; types get their names of `NAMES`."""
    if isinstance(thing, str):
        module, _, name = thing.rpartition("/")
        return f"{module}/{NAMES[name]}" if name in NAMES else thing
    if isinstance(thing, list | tuple):
        return [_whole(value) for value in thing]
    if not isinstance(thing, dict):
        return thing
    if thing.get("type") == "number" and thing.get("multipleOf") == 1:
        thing = {key: value for key, value in thing.items() if key != "multipleOf"} | {"type": "integer"}
    return {NAMES.get(key, key): _whole(value) for key, value in thing.items()}


def _types(endpoints: Iterable[Endpoint]) -> list[Any]:
    """Every type once, in the order of first use."""
    found: dict[str, Any] = {str(schemas.ErrorAnswer): schemas.ErrorAnswer}
    wanted = [
        kind
        for endpoint in endpoints
        for kind in (endpoint.answer, endpoint.body, endpoint.query, *(kind for _, kind in endpoint.events))
    ]
    for kind in (*wanted, *(kind for row in LOGIN for kind in row[4:6])):
        if kind is not None:
            found.setdefault(str(kind), kind)
    return list(found.values())


def _operation(endpoint: Endpoint, schema: Mapping[str, Any], components: Mapping[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "description": NEEDS[endpoint.need],
        "responses": _responses(
            endpoint.status,
            {media: _content(endpoint, media, schema) for media in endpoint.media},
            _errors(endpoint),
        ),
        "security": _security(endpoint),
    }
    if endpoint.path == "/health":
        operation["responses"]["503"] = {
            "description": "The loop is stale; or, as an error, too many connections.",
            "content": {JSON: {"schema": {"anyOf": [schema[str(endpoint.answer)], _ERROR]}}},
        }
    if "text/html" in endpoint.media:  # the form of the login
        operation["responses"]["401"]["content"]["text/html"] = {"schema": {"type": "string"}}
    if parameters := [*_path_parameters(endpoint), *_query_parameters(endpoint, components)]:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        media = (JSON, *FORMS) if endpoint.need is Need.HOOK else (JSON,)
        reference = schema[str(endpoint.body)]
        asks_more = set(schemas.EXTRA.get(endpoint.body, {})) - {"properties"}
        required = bool(components[_name(reference)].get("required") or asks_more)
        operation["requestBody"] = {
            "required": required,
            "content": {kind: {"schema": reference} for kind in media},
        }
    return operation


def _content(endpoint: Endpoint, media: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an answer in one media type; of a stream, that of each event."""
    if endpoint.events:
        return {
            "description": "Each event of the stream.",
            "oneOf": [_event(name, schema[str(kind)]) for name, kind in endpoint.events],
        }
    found: dict[str, Any] = schema[str(endpoint.answer)] if media == JSON else {"type": "string"}
    return found


def _event(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    fields = {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"const": name},
        "data": {"type": "string", "contentMediaType": JSON, "contentSchema": data},
    }
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _answers_to_form(responses: Mapping[str, Any]) -> dict[str, Any]:
    """A browser's form is answered with a redirection, or with the page again."""
    cookie = {"Set-Cookie": {"schema": {"type": "string"}, "description": "The session."}}
    page = {"text/html": {"schema": {"type": "string"}}}
    found: dict[str, Any] = dict(responses)
    found["200"] = found["200"] | {"headers": cookie}
    found["303"] = {"description": "Done; for a form.", "headers": cookie | {"Location": {"schema": {"const": "/"}}}}
    for status in ("401", "403", "409", "413", "422", "429"):
        found[status] = found[status] | {"content": found[status]["content"] | page}
    return dict(sorted(found.items()))


def _security(endpoint: Endpoint) -> list[Any]:
    if endpoint.need is Need.NOTHING:
        return []
    if endpoint.need is Need.HOOK:
        return [{}, *KEYS]
    return list(READING if endpoint.method == "GET" else CHANGING)


def _errors(endpoint: Endpoint) -> set[int]:
    """Statuses with an ErrorAnswer."""
    statuses = {*ALWAYS, *endpoint.errors}
    if endpoint.need is not Need.NOTHING:
        statuses |= {401, 403, 429}
    if endpoint.body is not None:
        statuses |= {413, 422}
    if endpoint.query is not schemas.Nothing:
        statuses.add(422)
    if endpoint.asks_client:
        statuses.add(502)
    return statuses


def _responses(status: int, content: Mapping[str, Any], errors: Iterable[int]) -> dict[str, Any]:
    good = {
        "description": "Done." if status != 202 else "Kept; done soon.",
        "content": {k: {"schema": v} for k, v in content.items()},
    }
    return {str(status): good} | {
        str(found): {"description": ERRORS[found], "content": {JSON: {"schema": _ERROR}}} for found in sorted(errors)
    }


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    if "{hash}" not in endpoint.path:
        return []
    return [
        {
            "name": "hash",
            "in": "path",
            "required": True,
            "description": "info-hash, or at least the first 6 digits of it",
            "schema": {"type": "string", "pattern": "^[0-9A-Fa-f]{6,40}$", "examples": [schemas.HASH]},
        }
    ]


def _query_parameters(endpoint: Endpoint, components: Mapping[str, Any]) -> list[dict[str, Any]]:
    if endpoint.query is schemas.Nothing:
        return []
    schema = components[endpoint.query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": {key: value for key, value in field.items() if key != "default" or value is not None},
        }
        for name, field in schema["properties"].items()
    ]


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].rpartition("/")[2]


def _describe(kind: type[msgspec.Struct], components: dict[str, Any], reference: Mapping[str, str]) -> None:
    """Add what the types do not say: the words at each field, and what holds among fields."""
    schema = components[_name(reference)]
    for name, words in _field_words(kind).items():
        if name in schema["properties"]:
            schema["properties"][name].setdefault("description", words)
    extra = schemas.EXTRA.get(kind, {})
    for name, field in extra.get("properties", {}).items():
        words = schema["properties"][name].get("description")
        schema["properties"][name] = field | ({"description": words} if words else {})
    schema |= {key: value for key, value in extra.items() if key != "properties"}
    components[_name(reference)] = schema


def _field_words(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring below each field of a struct."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    if not isinstance(tree, ast.ClassDef):
        return {}
    found = {}
    for field, words in zip(tree.body, tree.body[1:], strict=False):
        match field, words:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found

"""The kinds of values that settings have: each reads what people write and refuses the rest with a `BadValueError`."""

import difflib
import ipaddress
import math
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainValidator, Strict, ValidationInfo, WithJsonSchema
from pydantic.types import SecretStr

from allocators.base import MAX_CAP
from qguard.config.environment import reread
from qguard.config.errors import BadValueError
from qguard.config.units import RATE_PATTERN, parse_duration, parse_rate

_QUOTE: Final = "put it in quotes"
_NO_VALUE: Final = "give a value, or delete the line for the default"


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of `words` that `word` was probably meant to be."""
    known = list(words)
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return found[0] if found else next((k for k in known if len(word) > 3 and (word in k or k in word)), None)


def is_host(text: str) -> bool:
    """Whether `text` is a host name or an IP address, without port."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return len(text) <= 253 and re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", text) is not None
    return True


def _text(value: object) -> str:
    if value is None:
        raise BadValueError("is empty", _NO_VALUE)
    if not isinstance(value, str):
        kind = "a list" if isinstance(value, list) else "a section" if isinstance(value, dict) else None
        raise BadValueError(f"is {kind}, not text", "give one value") if kind else BadValueError("is not text", _QUOTE)
    if not value.strip():
        raise BadValueError("is empty", _NO_VALUE)
    return str(value)


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Let nothing, and an empty text as `${VAR:-}` gives it, mean none."""

    def read_optional(value: object) -> object:
        return None if value is None or (isinstance(value, str) and not value.strip()) else read(value)

    return read_optional


def _rate(*, zero: bool = False, unlimited: bool = True, null: bool = False) -> Callable[[object], int | None]:
    def read(value: object) -> int | None:
        value = reread(value)
        if value is None and null:
            return None
        if value is None:
            raise BadValueError("is empty", 'write a rate such as "10 MiB/s"' + (", or unlimited" if unlimited else ""))
        return parse_rate(value, zero=zero, unlimited=unlimited)

    return read


def _rate_schema(*, zero: bool = False, unlimited: bool = True, null: bool = False) -> WithJsonSchema:
    ways: list[dict[str, Any]] = [{"type": "integer", "minimum": 0 if zero else 1, "maximum": MAX_CAP}]
    if unlimited:
        ways.append({"enum": [-1, "unlimited"]})
    ways.append({"type": "string", "pattern": RATE_PATTERN})
    if null:
        ways.append({"type": "null"})
    return WithJsonSchema({"anyOf": ways})


def _as_list(value: object) -> object:
    """A single value stands for a list of one."""
    if value is None:
        raise BadValueError("is empty", "write a list, or delete the line")
    if isinstance(value, dict):
        raise BadValueError("is a section, not a list", "write a list: [one, two]")
    return value if isinstance(value, list | tuple) else (value,)


def _tag(value: object) -> str:
    tag = _text(value).strip()
    if "," in tag:
        raise BadValueError("has a comma, which no tag can contain", "write a list: [one, two]")
    return tag


def _domain(value: object) -> str:
    text = _text(value).strip()
    domain = text.lower().removeprefix("*.").strip(".")
    if "://" in text or "/" in text:
        raise BadValueError("is a URL, not a domain", "write the host alone, as in tracker.example.org")
    if not is_host(domain):
        raise BadValueError(
            "is not a domain",
            "write a host name such as example.org, without port, in its xn-- form where it has other letters;"
            " regular expressions go to `pattern`",
        )
    return domain


def _allowed_host(value: object) -> str:
    text = _text(value).strip()
    if not is_host(text):
        raise BadValueError(
            "is not a host name", "write a name or address without scheme and port, as in qguard.example.org"
        )
    return text.lower()


def _network(value: object) -> str:
    text = _text(value).strip()
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        pass
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise BadValueError(
            "is neither an IP address nor a network", "write one such as 172.18.0.2 or 172.18.0.0/16"
        ) from None
    raise BadValueError("has bits set outside of its mask", f"write {network}")


def _pattern(value: object) -> str:
    pattern = _text(value)
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        at = "" if error.pos is None else f" at character {error.pos + 1}"
        raise BadValueError(
            f"is not a regular expression: {error.msg}{at}",
            "correct it, or list the tracker's domains under `match` instead",
        ) from None
    except (OverflowError, RecursionError):
        raise BadValueError(
            "is not a regular expression: it is too large", "list the domains under `match` instead"
        ) from None
    return pattern


def _url(value: object) -> str:
    text = _text(value).strip()
    if "@" in text:
        raise BadValueError(
            "has a user name or password in it", "remove them from the URL; there are keys of their own for them"
        )
    try:
        parts = urlsplit(text)
        port_is_good = parts.port != 0
    except ValueError:
        port_is_good = False
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not is_host(parts.hostname or "") or not port_is_good:
        raise BadValueError(
            "is not an http URL", "write http://host:port or https://host:port, with a path if there is one"
        )
    if parts.query or parts.fragment:
        raise BadValueError("has a ? or # in it", "end it with the path; keys have keys of their own")
    return text.rstrip("/")


EMBEDDED: Final = "embedded"
"""Stands for an address: a simulated client that is started with the service."""


def _hook_url(value: object) -> str:
    url = _url(value)
    if not re.fullmatch(r"[A-Za-z0-9-._~:/\[\]]+", url):
        raise BadValueError(
            "has a character in it that the line in qBittorrent would not keep",
            "write http://host:port or https://host:port, with a path of letters, digits and - . _ ~ if there is one",
        )
    return url


def _client_url(value: object) -> str:
    if isinstance(value, str) and value.strip().lower() == "embedded":
        return EMBEDDED
    return _url(value)


def _host(value: object) -> str:
    host = _text(value).strip()
    if not is_host(host):
        raise BadValueError("is not a host name", "write a name or address alone; scheme, port and path go to `url`")
    return host.strip("[]")


def _listen_host(value: object) -> str:
    host = _text(value).strip()
    if not is_host(host):
        raise BadValueError(
            "is not an address to listen on", "write 127.0.0.1, 0.0.0.0, :: or a host name; the port has its own key"
        )
    return host.strip("[]")


def _path(value: object, info: ValidationInfo) -> Path:
    """Resolve against the folder of the configuration file, which the validation context names."""
    text = _text(str(value) if isinstance(value, Path) else value)
    if "\0" in text:
        raise BadValueError("is not a path", "remove the NUL character")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise BadValueError("names a home folder that does not exist", "write the path out") from None
    folder: Path | None = (info.context or {}).get("folder")
    return path if folder is None else folder / path


def _optional_path(value: object, info: ValidationInfo) -> Path | None:
    return None if value is None or (isinstance(value, str) and not value.strip()) else _path(value, info)


def _tls(value: object, info: ValidationInfo) -> bool | Path:
    value = reread(value)
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise BadValueError(
            "is neither true, false nor a path", "write true, false or the path of a file with CA certificates"
        )
    path = _path(value, info)
    if not path.exists():
        raise BadValueError(
            "there is no such file", "write true, false (no quotes) or the path of a file with CA certificates"
        )
    return path


def _secret(value: object) -> object:
    return value if isinstance(value, SecretStr) else SecretStr(_text(value))


def _tracker_id(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9._-]+", text):
        raise BadValueError(
            "has characters that an id cannot have", "use letters, digits, dot, hyphen, underscore; `name` is free"
        )
    return text


AUTO: Final = "auto"
"""Stands for an interval: the one that suits the client and the strategy."""

SHORTEST_INTERVAL: Final = 1.0
LONGEST_INTERVAL: Final = 3600.0
"""Seconds."""


def _interval(value: object) -> float | Literal["auto"]:
    value = reread(value)
    if isinstance(value, str) and value.strip().lower() == AUTO:
        return "auto"
    wanted = f"write auto, or a number of seconds from {SHORTEST_INTERVAL:g} to {LONGEST_INTERVAL:g}"
    try:
        seconds = parse_duration(value)
    except BadValueError as fault:
        raise BadValueError(fault.message, f"write auto, or {fault.remedy.removeprefix('write ')}") from None
    if not math.isfinite(seconds):
        raise BadValueError("is not a number", wanted)
    if not SHORTEST_INTERVAL <= seconds <= LONGEST_INTERVAL:
        raise BadValueError("is too small" if seconds < SHORTEST_INTERVAL else "is too large", wanted)
    return seconds


def _level(value: object) -> str:
    level = _text(value).upper()
    if level not in LEVELS:
        raise BadValueError("is not a log level", f"write one of {', '.join(LEVELS)}")
    return level


KIND: Final = "x-kind"
"""Key of a JSON schema that says what a number stands for; it does not leave this package."""

DURATION: Final = "duration"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
_WORDS_SCHEMA: Final = WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]})
_PATH_SCHEMA: Final = WithJsonSchema({"type": "string"})
_SECRET_SCHEMA: Final = {"type": "string", "format": "password", "writeOnly": True}


def _or_none(schema: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [schema, {"type": "null"}]})


Int = Annotated[int, Strict(), BeforeValidator(reread)]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False), BeforeValidator(reread)]
Bool = Annotated[bool, Strict(), BeforeValidator(reread)]
OptionalInt = Annotated[int | None, Strict(), BeforeValidator(reread)]
OptionalBool = Annotated[bool | None, Strict(), BeforeValidator(reread)]
OptionalPercentage = Annotated[Annotated[int, Strict(), Field(ge=0, le=100)] | None, BeforeValidator(reread)]
Seconds = Annotated[
    float,
    Field(allow_inf_nan=False, json_schema_extra={KIND: DURATION}),
    BeforeValidator(lambda value: parse_duration(reread(value))),
]
Interval = float | Literal["auto"]
"""Seconds, or `AUTO`."""
PollInterval = Annotated[
    Interval,
    PlainValidator(_interval),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": [AUTO]},
                {"type": "number", "minimum": SHORTEST_INTERVAL, "maximum": LONGEST_INTERVAL, KIND: DURATION},
            ]
        }
    ),
]
OptionalText = Annotated[str | None, BeforeValidator(_optional(_text))]
Text = Annotated[str, BeforeValidator(_text)]
Choice = BeforeValidator(_text)
Level = Annotated[str, BeforeValidator(_level), WithJsonSchema({"type": "string", "enum": list(LEVELS)})]

Cap = Annotated[int | None, PlainValidator(_rate()), _rate_schema()]
OptionalRate = Annotated[int | None, PlainValidator(_rate(null=True)), _rate_schema(null=True)]
PositiveRate = Annotated[int, PlainValidator(_rate(unlimited=False)), _rate_schema(unlimited=False)]
RateOrZero = Annotated[int, PlainValidator(_rate(zero=True, unlimited=False)), _rate_schema(zero=True, unlimited=False)]

Words = Annotated[tuple[Annotated[str, PlainValidator(_text)], ...], BeforeValidator(_as_list), _WORDS_SCHEMA]
Tags = Annotated[tuple[Annotated[str, PlainValidator(_tag)], ...], BeforeValidator(_as_list), _WORDS_SCHEMA]
Domains = Annotated[tuple[Annotated[str, PlainValidator(_domain)], ...], BeforeValidator(_as_list), _WORDS_SCHEMA]
AllowedHosts = Annotated[
    tuple[Annotated[str, PlainValidator(_allowed_host)], ...], BeforeValidator(_as_list), _WORDS_SCHEMA
]
Networks = Annotated[tuple[Annotated[str, PlainValidator(_network)], ...], BeforeValidator(_as_list), _WORDS_SCHEMA]
Pattern = Annotated[
    str | None, PlainValidator(lambda value: None if value is None else _pattern(value)), _or_none({"type": "string"})
]
TrackerId = Annotated[
    str, PlainValidator(_tracker_id), WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9._-]+$"})
]
OptionalUrl = Annotated[
    str | None, PlainValidator(_optional(_url)), _or_none({"type": "string", "pattern": "^https?://"})
]
HookUrl = Annotated[
    str | None, PlainValidator(_optional(_hook_url)), _or_none({"type": "string", "pattern": "^https?://"})
]
ClientUrl = Annotated[
    str | None,
    PlainValidator(_optional(_client_url)),
    _or_none({"type": "string", "pattern": "^(https?://|embedded$)"}),
]
Host = Annotated[str, PlainValidator(_host), WithJsonSchema({"type": "string"})]
ListenHost = Annotated[str, PlainValidator(_listen_host), WithJsonSchema({"type": "string"})]
FilePath = Annotated[Path, PlainValidator(_path), _PATH_SCHEMA]
OptionalPath = Annotated[Path | None, PlainValidator(_optional_path), _or_none({"type": "string"})]
TlsCheck = Annotated[bool | Path, PlainValidator(_tls), WithJsonSchema({"type": ["boolean", "string"]})]
Secret = Annotated[SecretStr | None, BeforeValidator(_optional(_secret)), _or_none(_SECRET_SCHEMA)]

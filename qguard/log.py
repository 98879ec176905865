"""Logs: for people on a terminal, JSON by option, every line through the redactor."""

import asyncio
import io
import logging
import logging.handlers
import re
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import msgspec
import structlog
from structlog.typing import ExcInfo, Processor

from qguard.redact import Redactor

Format = Literal["auto", "human", "json"]


SOON_DONE: Final = 2**18
"""Bytes of JSON that are searched for secrets, value by value, in some 10 ms."""


class Redaction:
    """The redactor in force; replaced when the configuration changes, without touching the handlers."""

    def __init__(self) -> None:
        self.redactor = Redactor()

    def __call__(self, text: str) -> str:
        """`text` without secrets."""
        return self.redactor(text)

    def strings(self, thing: Any) -> Any:  # noqa: ANN401 - JSON-like in, the same out
        """Every value inside without secrets.

        Numbers stay numbers even when a password looks like one, and keys stay keys: they are names of fields, ids of
        trackers and info-hashes, by which programs find what they look for.
        """
        return _values(thing, self.redactor.value)

    def json(self, answer: object) -> bytes:
        """An answer, anything msgspec can write, as JSON without secrets."""
        encoded = msgspec.json.encode(answer)
        return self._hidden(answer) if self.redactor.may_change_json(encoded) else encoded

    async def json_beside(self, answer: object) -> bytes:
        """The same; one that takes long is made in a thread, so that it holds nothing up."""
        encoded = msgspec.json.encode(answer)
        if not self.redactor.may_change_json(encoded):
            return encoded
        if len(encoded) < SOON_DONE:
            return self._hidden(answer)
        return await asyncio.to_thread(self._hidden, answer)

    def _hidden(self, answer: object) -> bytes:
        return msgspec.json.encode(self.strings(msgspec.to_builtins(answer)))


def _values(thing: Any, change: Callable[[str], str]) -> Any:  # noqa: ANN401 - see above
    if isinstance(thing, str):
        return change(thing)
    if isinstance(thing, Mapping):
        return {key: _values(value, change) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [_values(value, change) for value in thing]
    return thing


redact = Redaction()
"""The one place that all output passes: log handlers, command output and HTTP answers call it."""


def set_up(
    *,
    level: str = "INFO",
    style: Format = "auto",
    file: Path | None = None,
    max_size_mb: int = 50,
    backup_count: int = 5,
) -> None:
    """Send our log lines, and those of the libraries, to stderr and perhaps to a rotating file.

    Raises:
        OSError: the file cannot be opened.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setFormatter(_formatter(style, colors=sys.stderr.isatty()))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        rotating = logging.handlers.RotatingFileHandler(
            file, maxBytes=max_size_mb * 2**20, backupCount=backup_count, encoding="utf-8"
        )
        rotating.setFormatter(_formatter(style, colors=False))
        handlers.append(rotating)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    for noisy in (
        "qbittorrentapi",
        "requests",
        "urllib3",
        "aiosqlite",
        "asyncio",
        "watchfiles",
        "httpx",
        "httpcore",
        "uvicorn",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # They warn of each malformed request, form and wish for a WebSocket, with which anybody could fill the log.
    for chatty in ("uvicorn.error", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _shared() -> list[Processor]:
    return [
        structlog.stdlib.filter_by_level,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=False),
    ]


def _formatter(style: Format, *, colors: bool) -> logging.Formatter:
    if style == "json":
        tail: list[Processor] = [
            structlog.processors.format_exc_info,
            lambda _logger, _name, event: redact.strings(event),
            structlog.processors.JSONRenderer(default=lambda thing: redact(str(thing))),
        ]
    else:
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write_traceback, pad_event_to=0)
        tail = [_one_line, console, lambda _logger, _name, text: redact(str(text))]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared()[1:],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
    )


_CONTROLS: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would begin a line, move a terminal's cursor, turn text around, or cannot be written to a file."""


def printable(text: str) -> str:
    """`text` without secrets, as one line that shows as what it is."""
    # Secrets first: one with a tab in it is not found any more once that is escaped.
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], redact(text))


def _one_line(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Names and reasons are written by strangers, and must not look like lines of ours."""
    return {key: printable(value) if isinstance(value, str) else value for key, value in event.items()}


def _write_traceback(out: TextIO, error: ExcInfo) -> None:
    """Every line set in, since what an exception says may have lines of its own.

    A plain traceback: rich ones print local variables, and with them secrets.
    """
    plain = io.StringIO()
    structlog.dev.plain_traceback(plain, error)
    out.write("".join(f"\n    {printable(line)}" for line in redact(plain.getvalue()).strip().split("\n")))

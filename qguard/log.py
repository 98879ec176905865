"""Logs: for people on a terminal, JSON by option, every line through the redactor."""

import logging
import logging.handlers
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import structlog
from structlog.typing import Processor

from qguard.redact import Redactor

Format = Literal["auto", "human", "json"]


class Redaction:
    """The redactor in force; replaced when the configuration changes, without touching the handlers."""

    def __init__(self) -> None:
        self.redactor = Redactor()

    def __call__(self, text: str) -> str:
        """`text` without secrets."""
        return self.redactor(text)

    def strings(self, thing: Any) -> Any:  # noqa: ANN401 - JSON-like in, the same out
        """Every string inside, keys too, without secrets; numbers stay numbers even when a password looks like one."""
        if isinstance(thing, str):
            return self(thing)
        if isinstance(thing, Mapping):
            return {self.strings(key): self.strings(value) for key, value in thing.items()}
        if isinstance(thing, list | tuple):
            return [self.strings(value) for value in thing]
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
        # Plain tracebacks: rich ones print local variables, and with them secrets.
        console = structlog.dev.ConsoleRenderer(
            colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
        tail = [console, lambda _logger, _name, text: redact(str(text))]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared()[1:],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
    )

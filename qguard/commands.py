"""How a command reaches the service: the running one over HTTP, or one of its own for as long as the command takes."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from allocators.base import BadAllocationError
from qguard.answers import RequestError
from qguard.config import ConfigError, Loaded, find, load
from qguard.ledger import Holder, Ledger, LedgerError, LockedError, ServiceLock, read_holder
from qguard.log import redact
from qguard.qbittorrent.errors import ClientError, LoginRefusedError
from qguard.service import Service
from qguard.wiring import redactor_for

FAILED: Final = 1
BAD_CONFIGURATION: Final = 2
UNREACHABLE: Final = 3
REFUSED: Final = 4

WRONG_USE: Final = 422
"""Status of what was asked in a wrong way, and not of what cannot be done."""

TIMEOUT: Final = 120.0
"""Seconds a running service may take: a rollback of thousands of torrents on a slow disk is the longest."""

_EXIT: Final = {"client_unavailable": UNREACHABLE, "login_refused": REFUSED, "bad_configuration": BAD_CONFIGURATION}


class CommandError(Exception):
    """A command failed: one line and the exit code."""

    def __init__(self, words: str, code: int = FAILED) -> None:
        super().__init__(words)
        self.code = code


def load_configuration(explicit: Path | None) -> Loaded:
    """Find and load the configuration, and let the redactor know its secrets.

    Raises:
        CommandError: there is none, or it has errors.
    """
    try:
        loaded = load(find(explicit, os.environ, Path.cwd()))
    except ConfigError as error:
        raise CommandError(str(error), BAD_CONFIGURATION) from None
    redact.redactor = redactor_for(loaded.settings)
    return loaded


def ask(
    loaded: Loaded,
    remote: tuple[str, str, Mapping[str, Any]],
    local: Callable[[Service], Awaitable[object]],
) -> Any:  # noqa: ANN401 - the answer as JSON has it
    """Let the running service do it, or do it without one.

    Args:
        loaded: the configuration; its database path says which service is meant.
        remote: method, path, and query (GET) or body (POST).
        local: the same, asked of a service of our own.

    Raises:
        CommandError: it failed, with the exit code that fits.
    """
    lock = ServiceLock(loaded.settings.rollback.database_path)
    try:
        lock.acquire()
    except LockedError:
        return _ask_running(read_holder(loaded.settings.rollback.database_path), *remote)
    except LedgerError as error:
        raise CommandError(str(error)) from None
    try:
        return asyncio.run(_ask_alone(loaded, local))
    except LoginRefusedError as error:
        raise CommandError(str(error), REFUSED) from None
    except ClientError as error:
        raise CommandError(str(error), UNREACHABLE) from None
    except ConfigError as error:
        raise CommandError(str(error), BAD_CONFIGURATION) from None
    except RequestError as error:
        raise CommandError(str(error), BAD_CONFIGURATION if error.status == WRONG_USE else FAILED) from None
    except (LedgerError, BadAllocationError) as error:
        raise CommandError(str(error)) from None
    finally:
        lock.release()


def to_json(answer: object) -> Any:  # noqa: ANN401 - as JSON has it
    """A typed answer as the HTTP interface would give it."""
    return redact.strings(msgspec.to_builtins(answer))


async def _ask_alone(loaded: Loaded, local: Callable[[Service], Awaitable[object]]) -> Any:  # noqa: ANN401
    service = Service(loaded, await Ledger.open(loaded.settings.rollback.database_path))
    try:
        return to_json(await local(service))
    finally:
        await service.close()


def _ask_running(holder: Holder | None, method: str, path: str, content: Mapping[str, Any]) -> Any:  # noqa: ANN401
    if holder is None or not holder.url:
        raise CommandError("the service is just starting or stopping; try again in a moment")
    try:
        # No proxies of the environment: the service is on this machine.
        with httpx.Client(base_url=holder.url, timeout=TIMEOUT, trust_env=False) as http:
            answer = http.request(
                method,
                path,
                params=content if method == "GET" else None,
                json=content if method != "GET" else None,
                headers={"X-API-Key": holder.token},
            )
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise CommandError(
            f"the running service (process {holder.pid} at {holder.url}) does not answer ({type(error).__name__}): "
            "look at its log"
        ) from None
    if answer.is_success:
        return body
    fault = body.get("error", {})
    words = "; ".join(
        part for part in (fault.get("message", f"status {answer.status_code}"), fault.get("hint")) if part
    )
    other = BAD_CONFIGURATION if answer.status_code == WRONG_USE else FAILED
    raise CommandError(words, _EXIT.get(fault.get("code", ""), other))

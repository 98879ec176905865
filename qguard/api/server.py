"""`qguard run`: one service, its loop, its HTTP interface and the watch over its configuration file."""

import asyncio
import contextlib
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from watchfiles import awatch

from qguard.api.access import Access, is_loopback, names
from qguard.api.app import make_app
from qguard.config import ConfigError, Loaded, Settings
from qguard.ledger import Ledger, ServiceLock
from qguard.log import redact
from qguard.service import Service
from qguard.wiring import own_url, redactor_for

log = structlog.get_logger("qguard")

SECRET_BYTES: Final = 32

PATIENCE: Final = 2.0
"""Seconds for a cycle or a request to finish when the service is to end. A cycle may be given up at any moment: what it
was about to write is in the ledger, and the next start finds out what became of it."""


class StartError(Exception):
    """The service cannot start; one line that says what to do."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: a signal ends our loop first, and the interface with it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the signals alone."""
        yield


async def serve(loaded: Loaded) -> None:
    """Run until a signal or a fatal error.

    Raises:
        StartError: the address is taken or not ours.
        LedgerError: the data folder or the database cannot be used, or another service holds it.
    """
    settings = loaded.settings
    redact.redactor = redactor_for(settings)
    for words in loaded.warnings:
        log.warning(words)
    lock = ServiceLock(settings.rollback.database_path)
    lock.acquire()
    try:
        listener = _listen(settings.global_.host, settings.global_.port)
        with contextlib.closing(listener):
            token = secrets.token_urlsafe(SECRET_BYTES)
            ledger = await Ledger.open(settings.rollback.database_path)
            service = Service(loaded, ledger)
            lock.publish(own_url(settings), token)
            await _run(service, _access(settings, token), listener)
    finally:
        lock.release()


async def _run(service: Service, access: Access, listener: socket.socket) -> None:
    """The loop, the HTTP interface and the watch, until one of them ends or a signal comes."""
    settings = service.settings
    server = _Server(
        uvicorn.Config(
            make_app(service, access),
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=int(PATIENCE),
        )
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    log.info(f"qguard listens on {own_url(settings)}, ledger {settings.rollback.database_path}")
    if not any((settings.global_.rollout_percentage, *(r.rollout_percentage for r in settings.trackers))):
        log.info("rollout is 0 %: observing only; `qguard preview` shows what it would do, `qguard rollout 10` starts")
    tasks = {
        "loop": asyncio.create_task(service.serve()),
        "http": asyncio.create_task(server.serve(sockets=[listener])),
        "watch": asyncio.create_task(watch(service, stop)),
        "signal": asyncio.create_task(stop.wait()),
    }
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        service.stop()
        server.should_exit = True
        stop.set()
        _, late = await asyncio.wait([tasks["loop"]], timeout=PATIENCE)
        for task in late:
            task.cancel()
        await asyncio.wait([tasks["loop"], tasks["http"], tasks["watch"]], timeout=2 * PATIENCE)
        await service.shut_down(hangs=bool(late))
        log.info("qguard has stopped")
    for task in tasks.values():
        if task.done() and not task.cancelled() and (error := task.exception()):
            raise error


async def watch(service: Service, stop: asyncio.Event) -> None:
    """Reload the configuration whenever its file changes; editors replace it, so the folder is watched."""
    path = service.loaded.path.resolve()
    async for changes in awatch(path.parent, stop_event=stop, recursive=False):
        if any(Path(name).name == path.name for _, name in changes):
            with contextlib.suppress(ConfigError):  # noted in /health and in the log by the service
                await service.reload()


def _listen(host: str, port: int) -> socket.socket:
    """Bind before anything else is done, so that a taken port is one clear line and not half a start."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise StartError(
            f"cannot listen on {host}:{port} (global.host, global.port): {error.strerror}; is another qguard or "
            "program on this port? Choose another global.port or stop that one"
        ) from None
    return listener


def _access(settings: Settings, token: str) -> Access:
    """The doors: a configured key, or a generated one when we can be reached from elsewhere without one."""
    key = settings.server.secret_api_key
    if key is None and not _only_here(settings.global_.host):
        key = _generated_key(settings.rollback.database_path.parent / "qguard.api_key")
    return Access(token, key, names(settings.server.allowed_hosts))


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return is_loopback(host)


def _generated_key(path: Path) -> str:
    """The key made at the first start that was reachable from elsewhere without one."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    key = secrets.token_urlsafe(SECRET_BYTES)
    with os.fdopen(handle, "w") as file:
        file.write(key + "\n")
    log.warning(f"reachable from elsewhere and no server.api_key is set: a key was made, it is in {path}")
    return key

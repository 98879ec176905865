"""`qguard run`: one service, its loop, its HTTP interface and the watch over its configuration file."""

import asyncio
import contextlib
import secrets
import signal
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from watchfiles import awatch

from qguard.api import keyfile
from qguard.api.access import Access, is_loopback, names
from qguard.api.app import make_app
from qguard.api.connections import UVICORN, bounded_protocol
from qguard.api.doors import Doors
from qguard.api.keyfile import KeyFileError, generated_key
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
        listener = listen(settings.global_.host, settings.global_.port)
        with contextlib.closing(listener):
            token = secrets.token_urlsafe(SECRET_BYTES)
            ledger = await Ledger.open(settings.rollback.database_path)
            service = Service(loaded, ledger)
            try:
                doors = Doors(Rules(service, token))
            except StartError:
                await service.close()
                raise
            lock.publish(own_url(settings), token)
            await _run(service, doors, listener)
    finally:
        lock.release()


async def _run(service: Service, doors: Doors, listener: socket.socket) -> None:
    """The loop, the HTTP interface and the watch, until one of them ends or a signal comes."""
    settings = service.settings
    server = _Server(
        uvicorn.Config(
            make_app(service, doors),
            http=bounded_protocol(),
            timeout_graceful_shutdown=int(PATIENCE),
            **UVICORN,
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
        "watch": asyncio.create_task(watch(service, doors, stop)),
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


async def watch(service: Service, doors: Doors, stop: asyncio.Event) -> None:
    """Reload the configuration whenever its file changes; editors replace it, so the folder is watched."""
    path = service.loaded.path.resolve()
    async for changes in awatch(path.parent, stop_event=stop, recursive=False):
        if any(Path(name).name == path.name for _, name in changes):
            with contextlib.suppress(ConfigError):  # noted in /health and in the log by the service
                await service.reload()
                _ = doors.access  # new keys end sessions now, not at the next request


def listen(host: str, port: int) -> socket.socket:
    """A socket for the interface, bound before anything else: a taken port is one clear line and not half a start.

    Raises:
        StartError: the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Without the protocol's number asyncio leaves Nagle's algorithm on, and most answers take 40 ms longer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
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


class Rules:
    """The rules that the configuration in force gives, and the redactor that knows its secrets.

    Args:
        service: whose configuration counts.
        token: of commands on this machine.

    Raises:
        StartError: a key is needed and cannot be kept.
    """

    def __init__(self, service: Service, token: str) -> None:
        self._service = service
        self._token = token
        self._host = service.settings.global_.host  # another one takes a restart
        self._settings = service.settings
        self._access = self._made(service.settings)

    def __call__(self) -> Access:
        """The rules; made anew when the configuration was reloaded."""
        settings = self._service.settings
        if settings is not self._settings:
            try:
                self._access = self._made(settings)
            except StartError as error:  # the former rules stay: no door opens because of a disk; tried again each time
                self._service.note("keys", f"the former keys stay in force: {error}")
            else:
                self._settings = settings
                self._service.note("keys", "")
        return self._access

    def _made(self, settings: Settings) -> Access:
        server, key = settings.server, settings.server.secret_api_key
        # Without the key for everything, a key for reading alone would leave nobody who may change something.
        if key is None and (server.secret_read_key is not None or not is_loopback(self._host)):
            try:
                key = generated_key(settings.rollback.database_path.parent / keyfile.NAME)
            except KeyFileError as error:
                raise StartError(str(error)) from None
        self._service.door_keys = (self._token, *filter(None, (key, server.secret_read_key, server.secret_hook_key)))
        redact.redactor = redactor_for(settings, *self._service.door_keys)
        return Access(
            self._token,
            api_key=key,
            read_key=server.secret_read_key,
            hook_key=server.secret_hook_key,
            allowed_hosts=names(server.allowed_hosts),
            trusted_proxies=server.trusted_proxies,
        )

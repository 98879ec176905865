"""A recording reverse proxy in front of a daemon's Web UI that misbehaves on demand."""

import asyncio
import contextlib
import threading
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tests.support.ending import Ending
from tests.support.ports import free_port

_HOP: Final = frozenset({"connection", "keep-alive", "content-length", "transfer-encoding", "expect"})
_HEAD_LIMIT: Final = 1024 * 1024


@dataclass
class Request:
    """One request as it came in; recorded before anything is done with it.

    Attributes:
        time: of its last byte, `time.monotonic()`.
        method: in upper case.
        path: without the query.
        query: raw, without the question mark.
        body: as sent.
        forwarded: whether all of it was sent on to the daemon.
        status: of the daemon's answer, or the injected one; None as long as there is none, 0 when there will be none.
    """

    time: float
    method: str
    path: str
    query: str
    body: bytes
    forwarded: bool = False
    status: int | None = None

    def form(self) -> dict[str, str]:
        """Query and form body together; the last of equal names counts."""
        pairs = urllib.parse.parse_qsl(self.query, keep_blank_values=True)
        pairs += urllib.parse.parse_qsl(self.body.decode("latin-1"), keep_blank_values=True)
        return dict(pairs)


@dataclass(eq=False)
class Fault:
    """What happens to the next requests of one path.

    Attributes:
        hit: set when a request has met this fault; for a held request: it is held now and not forwarded.
    """

    suffix: str
    kind: str
    left: int | None
    status: int = 0
    seconds: float = 0.0
    change: Callable[[bytes], bytes] | None = None
    hit: threading.Event = field(default_factory=threading.Event)
    _end: threading.Event = field(default_factory=threading.Event)
    _forward: bool = True

    def wait(self, timeout: float = 30.0) -> None:
        """Wait until a request has met it.

        Raises:
            TimeoutError: none came.
        """
        if not self.hit.wait(timeout):
            raise TimeoutError(f"no request for ...{self.suffix} met the fault {self.kind!r} in {timeout:g} s")

    def release(self, *, forward: bool = True) -> None:
        """End it: later requests pass, a hanging one is closed, a held one is forwarded (or dropped instead)."""
        self.left = 0
        self._forward = forward
        self._end.set()

    async def ended(self) -> bool:
        """Wait for `release`, in an event loop; whether to forward what was held."""
        while not self._end.is_set():  # noqa: ASYNC110 # it is set by another thread, outside of the loop
            await asyncio.sleep(0.005)
        return self._forward and self.kind == "hold"


class Proxy(Ending):
    """Listens on 127.0.0.1 in a thread of its own, from construction until `close`.

    Faults take the end of a path (`torrents/info`) and how many requests they are for (`times`; None: until released).
    Of several that fit, the oldest acts; rewrites act on what comes back in any case.

    Args:
        target_port: Web UI port of the daemon on 127.0.0.1.

    Attributes:
        port: where it listens.
        url: the same as a URL.
        log: every request, in the order of arrival.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log: list[Request] = []
        self._target = target_port
        self._faults: list[Fault] = []
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def leave(self) -> None:
        self.close()

    def fail_next(self, suffix: str, status: int, *, times: int | None = 1) -> Fault:
        """Answer with a status; nothing is forwarded."""
        return self._add(Fault(suffix, "fail", times, status=status))

    def hang(self, suffix: str, *, times: int | None = 1) -> Fault:
        """Take the request and never answer; nothing is forwarded."""
        return self._add(Fault(suffix, "hang", times))

    def drop_reply(self, suffix: str, *, times: int | None = 1) -> Fault:
        """Forward, wait for the daemon's answer, then close the client's connection without a word."""
        return self._add(Fault(suffix, "drop", times))

    def truncate(self, suffix: str, *, times: int | None = 1) -> Fault:
        """Announce the whole answer, send half of its body and close."""
        return self._add(Fault(suffix, "truncate", times))

    def delay(self, suffix: str, seconds: float, *, times: int | None = 1) -> Fault:
        """Forward after some time."""
        return self._add(Fault(suffix, "delay", times, seconds=seconds))

    def hold(self, suffix: str, *, times: int | None = 1) -> Fault:
        """Keep the request back until `Fault.release`, then forward it; `Fault.wait` returns once it is held."""
        return self._add(Fault(suffix, "hold", times))

    def rewrite(self, suffix: str, change: Callable[[bytes], bytes], *, times: int | None = None) -> Fault:
        """Pass the body of answers with status 200 through a function."""
        return self._add(Fault(suffix, "rewrite", times, change=change))

    def clear(self) -> None:
        """End all faults."""
        with self._news:
            for fault in self._faults:
                fault.release(forward=False)
            self._faults.clear()

    def retarget(self, port: int) -> None:
        """Stand in front of another daemon from now on."""
        self._target = port

    def requests(self, suffix: str = "") -> list[Request]:
        """What came in so far for paths with this end."""
        with self._news:
            return [request for request in self.log if request.path.endswith(suffix)]

    def limits_sent(self) -> list[tuple[frozenset[str], str]]:
        """Every setUploadLimit that came in: its hashes and its limit, as text, in order."""
        forms = [request.form() for request in self.requests("torrents/setUploadLimit")]
        return [(frozenset(form["hashes"].split("|")), form["limit"]) for form in forms]

    def wait_for(self, suffix: str, count: int = 1, timeout: float = 30.0) -> list[Request]:
        """Wait until `count` requests for paths with this end have been answered or given up, ever since the start.

        Raises:
            TimeoutError: says how many came.
        """

        def done() -> bool:
            return len([one for one in self.requests(suffix) if one.status is not None]) >= count

        with self._news:
            if not self._news.wait_for(done, timeout):
                found = len(self.requests(suffix))
                raise TimeoutError(f"{found} request(s) for ...{suffix} in {timeout:g} s, {count} expected")
        return self.requests(suffix)

    def close(self) -> None:
        """End all faults, close all connections and end the thread."""
        self.clear()
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)

    def _add(self, fault: Fault) -> Fault:
        with self._news:
            self._faults.append(fault)
        return fault

    def _take(self, path: str, *, rewrites: bool) -> list[Fault]:
        with self._news:
            # A used-up fault stays listed: it may still hold a request.
            fitting = [
                fault
                for fault in self._faults
                if fault.left != 0 and path.endswith(fault.suffix) and (fault.kind == "rewrite") == rewrites
            ]
            taken = fitting if rewrites else fitting[:1]
            for fault in taken:
                if fault.left is not None:
                    fault.left -= 1
            return taken

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_HEAD_LIMIT)

    async def _shut(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, EOFError):
            pass  # the client went away
        except asyncio.CancelledError:
            pass  # close(); the streams' own done-callback would report a cancelled task as an error
        finally:
            self._open.discard(task)
            writer.transport.abort() if writer.is_closing() else writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is to be closed."""
        head, headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        method, target, _ = head.split(" ", 2)
        body = await _read_body(reader, headers)
        path, _, query = target.partition("?")
        request = Request(time.monotonic(), method, path, query, body)
        with self._news:
            self.log.append(request)
        fault = next(iter(self._take(path, rewrites=False)), None)
        if fault is not None and fault.kind == "fail":
            writer.write(_answer(fault.status, "Injected", [("Content-Type", "text/plain")], b"injected by a test"))
            await writer.drain()
            self._answered(request, fault.status)
            fault.hit.set()
            return True
        if fault is not None and not await _may_forward(fault):
            self._answered(request, 0)
            return False
        rewrites = self._take(path, rewrites=True)
        status, reason, reply_headers, reply = await self._forward(request, target, headers, plain=bool(rewrites))
        if status == 200:
            reply = _rewritten(reply, rewrites)
        whole = _answer(status, reason, reply_headers, reply)
        if fault is not None and fault.kind == "truncate":
            whole = whole[: -max(1, (len(reply) + 1) // 2)]
        if fault is None or fault.kind != "drop":
            writer.write(whole)
            await writer.drain()
        self._answered(request, status)
        if fault is not None:
            fault.hit.set()
        return fault is None or fault.kind not in {"drop", "truncate"}

    async def _forward(
        self, request: Request, target: str, headers: list[tuple[str, str]], *, plain: bool
    ) -> tuple[int, str, list[tuple[str, str]], bytes]:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._target, limit=_HEAD_LIMIT)
        except OSError:
            self._answered(request, 0)
            raise
        try:
            # The daemon refuses a Host whose port is not its own.
            own = {"host": f"127.0.0.1:{self._target}"} | ({"accept-encoding": "identity"} if plain else {})
            kept = [(name, value) for name, value in headers if name.lower() not in _HOP | own.keys()]
            kept += [*own.items(), ("Connection", "close"), ("Content-Length", str(len(request.body)))]
            writer.write(_message(f"{request.method} {target} HTTP/1.1", kept, request.body))
            await writer.drain()
            request.forwarded = True
            head, reply_headers = _parse_head(await reader.readuntil(b"\r\n\r\n"))
            _, status, reason = [*head.split(" ", 2), ""][:3]
            reply = await _read_body(reader, reply_headers)
        except (OSError, EOFError):
            self._answered(request, 0)
            raise
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        return int(status), reason, [pair for pair in reply_headers if pair[0].lower() not in _HOP], reply

    def _answered(self, request: Request, status: int) -> None:
        with self._news:
            request.status = status
            self._news.notify_all()


async def _may_forward(fault: Fault) -> bool:
    """Live through what a fault does before forwarding; whether to forward."""
    if fault.kind in {"hold", "hang"}:
        fault.hit.set()
        return await fault.ended()
    await asyncio.sleep(fault.seconds)
    return True


def _rewritten(body: bytes, rewrites: list[Fault]) -> bytes:
    for fault in rewrites:
        assert fault.change is not None
        body = fault.change(body)
        fault.hit.set()
    return body


def _parse_head(raw: bytes) -> tuple[str, list[tuple[str, str]]]:
    first, *rest = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    pairs = (line.partition(":") for line in rest)
    return first, [(name.strip(), value.strip()) for name, _, value in pairs]


async def _read_body(reader: asyncio.StreamReader, headers: list[tuple[str, str]]) -> bytes:
    fields = {name.lower(): value for name, value in headers}
    if "chunked" in fields.get("transfer-encoding", "").lower():
        chunks = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            chunks.append(await reader.readexactly(size))
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return b"".join(chunks)
    return await reader.readexactly(int(fields.get("content-length", 0)))


def _answer(status: int, reason: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lengths = [] if status == 204 else [("Content-Length", str(len(body)))]
    return _message(f"HTTP/1.1 {status} {reason}", headers + lengths, body)


def _message(first: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1") + body

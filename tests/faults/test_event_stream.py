"""A stream of events ends with the right to hear it, at the end of the service, and holds nothing up."""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import httpx
import pytest

from qguard.api.access import Access, Need, Peer
from qguard.api.doors import Doors
from qguard.api.sessions import IDLE, LONGEST, Sessions
from qguard.events import BACKLOG, MOST_LISTENERS, Events
from tests.support.columns import torrents
from tests.support.fake_client import FakeClient
from tests.support.http_service import HttpService
from tests.support.process import Service, Setup

API_KEY, READ_KEY = "opens-everything-1", "opens-reading-2"
KEYS = {"api_key": API_KEY, "read_key": READ_KEY}
SECONDS = 8.0
"""Within which a stream must end: it is looked at every 2 s, and a busy machine is slow."""
LONGER = 5.0
"""Seconds after which a stream that goes on has been looked at twice."""
CONFIG = """
qbittorrent: {url: 'http://127.0.0.1:1'}
trackers:
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


@dataclass
class Listener:
    """Reads a stream in a thread until it ends."""

    url: str
    headers: dict[str, str] = field(default_factory=dict)
    kinds: list[str] = field(default_factory=list)
    broke: str = ""
    """How the stream ended, unless it ended as an answer should."""
    status: int = 0

    def __enter__(self) -> Self:
        self._begun, self._thread = threading.Event(), threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._begun.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        """It ends with its service."""

    def ends(self, within: float) -> bool:
        """Whether it ends by itself within so many seconds."""
        self._thread.join(within)
        return not self._thread.is_alive()

    def hears(self, kind: str, within: float = SECONDS) -> bool:
        deadline = time.monotonic() + within
        while kind not in self.kinds and time.monotonic() < deadline:
            time.sleep(0.02)
        return kind in self.kinds

    def _listen(self) -> None:
        try:
            with httpx.stream("GET", f"{self.url}/events", headers=self.headers, trust_env=False, timeout=60) as answer:
                self.status = answer.status_code
                for line in answer.iter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        self.kinds.append(value)
                        self._begun.set()
        except httpx.HTTPError as error:
            self.broke = repr(error)
        finally:
            self._begun.set()


@dataclass
class Running:
    """`qguard run` with these keys; its qBittorrent is away."""

    service: Service
    http: httpx.Client

    @property
    def url(self) -> str:
        return str(self.http.base_url).rstrip("/")

    def post(self, path: str, body: object = None, **headers: str) -> httpx.Response:
        answer = self.http.post(path, json=body or {}, headers=headers)
        assert answer.is_success, answer.text
        return answer

    def take(self, **server: object) -> None:
        """Put another section `server` in force."""
        self.service.setup.config["server"] = server
        self.service.setup.save()
        self.service.wait_log("configuration reloaded")

    def log_in(self) -> tuple[dict[str, str], str]:
        """The header with the cookie of a new session, and its CSRF token."""
        answer = self.post("/login", {"key": API_KEY})
        cookie = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        self.http.cookies.clear()
        return {"Cookie": cookie}, answer.json()["csrf_token"]


@contextlib.contextmanager
def run(folder: Path, **server: object) -> Iterator[Running]:
    setup = Setup(folder, "http://127.0.0.1:9", username="u", password="p-of-the-client")
    setup.config["server"] = server
    setup.save()
    with (
        setup.start(wait=False) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{setup.port}", trust_env=False, timeout=20) as http,
    ):
        yield Running(service, http)


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Running]:
    with run(tmp_path, **KEYS) as running:
        yield running


def test_a_logout_ends_the_streams_of_the_session_and_no_other(keyed: Running) -> None:
    cookie, csrf = keyed.log_in()
    other, _ = keyed.log_in()
    with Listener(keyed.url, cookie) as ours, Listener(keyed.url, other) as theirs:
        keyed.post("/logout", **cookie, **{"X-CSRF-Token": csrf})
        heard = len(ours.kinds)
        keyed.post("/pause", **{"X-API-Key": API_KEY})  # tells of its health
        assert ours.ends(SECONDS)
        assert (ours.broke, len(ours.kinds)) == ("", heard)
        assert theirs.hears("health")
        assert not theirs.ends(LONGER)


@pytest.mark.parametrize("by", ["key", "session"])
def test_a_key_that_is_replaced_ends_its_streams(keyed: Running, by: str) -> None:
    headers = {"X-API-Key": READ_KEY} if by == "key" else keyed.log_in()[0]
    with Listener(keyed.url, headers) as listener:
        keyed.take(**KEYS | {"read_key": "another-key-for-reading"})
        assert listener.ends(SECONDS)
        assert listener.broke == ""


def test_a_reload_without_new_keys_ends_no_stream(keyed: Running) -> None:
    with Listener(keyed.url, {"X-API-Key": READ_KEY}) as by_key, Listener(keyed.url, keyed.log_in()[0]) as by_session:
        keyed.take(**KEYS, allowed_hosts=["box.example"])
        assert not by_key.ends(LONGER)
        assert not by_session.ends(0)


def test_a_first_key_ends_the_streams_of_those_who_came_without(tmp_path: Path) -> None:
    with run(tmp_path) as keyless, Listener(keyless.url) as listener:
        keyless.take(api_key=API_KEY)
        assert listener.ends(SECONDS)
        assert listener.broke == ""


def test_a_stop_ends_all_streams_as_answers_end(keyed: Running) -> None:
    with Listener(keyed.url, {"X-API-Key": READ_KEY}) as first, Listener(keyed.url, {"X-API-Key": API_KEY}) as second:
        assert keyed.service.end(signal.SIGTERM, SECONDS) == 0
        assert first.ends(1)
        assert second.ends(1)
        assert (first.broke, second.broke) == ("", "")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("used_at", "ended_at"), [((), IDLE), ((IDLE / 2,), IDLE * 1.5), ("often", LONGEST)])
async def test_a_session_that_expires_ends_its_streams_and_listening_is_no_use(
    used_at: tuple[float, ...] | str, ended_at: float
) -> None:
    clock = Clock()
    sessions = Sessions(clock)
    doors = Doors(lambda: Access("token", api_key=API_KEY), sessions=sessions)
    token, _ = sessions.begin("api_key")
    peer = Peer("127.0.0.1", known=True, direct=True)

    def may_listen() -> bool:
        return doors.is_open(peer, Need.READ, key=b"", token=token)

    events = Events()
    stream = events.listen(("health", 0), may_listen=may_listen)
    await anext(stream)
    for at in range(600, int(ended_at), 600) if used_at == "often" else used_at:
        clock.now = float(at)
        assert sessions.find(token)
    clock.now = ended_at - 1
    events.publish("cycle", 1)
    assert (await anext(stream)).kind == "cycle"
    clock.now = ended_at
    events.publish("cycle", 2)
    async with asyncio.timeout(SECONDS):
        assert [event async for event in stream] == []
    assert len(events) == 0


def test_who_is_one_too_many_is_refused_until_somebody_leaves(tmp_path: Path) -> None:
    with HttpService(tmp_path, FakeClient(torrents([])), CONFIG) as service, contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(service.http.stream("GET", "/events")) for _ in range(MOST_LISTENERS)]
        until(lambda: len(service.service.events) == MOST_LISTENERS)
        refused = service.http.get("/events")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_listeners")
        open_ones[0].close()
        until(lambda: len(service.service.events) < MOST_LISTENERS)
        with service.http.stream("GET", "/events") as answer:
            assert answer.status_code == 200


def test_a_listener_that_takes_nothing_holds_nothing_up_and_is_let_go_of(tmp_path: Path) -> None:
    with HttpService(tmp_path, FakeClient(torrents([])), CONFIG) as service:
        deaf = socket.create_connection(("127.0.0.1", service.port))
        with deaf, Listener(service.url) as quick:
            deaf.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            until(lambda: len(service.service.events) == 2)
            large = "x" * 2**20  # more in all than any buffer between us takes
            for number in range(BACKLOG + 40):
                service.call(lambda running, n=number: running.events.publish("cycle", {"n": n, "words": large}))
                began = time.monotonic()
                service.get("/health")
                assert time.monotonic() - began < SECONDS
            until(lambda: quick.kinds.count("cycle") == BACKLOG + 40)
            until(lambda: len(service.service.events) == 1)
            assert service.service.events.dropped == 1


def until(condition: Callable[[], object], patience: float = 30.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""The doors of the HTTP interface, each tried from outside on a running service."""

import asyncio
import contextlib
import json
import logging
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
import structlog
import uvicorn

from qguard.answers import RequestError
from qguard.api.app import LARGEST_BODY, LARGEST_HOOK, make_app
from qguard.api.attempts import MOST_FAILURES, Attempts
from qguard.api.connections import UVICORN, Bounds, bounded_protocol
from qguard.api.doors import Doors
from qguard.api.headers import LARGEST_HEADERS, MOST_HEADERS, SECURITY
from qguard.api.server import Rules, StartError, listen
from qguard.config import load
from qguard.ledger import Ledger
from qguard.log import redact, set_up
from qguard.redact import Redactor
from qguard.service import Service

API_KEY, READ_KEY, HOOK_KEY = "opens-everything-1", "opens-reading-2", "opens-the-hook-3"
TOKEN = "of-commands-on-this-machine"
ALL_KEYS = {"api_key": API_KEY, "read_key": READ_KEY, "hook_key": HOOK_KEY}
READ, CHANGE = "/match/test?url=http://tracker.example/announce", "/config/reload"
HOOK = {"hash": "a" * 40}
ELSEWHERE = {"X-Forwarded-For": "203.0.113.5"}
EVIL = "https://evil.example"


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready.set()


class Running:
    """A service with its HTTP interface in a thread; its qBittorrent is away."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", bounds: Bounds | None = None, **server: Any) -> None:
        self.folder = folder
        self._host = host
        self._bounds = bounds or Bounds()
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self.write(**server)
        self._listener = listen("127.0.0.1", 0)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=10)

    def write(self, **server: Any) -> None:
        """The configuration file, with this section `server`."""
        sections = {
            "global": {"host": self._host, "rollout_percentage": 0},
            "qbittorrent": {"url": "http://127.0.0.1:9", "username": "u", "password": "p-of-the-client"},
            "rollback": {"database_path": str(self.folder / "ledger.db")},
            "server": server,
            "trackers": [{"id": "rest", "pattern": ".*", "max_upload_speed": -1}],
        }
        (self.folder / "qguard.yaml").write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in sections.items()))

    async def _serve(self) -> None:
        try:
            self.service = Service(load(self.folder / "qguard.yaml"), await Ledger.open(self.folder / "ledger.db"))
            try:
                self.doors = Doors(Rules(self.service, TOKEN))
                app = make_app(self.service, self.doors)
                self.server = _Server(uvicorn.Config(app, http=bounded_protocol(self._bounds), **UVICORN), self._ready)
                await self.server.serve(sockets=[self._listener])
            finally:
                await self.service.close()
        except Exception as error:  # noqa: BLE001 - raised again where the test waits
            self._failure = error
        finally:
            self._ready.set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait(20)
        if self._failure is not None:
            self.__exit__()
            raise self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        if hasattr(self, "server"):
            self.server.should_exit = True
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive()

    def get(self, path: str = READ, **headers: str) -> httpx.Response:
        return self.http.get(path, headers=_dashed(headers))

    def post(self, path: str = CHANGE, body: Any = None, **headers: str) -> httpx.Response:
        return self.http.post(path, json={} if body is None else body, headers=_dashed(headers))

    def raw(self, sent: bytes, *, until_closed: bool = True) -> bytes:
        """What comes back for these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as link:
            link.sendall(sent)
            got = b""
            with contextlib.suppress(ConnectionResetError):
                while chunk := link.recv(65536):
                    got += chunk
                    if not until_closed:
                        break
            return got

    def log_in(self, key: str = API_KEY) -> str:
        """The CSRF token of a session that this client now has."""
        answer = self.post("/login", {"key": key})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["csrf_token"])


def _dashed(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    before = redact.redactor
    with contextlib.ExitStack() as stack:
        yield lambda **keys: stack.enter_context(Running(tmp_path, **keys))
    redact.redactor = before


@pytest.fixture
def keyless(start: Start) -> Running:
    return start()


@pytest.fixture
def keyed(start: Start) -> Running:
    return start(**ALL_KEYS)


def code(answer: httpx.Response) -> str:
    return str(answer.json()["error"]["code"])


# Keys


def test_this_machine_needs_no_key_while_none_is_set(keyless: Running) -> None:
    assert keyless.get().status_code == 200
    assert keyless.post().status_code == 200
    assert keyless.post("/webhook", HOOK).status_code == 202


def test_a_key_closes_every_door_but_health(keyed: Running) -> None:
    assert keyed.get("/health").status_code in {200, 503}
    for answer in (
        keyed.get(),
        keyed.post(),
        keyed.post("/webhook", HOOK),
        keyed.get("/session"),
        keyed.post("/logout"),
    ):
        assert (answer.status_code, code(answer)) == (401, "no_key")


@pytest.mark.parametrize("key", [API_KEY, READ_KEY, HOOK_KEY, TOKEN])
def test_each_key_opens_its_doors_only(keyed: Running, key: str) -> None:
    opens = {
        "read": keyed.get(X_API_Key=key).status_code,
        "change": keyed.post(X_API_Key=key).status_code,
        "hook": keyed.post("/webhook", HOOK, X_API_Key=key).status_code,
    }
    assert (
        opens
        == {
            API_KEY: {"read": 200, "change": 200, "hook": 202},
            TOKEN: {"read": 200, "change": 200, "hook": 202},
            READ_KEY: {"read": 200, "change": 403, "hook": 403},
            HOOK_KEY: {"read": 403, "change": 403, "hook": 202},
        }[key]
    )


def test_a_key_may_come_as_bearer(keyed: Running) -> None:
    assert keyed.get(Authorization=f"bearer {READ_KEY}").status_code == 200
    assert keyed.get(Authorization=f"Basic {READ_KEY}").status_code == 401


def test_a_hooks_key_may_come_as_field(keyed: Running) -> None:
    assert keyed.post("/webhook", {**HOOK, "api_key": HOOK_KEY}).status_code == 202
    form = keyed.http.post("/webhook", data={**HOOK, "api_key": HOOK_KEY})
    assert form.status_code == 202
    assert keyed.http.post("/webhook", data={**HOOK, "api_key": "wrong"}).status_code == 401


def test_a_key_in_the_address_line_opens_nothing(keyed: Running) -> None:
    assert keyed.get(f"{READ}&api_key={API_KEY}").status_code == 401


def test_guessing_keys_is_stopped(start: Start) -> None:
    running = start(**ALL_KEYS, trusted_proxies=["127.0.0.1"])
    for _ in range(MOST_FAILURES):
        assert running.get(X_API_Key="guess", **ELSEWHERE).status_code == 401
    answer = running.get(X_API_Key=API_KEY, **ELSEWHERE)
    assert (answer.status_code, code(answer)) == (429, "too_many_failures")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert running.post("/login", {"key": API_KEY}, **ELSEWHERE).status_code == 429
    # Nobody else is locked out, and commands on this machine never.
    assert running.get(X_API_Key=API_KEY, X_Forwarded_For="203.0.113.6").status_code == 200
    assert running.get(X_API_Key=TOKEN, **ELSEWHERE).status_code == 200


def test_guessing_at_the_login_and_at_hooks_counts_too(keyed: Running) -> None:
    for number in range(MOST_FAILURES):
        path, body = [("/login", {"key": "guess"}), ("/webhook", {**HOOK, "api_key": "guess"})][number % 2]
        assert keyed.post(path, body).status_code == 401
    assert keyed.get(X_API_Key=API_KEY).status_code == 429


def test_a_right_key_at_the_wrong_door_is_no_guess(keyed: Running) -> None:
    for _ in range(MOST_FAILURES + 1):
        assert keyed.post(X_API_Key=READ_KEY).status_code == 403


# The generated key


def test_reachable_from_elsewhere_a_key_is_made(start: Start, tmp_path: Path) -> None:
    running = start(host="0.0.0.0")
    file = tmp_path / "qguard.api_key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert running.get().status_code == running.post().status_code == 401
    assert running.post(X_API_Key=file.read_text().strip()).status_code == 200
    assert running.post("/webhook", HOOK).status_code == 202


def test_a_read_key_alone_makes_a_key_for_the_rest(start: Start, tmp_path: Path) -> None:
    running = start(read_key=READ_KEY)
    assert running.get().status_code == running.post().status_code == 401
    assert running.post(X_API_Key=(tmp_path / "qguard.api_key").read_text().strip()).status_code == 200


def test_a_made_key_stays_and_is_closed_to_other_users(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "qguard.api_key"
    file.write_text("k" * 40 + "\n")
    file.chmod(0o644)
    assert start(host="0.0.0.0").get(X_API_Key="k" * 40).status_code == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_half_a_key_is_replaced(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "qguard.api_key"
    file.write_text("")
    running = start(host="0.0.0.0")
    assert running.get(X_API_Key=file.read_text().strip()).status_code == 200


def test_a_key_file_that_is_a_link_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("k" * 40)
    (tmp_path / "qguard.api_key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError, match=r"qguard\.api_key.*server\.api_key"):
        start(host="0.0.0.0")


# Pages elsewhere


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", [CHANGE, "/webhook", "/login", "/logout"])
def test_a_page_elsewhere_changes_nothing(keyless: Running, path: str, headers: dict[str, str]) -> None:
    answer = keyless.post(path, HOOK, **headers)
    assert (answer.status_code, code(answer)) == (403, "other_origin")


def test_our_own_page_may_change_something(keyless: Running) -> None:
    ours = {"Origin": f"http://127.0.0.1:{keyless.port}", "Sec_Fetch_Site": "same-origin"}
    assert keyless.post(**ours).status_code == 200


def test_a_page_elsewhere_cannot_make_us_work(keyless: Running) -> None:
    assert keyless.get(Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status_code == 403
    framed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}
    assert keyless.get(**framed).status_code == 403
    followed = framed | {"Sec_Fetch_Dest": "document"}
    assert keyless.get(**followed).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.", "", "[", "a@evil.example:8089"])
@pytest.mark.parametrize("path", [READ, "/health"])
def test_a_rebound_name_is_refused(keyless: Running, host: str, path: str) -> None:
    assert code(keyless.get(path, Host=host)) == "unknown_host"


@pytest.mark.parametrize("host", ["127.0.0.1:8089", "localhost", "qguard:8089", "[::1]:8089", "Box.Example"])
def test_our_names_are_taken(start: Start, host: str) -> None:
    running = start(**ALL_KEYS, allowed_hosts=["box.example"])
    assert running.get(Host=host, X_API_Key=READ_KEY).status_code == 200


@pytest.mark.parametrize("path", ["/webhook/", "/health/", "/match/test/"])
def test_a_slash_too_many_is_no_redirect(keyless: Running, path: str) -> None:
    for answer in (keyless.post(path, HOOK), keyless.get(path, Host="evil.example")):
        assert (answer.status_code, code(answer)) == (404, "not_found")
        assert "location" not in answer.headers


def test_no_answer_carries_cors_headers(keyless: Running) -> None:
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    for answer in (
        keyless.http.options(READ, headers=asked),
        keyless.http.get(READ, headers=asked),
        keyless.http.post(CHANGE, headers=asked),
        keyless.http.get("/nowhere", headers=asked),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_every_answer_carries_the_security_headers(keyless: Running) -> None:
    answers = [
        keyless.get(),
        keyless.get("/nowhere"),
        keyless.http.put(READ),
        keyless.get(Host="evil.example"),
        keyless.get("/match/test"),
        keyless.http.post("/webhook", content=b"{"),
    ]
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY} == dict(SECURITY), answer.status_code
    assert b"nosniff" in keyless.raw(b"this is not HTTP\r\n\r\n")
    assert "'unsafe" not in SECURITY["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in SECURITY["Content-Security-Policy"]


def test_what_others_named_is_never_a_page(keyless: Running) -> None:
    """Torrent names and tracker URLs are written by strangers."""
    answer = keyless.get("/match/test?url=http://tracker.example/<script>alert(1)</script>")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    named = keyless.http.post("/webhook", data={**HOOK, "name": "<img src=x onerror=alert(1)>\r\n\x1b[2Jforged"})
    assert named.status_code == 202
    assert "onerror" not in named.text


# Proxies


@pytest.mark.parametrize(
    "header", ["X_Forwarded_For", "Forwarded", "Via", "X_Real_IP", "X_Forwarded_Proto", "X_Forwarded_Anything"]
)
def test_a_strange_proxy_voids_the_exemption(keyless: Running, header: str) -> None:
    assert keyless.get(**{header: "127.0.0.1"}).status_code == 401
    assert keyless.post("/webhook", HOOK, **{header: "127.0.0.1"}).status_code == 401


def test_a_silent_proxy_of_the_common_kind_voids_the_exemption(keyless: Running) -> None:
    answer = keyless.raw(f"GET {READ} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
    assert b"401" in answer.splitlines()[0]
    body = b"hash=" + b"a" * 40
    head = "POST /webhook HTTP/{}\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {}\r\n"
    form = "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    came = {
        version: keyless.raw((head.format(version, len(body)) + form).encode() + body).split()[1]
        for version in ("1.0", "1.1")
    }
    assert came == {"1.0": b"401", "1.1": b"202"}


def test_a_silent_proxy_that_hands_the_name_on_voids_the_exemption(start: Start) -> None:
    running = start(allowed_hosts=["box.example"])
    for host in ("box.example", "192.168.1.9:8089"):
        assert running.get(Host=host).status_code == running.post("/webhook", HOOK, Host=host).status_code == 401


@pytest.mark.parametrize(
    ("hops", "status"),
    [
        ("203.0.113.5", 401),
        ("10.0.0.7, 203.0.113.5", 401),  # the caller made up what stands left
        ("203.0.113.5, 10.0.0.7", 202),
        ("10.0.0.7, 127.0.0.2", 202),  # 127.0.0.2 is trusted as well
        ("nonsense", 401),
        ("", 401),
        ("127.0.0.2", 401),  # only proxies: nobody is named
    ],
)
def test_behind_a_trusted_proxy_the_last_strange_hop_is_the_caller(start: Start, hops: str, status: int) -> None:
    running = start(trusted_proxies=["127.0.0.0/30"])
    assert running.post("/webhook", HOOK, X_Forwarded_For=hops).status_code == status


def test_hops_in_several_headers_are_one_list(start: Start) -> None:
    running = start(trusted_proxies=["127.0.0.1"])
    hops = [("X-Forwarded-For", "10.0.0.7"), ("X-Forwarded-For", "203.0.113.5")]
    assert running.http.post("/webhook", data=HOOK, headers=hops).status_code == 401


def test_nobody_behind_a_proxy_counts_as_this_machine(start: Start) -> None:
    running = start(trusted_proxies=["127.0.0.1"])
    assert running.get(X_Forwarded_For="127.0.0.5").status_code == 401
    assert running.post("/webhook", HOOK, X_Forwarded_For="127.0.0.5").status_code == 401


# Sessions


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_cannot_use(keyed: Running) -> None:
    answer = keyed.post("/login", {"key": API_KEY})
    cookie = SimpleCookie(answer.headers["set-cookie"])
    (morsel,) = cookie.values()
    assert (morsel["httponly"], morsel["samesite"].lower(), morsel["path"], morsel["secure"]) == (
        True,
        "strict",
        "/",
        "",
    )
    assert API_KEY not in answer.headers["set-cookie"]
    assert len(morsel.value) >= 43
    assert keyed.get().status_code == 200


def test_over_https_the_cookie_is_secure(start: Start) -> None:
    running = start(**ALL_KEYS, trusted_proxies=["127.0.0.1"])
    over = running.post("/login", {"key": API_KEY}, X_Forwarded_Proto="https", **ELSEWHERE)
    assert "; Secure" in over.headers["set-cookie"]


def test_a_strange_proxy_does_not_say_https(keyed: Running) -> None:
    over = keyed.post("/login", {"key": API_KEY}, X_Forwarded_Proto="https")
    assert "; Secure" not in over.headers["set-cookie"]


def test_a_session_changes_something_only_with_its_csrf_token(keyed: Running) -> None:
    csrf = keyed.log_in()
    assert keyed.get("/session").json() == {"role": "all", "csrf_token": csrf, "login": True}
    for headers in ({}, {"X_CSRF_Token": "wrong"}, {"X_CSRF_Token": ""}):
        answer = keyed.post(**headers)
        assert (answer.status_code, code(answer)) == (403, "bad_csrf_token")
        assert keyed.post("/logout", **headers).status_code == 403
    assert keyed.post(X_CSRF_Token=csrf).status_code == 200


def test_a_session_of_the_read_key_only_reads(keyed: Running) -> None:
    csrf = keyed.log_in(READ_KEY)
    assert keyed.get("/session").json()["role"] == "read"
    assert keyed.get().status_code == 200
    answer = keyed.post(X_CSRF_Token=csrf)
    assert (answer.status_code, code(answer)) == (403, "read_only")


def test_after_the_logout_the_cookie_is_worth_nothing(keyed: Running) -> None:
    csrf = keyed.log_in()
    stolen = "; ".join(f"{name}={value}" for name, value in keyed.http.cookies.items())
    assert keyed.post("/logout", X_CSRF_Token=csrf).status_code == 200
    assert not keyed.http.cookies
    assert keyed.get(Cookie=stolen).status_code == 401


def test_a_new_login_ends_the_old_session(keyed: Running) -> None:
    keyed.log_in()
    before = dict(keyed.http.cookies)
    keyed.log_in()
    assert dict(keyed.http.cookies) != before
    assert len(keyed.doors.sessions) == 1


@pytest.mark.parametrize(("key", "status"), [("wrong", 401), (HOOK_KEY, 403), (TOKEN, 401), ("", 422)])
def test_nothing_else_logs_in(keyed: Running, key: str, status: int) -> None:
    answer = keyed.post("/login", {"key": key})
    assert (answer.status_code, answer.headers.get("set-cookie")) == (status, None)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"key": 1}', b'{"key": "\\udce9"}', b"\xff", b'{"key": "x", "more": 1}']
)
def test_a_malformed_login_is_refused_as_such(keyed: Running, body: bytes) -> None:
    assert keyed.http.post("/login", content=body).status_code == 422


def test_a_browser_without_a_session_is_asked_for_the_key(keyed: Running) -> None:
    page = keyed.get("/", Accept="text/html,*/*")
    assert (page.status_code, page.headers["content-type"].partition(";")[0]) == (401, "text/html")
    assert '<form method="post" action="/login">' in page.text
    # Otherwise browsers would send "Origin: null" with the form, and we would refuse it.
    assert '<meta name="referrer" content="same-origin">' in page.text
    again = keyed.http.post("/login", data={"key": "<script>"})
    assert again.status_code == 401
    assert "<form" in again.text
    assert "<script>" not in again.text
    done = keyed.http.post("/login", data={"key": API_KEY})
    assert (done.status_code, done.headers["location"]) == (303, "/")
    assert keyed.get("/", Accept="text/html").status_code == 200


def test_without_keys_there_is_no_login(keyless: Running) -> None:
    assert code(keyless.post("/login", {"key": "anything"})) == "no_key_set"
    assert keyless.get("/session").json() == {"role": "all", "csrf_token": "", "login": False}


def test_new_keys_take_effect_on_reload_and_end_sessions(keyed: Running) -> None:
    csrf = keyed.log_in()
    keyed.write(**ALL_KEYS | {"api_key": "another-key-of-ours"})
    assert keyed.post(X_CSRF_Token=csrf).status_code == 200
    assert len(keyed.doors.sessions) == 0
    assert keyed.get().status_code == 401
    assert keyed.get(X_API_Key=API_KEY).status_code == 401
    assert keyed.get(X_API_Key="another-key-of-ours").status_code == 200


def test_a_reload_without_new_keys_ends_no_session(keyed: Running) -> None:
    csrf = keyed.log_in()
    keyed.write(**ALL_KEYS, allowed_hosts=["box.example"])
    assert keyed.post(X_CSRF_Token=csrf).status_code == 200
    assert keyed.get(Host="box.example").status_code == 200


def test_a_bad_configuration_opens_no_door(keyed: Running) -> None:
    (keyed.folder / "qguard.yaml").write_text("server: {}\n")
    assert keyed.post(X_API_Key=API_KEY).status_code == 422
    assert keyed.get().status_code == 401
    assert keyed.get(X_API_Key=API_KEY).status_code == 200


# Limits


def test_who_sends_a_request_byte_by_byte_is_cut_off(start: Start) -> None:
    running = start(bounds=Bounds(timeout=0.5))
    began = time.monotonic()
    answer = running.raw(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
    assert b" 408 " in answer.splitlines()[0]
    body = running.raw(b"POST /webhook HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhash=")
    assert b" 408 " in body.splitlines()[0]
    assert time.monotonic() - began < 5


def test_bytes_that_keep_coming_do_not_extend_the_time(start: Start) -> None:
    running = start(bounds=Bounds(timeout=0.5))
    with socket.create_connection(("127.0.0.1", running.port), timeout=0.1) as link:
        link.sendall(b"GET /health HTTP/1.1\r\n")
        began, got = time.monotonic(), b""
        while not got and time.monotonic() - began < 5:
            with contextlib.suppress(TimeoutError):
                link.sendall(b"X-Slow: 1\r\n")
                got = link.recv(100)
    assert b" 408 " in got


@pytest.mark.parametrize(
    "ahead",
    [
        b"POST /login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-Slow: ",
    ],
)
def test_half_a_request_that_was_sent_ahead_is_cut_off(start: Start, ahead: bytes) -> None:
    running = start(bounds=Bounds(timeout=0.5))
    began = time.monotonic()
    answer = running.raw(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" + ahead)
    assert [line.split()[1] for line in answer.splitlines() if b"HTTP/1.1 " in line][-1] == b"408"
    assert time.monotonic() - began < 5  # uvicorn's own bound between requests is 15 s


def test_who_connects_and_says_nothing_is_cut_off(start: Start) -> None:
    assert start(bounds=Bounds(timeout=0.5)).raw(b"") == b""


def test_an_answer_that_takes_long_is_not_cut_off(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(bounds=Bounds(timeout=0.3))

    async def slow() -> tuple[()]:
        await asyncio.sleep(0.8)
        return ()

    monkeypatch.setattr(running.service, "trackers", slow)
    assert running.get("/trackers").json() == []


def test_a_connection_may_serve_many_requests_longer_than_one_may_take(start: Start) -> None:
    running = start(bounds=Bounds(timeout=0.3))
    began = time.monotonic()
    while time.monotonic() - began < 0.8:
        assert running.get().status_code == 200


async def test_no_answer_waits_for_an_acknowledgement() -> None:
    """Else one that is sent in two parts takes 40 ms longer, where the caller keeps its connection."""
    quick: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = writer.get_extra_info("socket")
        quick.set_result(link.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    listener = listen("127.0.0.1", 0)
    async with await asyncio.start_server(greet, sock=listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        assert await quick
        writer.close()


def test_connections_are_bounded(start: Start) -> None:
    running = start(bounds=Bounds(most=3, reserved=0))
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
            link.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert link.recv(4096)
        assert b" 503 " in running.raw(b"").splitlines()[0]
    # Ended connections give their places back, a moment later.
    deadline = time.monotonic() + 5
    while b" 200 " not in (
        answer := running.raw(f"GET {READ} HTTP/1.1\r\nHost: a\r\n\r\n".encode(), until_closed=False)
    ):
        assert time.monotonic() < deadline, answer


def test_a_burst_of_hooks_from_one_address_is_taken(keyless: Running) -> None:
    sent = b"POST /webhook HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 45\r\n"
    sent += b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", keyless.port)
        links = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(300)]
        for number, link in enumerate(links):
            link.sendall(sent + f"hash={number:040x}".encode())
        answers = [link.recv(4096).split()[1] for link in links]
    assert answers == [b"202"] * 300


def test_what_a_proxy_on_this_machine_holds_open_leaves_room_for_direct_callers(start: Start) -> None:
    running = start(bounds=Bounds(most=4, per_address=2, reserved=2))
    asked = f"GET {READ} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n".encode()
    with contextlib.ExitStack() as stack:

        def hold() -> socket.socket:
            link = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
            link.sendall(b"GET /health HTTP/1.1\r\n")
            return link

        links = [hold() for _ in range(6)]
        passed_on = running.raw(asked + b"X-Forwarded-For: 203.0.113.5\r\n\r\n")
        assert b" 503 " in passed_on.splitlines()[0]
        assert b"too_many_connections" in passed_on
        for _ in range(3):
            assert b" 200 " in running.raw(asked + b"\r\n").splitlines()[0]
        # Those in the first places stay; those that waited in the reserve gave way, one after the other.
        assert b" 503 " in links[2].recv(4096).splitlines()[0]
        links[0].sendall(b"Host: a\r\n\r\n")
        assert links[0].recv(4096).split()[1] in {b"200", b"503"}


def test_a_body_in_very_many_pieces_is_refused(start: Start) -> None:
    running = start(bounds=Bounds(pieces=50))
    head = b"POST /login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    few, many = b"1\r\n \r\n" * 48 + b"2\r\n{}\r\n0\r\n\r\n", b"1\r\n \r\n" * 60 + b"0\r\n\r\n"
    assert b" 422 " in running.raw(head + few).splitlines()[0]
    refused = running.raw(head + many)
    assert b" 413 " in refused.splitlines()[0]
    assert b"too_many_pieces" in refused


def test_pieces_are_counted_request_by_request(start: Start) -> None:
    running = start(bounds=Bounds(pieces=50))
    request = b"POST /pause HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 40
    last = b"POST /pause HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\n["
    answer = running.raw((request + b"2\r\n{}\r\n0\r\n\r\n") * 2 + last)
    assert [line.split()[1] for line in answer.splitlines() if b"HTTP/1.1 " in line] == [b"200", b"200", b"422"]


@pytest.mark.parametrize(
    ("path", "most"), [("/webhook", LARGEST_HOOK), ("/pause", LARGEST_BODY), ("/login", LARGEST_HOOK)]
)
def test_bodies_are_bounded_with_and_without_a_length(keyed: Running, path: str, most: int) -> None:
    for body in (b"x" * (most + 1), iter([b"x" * 4096] * (most // 4096 + 1))):
        answer = keyed.http.post(path, content=body, headers={"X-API-Key": API_KEY})
        assert (answer.status_code, code(answer)) == (413, "too_large")


def test_a_stranger_cannot_make_us_read_a_body(keyed: Running) -> None:
    answer = keyed.http.post("/pause", content=b"x" * (LARGEST_BODY + 1))
    assert answer.status_code == 401


def test_headers_are_bounded_in_number_and_size(keyless: Running) -> None:
    many = "".join(f"X-H{number}: 1\r\n" for number in range(MOST_HEADERS + 1))
    large = f"X-H: {'x' * LARGEST_HEADERS}\r\n"
    for headers in (many, large, "X-H: " + "x" * 300_000 + "\r\n"):
        answer = keyless.raw(f"GET {READ} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n".encode())
        assert answer.splitlines()[0].split()[1] in {b"431", b"400"}


# Secrets and faults


def oracle(running: Running, guess: str) -> list[str]:
    """What somebody with the read key, or with none, can be told about a guess."""
    read = {"X_API_Key": READ_KEY}
    answers = [
        running.post("/login", {guess: 1}),
        running.http.post("/login", data={guess: "1"}),
        running.post("/login", {"key": "", guess: 1}),
        running.post("/login", {"key": {guess: guess}}),
        running.http.post("/login", content=f'{{"key": !{guess}'),
        running.post("/webhook", {"hash": {guess: 1}}),
        running.post("/webhook", {"hash": guess + "-" * 100, "api_key": HOOK_KEY}),
        running.post("/webhook", {"hash": guess, "api_key": HOOK_KEY}),
        running.http.post(
            "/webhook", content=guess, headers={"Content-Type": f"multipart/form-data; boundary={guess}"}
        ),
        running.get(f"/{guess}"),
        running.get(Host=f"{guess}.evil.example"),
        running.get("/match/test", **read),
        running.get(f"/match/test?url=http://{guess}.example", **read),
        running.get(f"/match/test?url={guess}://tracker.example", **read),
        running.get(f"/match/test?url=x&detailed={guess}", **read),
        running.get(f"/match/test?url=x&{guess}=1", **read),
        running.get(f"/match/test?url=x&category={guess}&tags={guess}&detailed=1", **read),
        running.get(f"/ledger?hash={guess}", **read),
        running.get(f"/ledger?tracker={guess}", **read),
        running.get(f"/ledger?show={guess}", **read),
        running.get(f"/ledger?limit={guess}", **read),
        running.get(f"/ledger?cycle={guess}", **read),
    ]
    return [f"{answer.status_code} {answer.text.replace(guess, 'GUESS')}" for answer in answers]


def test_no_answer_tells_whether_a_guess_is_a_secret(keyed: Running) -> None:
    """`***` in the place of what was sent would, and nobody counts such guesses."""
    wrong = oracle(keyed, "no-secret-of-anybody")
    for secret in ("p-of-the-client", API_KEY, HOOK_KEY):
        right = oracle(keyed, secret)
        keyed.doors.attempts = Attempts()  # what is wrong here counts, and would end in 429
        masked = [text.split('"processing_time_ms"')[0] for text in right]
        assert masked == [text.split('"processing_time_ms"')[0] for text in wrong]


def test_a_fixed_word_of_ours_that_is_a_password_is_not_hidden(start: Start) -> None:
    running = start(**ALL_KEYS)
    before = redact.redactor
    redact.redactor = Redactor(["needed", "known", "page"])
    try:
        texts = [running.get().text, running.post("/login", {"x": 1}).text, running.post(Origin=EVIL).text]
    finally:
        redact.redactor = before
    assert [word in text for word, text in zip(("needed", "known", "page"), texts, strict=True)] == [True] * 3


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "application/json"),
        (b'{"hash":' + b"[" * 30_000 + b"]" * 30_000 + b"}", "application/json"),
        (b'{"hash":"\xff"}', "application/json"),
        *(
            (b'--x\r\nContent-Disposition: form-data; name="hash"\r\n\r\n' + b"\xff\xfea" * 20 + b"\r\n--x--\r\n", kind)
            for kind in (
                "multipart/form-data; boundary=x",
                "multipart/form-data; boundary=x; charset=undefined",
                "multipart/form-data; boundary=x; charset=punycode",
                "multipart/form-data; boundary=x; charset=zlib",
                "multipart/form-data; boundary=y",
                "multipart/form-data",
            )
        ),
        (b"hash=%ff&" + b"a=1&" * 100, "application/x-www-form-urlencoded"),
        (b"hash=1", "application/x-www-form-urlencoded; charset=punycode"),
    ],
)
def test_no_body_is_a_fault_of_ours(
    keyless: Running, body: bytes, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = keyless.http.post("/webhook", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 422, answer.text
    if kind == "application/json":
        assert keyless.http.post("/login", content=body).status_code == 422
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_form_in_a_charset_that_everybody_has_is_taken(keyless: Running) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="hash"\r\n\r\n' + b"a" * 40 + b"\r\n--x--\r\n"
    kind = "multipart/form-data; boundary=x; charset=UTF-8"
    assert keyless.http.post("/webhook", content=body, headers={"Content-Type": kind}).status_code == 202


def test_health_says_in_words_what_is_wrong_only_to_who_may_read(keyed: Running) -> None:
    (keyed.folder / "qguard.yaml").write_text("server: {api_kye: something-of-mine}\n")
    assert keyed.post(X_API_Key=API_KEY).status_code == 422
    path = str(keyed.folder)
    public = [keyed.get("/health"), keyed.get("/health", X_API_Key=HOOK_KEY), keyed.get("/health", X_API_Key="wrong")]
    for answer in public:
        assert "configuration" in answer.json()["problems"]
        assert not [part for part in (path, "api_kye", "something-of-mine") if part in answer.text]
    for key in (READ_KEY, API_KEY, TOKEN):
        assert path in keyed.get("/health", X_API_Key=key).json()["problems"]["configuration"]
    keyed.log_in(READ_KEY)
    assert path in keyed.get("/health").json()["problems"]["configuration"]


def test_health_names_no_tracker_and_no_client_to_a_stranger(keyless: Running) -> None:
    assert keyless.post("/pause", {"tracker": "rest"}).status_code == 200
    shown = [keyless.get("/health", **headers).json()["paused"] for headers in ({}, ELSEWHERE)]
    assert shown == [["rest"], []]
    assert keyless.post("/pause").status_code == 200
    assert keyless.get("/health", **ELSEWHERE).json()["paused"] == ["*"]


def test_guessing_at_the_open_door_counts_too(keyed: Running) -> None:
    for _ in range(MOST_FAILURES):
        assert keyed.get("/health", X_API_Key="guess").status_code in {200, 503}
    assert keyed.get(X_API_Key=API_KEY).status_code == 429
    assert keyed.get("/health", X_API_Key=API_KEY).status_code in {200, 503}


def test_an_empty_key_header_does_not_hide_a_good_one(keyed: Running) -> None:
    assert keyed.get(X_API_Key="", Authorization=f"Bearer {READ_KEY}").status_code == 200


def test_what_callers_write_cannot_look_like_a_line_of_the_log(
    keyless: Running, capfd: pytest.CaptureFixture[str]
) -> None:
    set_up()
    forged = "x\n2026-01-01T00:00:00 [error    ] FORGED\r\x1b[31m\u2028\u202e"
    assert keyless.post("/resume", {"reason": forged}).status_code == 200
    structlog.get_logger("qguard").warning(f"resumed: {forged}", name=forged)
    logging.getLogger("a library").warning("resumed: %s", forged)
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if "FORGED" in line]
    assert len(lines) >= 2
    assert all("resumed" in line for line in lines)
    assert not {"\x1b", "\r", "\u2028", "\u202e"} & set(said)


def test_what_an_exception_says_cannot_either(
    keyless: Running, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    set_up()

    words = "x\n2026-01-01T00:00:00 [error    ] FORGED \x1b[31m"

    def fail(*_: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(keyless.service, "match", fail)
    assert keyless.get().status_code == 500
    said = capfd.readouterr().err
    (line,) = [line for line in said.splitlines() if "FORGED" in line]
    assert line.startswith("    ")
    assert "\x1b" not in said


def test_strangers_cannot_fill_the_log(keyed: Running, capfd: pytest.CaptureFixture[str]) -> None:
    set_up()
    keyed.raw(b"this is not HTTP\r\n\r\n")
    keyed.raw(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n")
    keyed.http.post("/login", content=b"[" * 60_000)
    keyed.http.post("/webhook", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=y"})
    assert "".join(capfd.readouterr()) == ""


def test_no_refusal_echoes_a_secret(keyed: Running, capfd: pytest.CaptureFixture[str]) -> None:
    made_up = "made-up-secret-of-somebody"
    answers = [
        keyed.get(X_API_Key=made_up),
        keyed.get(Authorization=f"Bearer {made_up}"),
        keyed.post("/login", {"key": made_up}),
        keyed.http.post("/webhook", data={**HOOK, "api_key": made_up}),
        keyed.post(Cookie=f"qguard_session_{keyed.port}={made_up}"),
        keyed.get(X_API_Key=READ_KEY, Cookie=made_up),
        keyed.post("/pause", {API_KEY: 1}, X_API_Key=API_KEY),
        keyed.post("/rollout", {"percentage": API_KEY}, X_API_Key=API_KEY),
        keyed.get(f"/explain/{API_KEY}", X_API_Key=READ_KEY),
        keyed.get(f"/{API_KEY}"),
        keyed.get(f"/match/test?url=http://tracker.example/{made_up}/announce", X_API_Key=READ_KEY),
        keyed.get(Host=f"{API_KEY}.evil.example"),
        keyed.post(Origin=f"https://{API_KEY}.evil.example"),
    ]
    log = "".join(capfd.readouterr())
    for text in [log, *(answer.text + str(answer.headers) for answer in answers)]:
        assert not [secret for secret in (made_up, API_KEY, READ_KEY, HOOK_KEY, TOKEN) if secret in text]


def test_a_made_key_is_hidden_like_a_configured_one(start: Start, tmp_path: Path) -> None:
    start(host="0.0.0.0")
    key = (tmp_path / "qguard.api_key").read_text().strip()
    assert redact(f"{key} {TOKEN}") == "*** ***"


def test_after_a_reload_the_new_secrets_are_hidden(keyed: Running) -> None:
    keyed.write(**ALL_KEYS | {"hook_key": "brand-new-hook-key"})
    assert keyed.post(X_API_Key=API_KEY).status_code == 200
    assert redact("brand-new-hook-key") == "***"


def test_a_fault_of_ours_says_nothing_of_itself(keyless: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("internals and a passkey")

    monkeypatch.setattr(keyless.service, "match", fail)
    answer = keyless.get()
    assert (answer.status_code, code(answer)) == (500, "internal")
    assert "internals" not in answer.text


def test_who_called_is_told_to_the_service(keyed: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    callers: list[str] = []

    async def pause(*, who: str, **_: object) -> None:
        callers.append(who)
        raise RequestError("enough", "that was all")

    monkeypatch.setattr(keyed.service, "pause", pause)
    keyed.post("/pause", X_API_Key=TOKEN)
    keyed.post("/pause", X_API_Key=API_KEY)
    keyed.post("/pause", X_CSRF_Token=keyed.log_in())
    assert callers == ["command", "api_key from 127.0.0.1", "api_key session from 127.0.0.1"]

"""`QbittorrentClient` against real and simulated qBittorrents: what it reads is so, what it writes arrives, once."""

import asyncio
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from qguard.qbittorrent.client import LOGIN_PAUSE, Address, QbittorrentClient
from qguard.qbittorrent.errors import BadAnswerError, LoginRefusedError, UnreachableError
from qguard.snapshot import Torrents
from qguard.trackers import Matcher
from tests.support.daemon import REQUIRED, VERSIONS, Daemon, unavailable_reason
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.simulated import SIMULATED, AnyDaemons, swarm_of
from tests.support.torrents import Torrent, make_torrent, make_torrents, seed
from tests.support.tracker import Tracker
from tests.support.webapi import WebApi

TIMEOUT = 2.0
UNKNOWN = "0" * 40
DEAD_TRACKER = "http://127.0.0.9:9/announce"

pytestmark = pytest.mark.qbittorrent

Connect = Callable[..., QbittorrentClient]


@dataclass
class Scene:
    """One daemon of each version for the tests that do not disturb each other."""

    daemon: Daemon
    api: WebApi
    torrents: list[Torrent]

    @property
    def hashes(self) -> list[str]:
        return [torrent.infohash for torrent in self.torrents]


@pytest.fixture(scope="session", params=[*VERSIONS, *SIMULATED])
def daemon_version(request: pytest.FixtureRequest) -> str:
    """Each real version, where it is installed, and each simulated one."""
    version = str(request.param)
    if version not in SIMULATED and (reason := unavailable_reason(version)):
        if version in REQUIRED:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return version


@pytest.fixture
def daemon(swept: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemon]]:
    """Start real and simulated daemons."""
    with AnyDaemons(
        request.getfixturevalue("daemon_version") if "daemon_version" in request.fixturenames else None
    ) as (daemons):
        yield daemons.start


@pytest.fixture(scope="module")
def module_daemon(swept: None) -> Iterator[Callable[..., Daemon]]:
    """The same for a whole module."""
    with AnyDaemons() as daemons:
        yield daemons.start


@pytest.fixture(scope="module")
def scene(daemon_version: str, module_daemon: Callable[..., Daemon]) -> Iterator[Scene]:
    daemon = module_daemon(daemon_version)
    with daemon.api() as api:
        torrents = make_torrents(6, daemon.data, prefix="plain")
        seed(daemon, api, torrents)
        yield Scene(daemon, api, torrents)


@pytest.fixture
def between(scene: Scene, proxy: Callable[[Daemon], Proxy]) -> Proxy:
    return proxy(scene.daemon)


def make_client(
    url: str, daemon: Daemon | None = None, *, clock: Callable[[], float] = time.monotonic, **more: Any
) -> QbittorrentClient:
    """A client that logs in as the daemon's user; `more` are fields of its Address."""
    words: dict[str, Any] = {"url": url, "timeout": TIMEOUT}
    if daemon is not None:
        words |= {"username": daemon.username, "password": daemon.password}
    return QbittorrentClient(Address(**words | more), clock=clock)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Make clients that are closed after the test."""
    async with AsyncExitStack() as stack:

        def make(*words: Any, **more: Any) -> QbittorrentClient:
            client = make_client(*words, **more)
            stack.push_async_callback(client.close)
            return client

        yield make


@pytest.fixture
def client(scene: Scene, between: Proxy, connect: Connect) -> QbittorrentClient:
    return connect(between.url, scene.daemon)


def row(listed: Torrents, infohash: str) -> dict[str, Any]:
    """One torrent's columns, announce URLs decoded and sorted, and `added_on` left out."""
    (at,) = listed.rows_of([infohash]).tolist()
    assert at >= 0, f"{infohash} is not listed"
    names = ("up_limit", "upspeed", "uploaded", "uploaded_session", "leechers", "downloading", "category", "tags")
    values = {name: getattr(listed, name)[at] for name in (*names, "name")}
    return values | {"announce": sorted(Matcher.urls(listed.announce[at]))}


def limits_there(api: WebApi, hashes: list[str]) -> dict[str, int]:
    """Limits now; torrents/info lags behind by a refresh."""
    answer: dict[str, int] = api.post("torrents/uploadLimit", hashes="|".join(hashes)).json()
    return answer


def until(condition: Callable[[], bool], what: str, timeout: float = 20.0) -> None:
    """Wait for something that the daemon does by itself and tells nobody."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(0.05)


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    words = str(error.value)
    assert "\n" not in words
    return words


# Who answers


async def test_the_version_is_what_the_daemon_says_and_is_asked_for_once(
    scene: Scene, between: Proxy, client: QbittorrentClient
) -> None:
    version = await client.version()
    assert version.app == scene.daemon.full_version
    assert version.api == scene.api.get("app/webapiVersion").text
    assert version.refresh_interval == scene.api.preferences()["refresh_interval"] / 1000
    asked = len(between.log)
    assert await client.version() == version
    assert len(between.log) == asked


# Logging in


async def test_a_wrong_password_is_tried_once_and_said_in_one_line(
    scene: Scene, between: Proxy, connect: Connect
) -> None:
    now = 0.0
    client = connect(between.url, scene.daemon, password="not-the-password", clock=lambda: now)
    words = set()
    for ask in (client.version, client.torrents, client.torrents, lambda: client.set_limit(scene.hashes, 5)):
        with pytest.raises(LoginRefusedError) as error:
            await ask()
        words.add(one_line(error))
    assert len(words) == 1
    assert scene.daemon.username in words.pop()
    assert "not-the-password" not in str(error.value)
    assert [request.path for request in between.log] == ["/api/v2/auth/login"]
    now = LOGIN_PAUSE + 1
    with pytest.raises(LoginRefusedError):
        await client.torrents()
    assert len(between.requests("auth/login")) == 2


async def test_a_banned_address_is_named_as_a_possible_reason(
    daemon_version: str, daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], connect: Connect
) -> None:
    running = daemon(preferences={"WebUI\\MaxAuthenticationFailCount": 1})
    with pytest.raises(PermissionError):
        WebApi(running.url, running.username, "wrong")
    between = proxy(running)
    client = connect(between.url, running)
    for _ in range(2):
        with pytest.raises(LoginRefusedError, match="banned") as error:
            await client.torrents()
        one_line(error)
    assert len(between.log) == 1


async def test_no_login_is_made_where_none_is_needed(
    daemon_version: str, daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], connect: Connect
) -> None:
    running = daemon(bypass_auth=True)
    between = proxy(running)
    client = connect(between.url)
    assert len(await client.torrents()) == 0
    sessions = client.sessions
    assert len(await client.torrents()) == 0
    assert client.sessions == sessions
    assert [request.path for request in between.log] == ["/api/v2/torrents/info"] * 2


async def test_missing_credentials_are_asked_for_in_one_line(between: Proxy, connect: Connect) -> None:
    client = connect(between.url)
    for _ in range(2):
        with pytest.raises(LoginRefusedError, match=r"asks for a login .*qbittorrent\.username") as error:
            await client.torrents()
        one_line(error)
    assert len(between.log) == 1


async def test_an_ended_session_costs_one_login_and_the_request_goes_through(
    daemon_version: str, daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], connect: Connect
) -> None:
    running = daemon(preferences={"WebUI\\SessionTimeout": 2})
    made = make_torrent("written", running.data)
    with running.api() as api:
        seed(running, api, [made])
    between = proxy(running)
    client = connect(between.url, running)
    await client.torrents()
    await asyncio.sleep(2.2)  # the idle time that ends a session
    await client.set_limit([made.infohash], 4_321)
    seen = [(request.path.rpartition("/")[2], request.status == 403) for request in between.log]
    assert [name for name, _ in seen] == ["login", "info", "setUploadLimit", "login", "setUploadLimit"]
    assert [refused for _, refused in seen] == [False, False, True, False, False]
    assert await client.limits([made.infohash]) == {made.infohash: 4_321}


async def test_a_restart_of_the_daemon_costs_one_login_and_counts_as_a_new_session(
    daemon_version: str, daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], connect: Connect
) -> None:
    running = daemon()
    between = proxy(running)
    client = connect(between.url, running)
    await client.torrents()
    sessions = client.sessions
    running.stop()
    running.start()
    await client.torrents()
    assert client.sessions > sessions
    names = [request.path.rpartition("/")[2] for request in between.log]
    assert names == ["login", "info", "info", "login", "info"]


async def test_an_absent_daemon_is_one_clear_line_and_one_connection(connect: Connect) -> None:
    client = connect(f"http://127.0.0.1:{free_port()}", username="a", password="b")
    with pytest.raises(UnreachableError, match=r"connection refused.*is it running") as error:
        await client.torrents()
    one_line(error)


async def test_proxies_and_accounts_of_the_environment_are_not_used(
    scene: Scene, between: Proxy, connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disturb(monkeypatch, tmp_path)
    client = connect(between.url, scene.daemon)
    assert (await client.version()).app == scene.daemon.full_version
    assert len(await client.torrents()) >= len(scene.hashes)


def disturb(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Variables and a netrc that lead an ordinary HTTP client astray."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv(name.upper(), nowhere)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    netrc = folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password wrong\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))


# Reading


async def test_every_column_is_as_the_torrent_was_made(
    scene: Scene, client: QbittorrentClient, tracker: Tracker, daemon_version: str
) -> None:
    tiers = [
        [f"{DEAD_TRACKER}?passkey=c0ffee00", "udp://127.0.0.9:9/announce"],
        [f"{tracker.url('b')}?passkey=a%2Fb%2Bc%3D", tracker.url("a", passkey="deadbeef")],
        ["http://127.0.0.9:9/caf%C3%A9/announce"],
    ]
    full = make_torrent(f"full-{daemon_version}", scene.daemon.data, tiers=tiers, private=True)
    bare = make_torrent(f"bare-{daemon_version}", scene.daemon.data, private=False)
    before = int(time.time())
    scene.api.post("torrents/createCategory", category="films, old", savePath="")
    seed(scene.daemon, scene.api, [full], up_limit=123_456, category="films, old", tags=["b tag", "a"])
    seed(scene.daemon, scene.api, [bare])
    try:
        listed = await client.torrents()
        assert row(listed, full.infohash) == {
            "up_limit": 123_456,
            "upspeed": 0,
            "uploaded": 0,
            "uploaded_session": 0,
            "leechers": 0,
            "downloading": False,
            "category": "films, old",
            "tags": "a, b tag",
            "name": full.name,
            "announce": sorted(url for tier in tiers for url in tier),  # within a tier libtorrent shuffles
        }
        bare_row = row(listed, bare.infohash)
        assert (bare_row["up_limit"], bare_row["category"], bare_row["tags"]) == (0, "", "")
        assert bare_row["announce"] == []
        assert before - 1 <= listed.added_on[listed.rows_of([full.infohash])[0]] <= time.time() + 1
        assert listed.infohash.tolist() == sorted(name.encode() for name in scene.api.torrents())
    finally:
        scene.api.delete([full.infohash, bare.infohash])


async def test_announce_urls_stay_the_same_when_one_begins_to_work(
    scene: Scene, client: QbittorrentClient, tracker: Tracker, daemon_version: str
) -> None:
    urls = [f"{DEAD_TRACKER}/c0ffee00", f"{tracker.url('b')}?passkey=a%2Fb", tracker.url("c", passkey="deadbeef")]
    made = make_torrent(f"announcing-{daemon_version}", scene.daemon.data, tiers=[[url] for url in urls])
    seed(scene.daemon, scene.api, [made])  # not on the tracker's list yet: every announce fails

    def current() -> str:
        """The tracker that works, as the daemon has it: what we must not rely on."""
        return str(scene.api.torrents([made.infohash])[made.infohash]["tracker"])

    try:
        assert current() in {"", urls[0]}
        before = row(await client.torrents(), made.infohash)["announce"]
        tracker.allow([made.infohash])
        scene.api.post("torrents/reannounce", hashes=made.infohash)
        until(lambda: current() in urls[1:], "an announce that works")
        after = row(await client.torrents(), made.infohash)["announce"]
    finally:
        scene.api.delete([made.infohash])
    assert before == sorted(urls)
    assert after == sorted(urls)


async def test_what_still_downloads_is_told_from_what_seeds_or_is_stopped(
    scene: Scene, client: QbittorrentClient, daemon_version: str
) -> None:
    started, stopped = (make_torrent(f"{word}-{daemon_version}", None) for word in ("started", "stopped"))
    options = {"savepath": str(scene.daemon.inside(scene.daemon.data)), "autoTMM": "false"}
    magnet = "ab" * 20
    scene.api.add([("started.torrent", started.metainfo)], options)
    scene.api.add([("stopped.torrent", stopped.metainfo)], options | {"paused": "true", "stopped": "true"})
    scene.api.post("torrents/add", urls=f"magnet:?xt=urn:btih:{magnet}&tr=http%3A%2F%2F127.0.0.9%3A9%2Fa%3Fk%3D1")
    added = [started.infohash, stopped.infohash, magnet]
    try:
        settled = {"stalledDL", "metaDL", "pausedDL", "stoppedDL"}

        def states() -> dict[str, str]:
            return {name: one["state"] for name, one in scene.api.torrents(added).items()}

        until(lambda: len(states()) == 3 and set(states().values()) <= settled, "three torrents without content")
        assert states()[magnet] == "metaDL"
        listed = await client.torrents()
        downloading = {name: row(listed, name)["downloading"] for name in [*added, *scene.hashes]}
        assert downloading == {
            started.infohash: True,
            stopped.infohash: False,
            magnet: True,
            **dict.fromkeys(scene.hashes, False),
        }
        assert row(listed, magnet)["announce"] == ["http://127.0.0.9:9/a?k=1"]
    finally:
        scene.api.delete(added)


async def test_everything_that_uploads_is_among_the_active_with_every_field(
    scene: Scene, client: QbittorrentClient
) -> None:
    busy = scene.hashes[:3]
    scene.api.set_limit(busy, 0)
    with swarm_of(scene.daemon) as swarm:
        for torrent in scene.torrents[:3]:
            swarm.add(torrent, 100_000)
        swarm.wait_ready()

        def all_seen() -> bool:
            return all(one["upspeed"] > 50_000 for one in scene.api.torrents(busy).values())

        until(all_seen, "three uploads that the daemon knows of")
        active = await client.active_torrents()
        full = await client.torrents()
    assert {h.decode() for h in active.infohash.tolist()} >= set(busy)
    assert (active.rows_of(scene.hashes[3:]) == -1).all()
    for name in busy:
        fields, same = row(active, name), row(full, name)
        assert (fields["upspeed"] > 50_000, fields["uploaded"] > 0, fields["leechers"]) == (True, True, 1)
        assert 0 < fields["uploaded_session"] <= fields["uploaded"] + 100_000
        for changing in ("upspeed", "uploaded", "uploaded_session"):
            del fields[changing], same[changing]
        assert fields == same


async def test_the_other_listing_names_the_same_torrents(scene: Scene, client: QbittorrentClient) -> None:
    assert await client.other_listing() == frozenset(scene.api.torrents())


async def test_the_other_listing_is_complete_each_time(scene: Scene, client: QbittorrentClient) -> None:
    first = await client.other_listing()
    assert await client.other_listing() == first == frozenset(scene.api.torrents())


async def test_limits_are_fresh_and_tell_unlimited_from_unknown(scene: Scene, client: QbittorrentClient) -> None:
    limited, free = scene.hashes[:2]
    scene.api.set_limit([limited], 9_876)
    scene.api.set_limit([free], 0)
    assert await client.limits([limited, free, UNKNOWN]) == {limited: 9_876, free: 0, UNKNOWN: -1}


async def test_transfer_tells_the_limit_of_the_whole_client(scene: Scene, client: QbittorrentClient) -> None:
    scene.api.post("transfer/setUploadLimit", limit=512_000)
    try:
        assert (await client.transfer()).up_rate_limit == 512_000
    finally:
        scene.api.post("transfer/setUploadLimit", limit=0)
    assert (await client.transfer()).up_rate_limit == 0


# Writing


@pytest.mark.parametrize("limit", [1, 1023, 2_147_483_646])
async def test_a_limit_arrives_to_the_byte_and_can_be_taken_off(
    scene: Scene, client: QbittorrentClient, limit: int
) -> None:
    chosen, other = scene.hashes[:2], scene.hashes[2]
    scene.api.set_limit([other], 77)
    await client.set_limit(chosen, limit)
    assert limits_there(scene.api, [*chosen, other]) == dict.fromkeys(chosen, limit) | {other: 77}
    await client.remove_limit(chosen)
    assert limits_there(scene.api, [*chosen, other]) == dict.fromkeys(chosen, 0) | {other: 77}


@pytest.mark.parametrize("limit", [0, -1, 2_147_483_647, 10.5, True, "1000"])
async def test_what_the_client_would_take_for_unlimited_is_never_sent(
    scene: Scene, between: Proxy, client: QbittorrentClient, limit: Any
) -> None:
    with pytest.raises(ValueError, match="whole number from 1 to 2147483646"):
        await client.set_limit(scene.hashes, limit)
    assert between.log == []


async def test_unknown_torrents_are_skipped_and_the_others_written(scene: Scene, client: QbittorrentClient) -> None:
    await client.set_limit([UNKNOWN, *scene.hashes[:2]], 5_555)
    assert await client.limits([UNKNOWN, *scene.hashes[:2]]) == {UNKNOWN: -1, **dict.fromkeys(scene.hashes[:2], 5_555)}


async def test_three_thousand_torrents_fit_into_one_call(
    scene: Scene, between: Proxy, client: QbittorrentClient
) -> None:
    many = [f"{number:040x}" for number in range(1, 3_001)]
    await client.set_limit([*many, *scene.hashes], 6_666)
    assert len(between.requests("setUploadLimit")) == 1
    assert between.limits_sent() == [(frozenset([*many, *scene.hashes]), "6666")]
    assert limits_there(scene.api, scene.hashes) == dict.fromkeys(scene.hashes, 6_666)
    assert len(await client.limits([*many, *scene.hashes])) == 3_006


Ask = Callable[[QbittorrentClient], Awaitable[object]]

METHODS: dict[str, tuple[str, Ask]] = {
    "torrents": ("torrents/info", lambda client: client.torrents()),
    "active_torrents": ("torrents/info", lambda client: client.active_torrents()),
    "other_listing": ("sync/maindata", lambda client: client.other_listing()),
    "limits": ("torrents/uploadLimit", lambda client: client.limits([UNKNOWN])),
    "transfer": ("transfer/info", lambda client: client.transfer()),
    "set_limit": ("torrents/setUploadLimit", lambda client: client.set_limit([UNKNOWN], 10)),
    "remove_limit": ("torrents/setUploadLimit", lambda client: client.remove_limit([UNKNOWN])),
}
each_method = pytest.mark.parametrize("method", METHODS)


@each_method
async def test_each_method_is_one_request_and_is_counted(
    between: Proxy, client: QbittorrentClient, method: str
) -> None:
    path, ask = METHODS[method]
    await ask(client)
    await ask(client)
    assert [request.path for request in between.log] == ["/api/v2/auth/login", *[f"/api/v2/{path}"] * 2]
    assert client.requests == len(between.log)


# When it goes wrong


@each_method
async def test_an_error_status_is_a_bad_answer_and_not_tried_again(
    between: Proxy, client: QbittorrentClient, method: str
) -> None:
    path, ask = METHODS[method]
    between.fail_next(path, 500, times=None)
    with pytest.raises(BadAnswerError, match="answered 500") as error:
        await ask(client)
    one_line(error)
    assert len(between.requests(path)) == 1
    between.clear()
    await ask(client)


@pytest.mark.parametrize("method", ["torrents", "active_torrents", "other_listing", "transfer"])
async def test_a_truncated_answer_is_a_bad_answer_and_not_tried_again(
    between: Proxy, client: QbittorrentClient, method: str
) -> None:
    path, ask = METHODS[method]
    between.truncate(path, times=None)
    with pytest.raises(BadAnswerError) as error:
        await ask(client)
    one_line(error)
    assert len(between.requests(path)) == 1
    between.clear()
    await ask(client)


@pytest.mark.parametrize(
    "body", [b"", b"<html>sign in</html>", b'{"a":1}', b'[{"hash":"x"}]'], ids=["empty", "page", "object", "poor"]
)
async def test_a_listing_that_is_none_is_a_bad_answer(between: Proxy, client: QbittorrentClient, body: bytes) -> None:
    between.rewrite("torrents/info", lambda _: body)
    with pytest.raises(BadAnswerError, match="nothing is changed") as error:
        await client.torrents()
    one_line(error)


@pytest.mark.parametrize("method", ["torrents", "set_limit"])
async def test_a_request_that_hangs_ends_within_the_timeout_and_is_not_repeated(
    between: Proxy, client: QbittorrentClient, method: str
) -> None:
    path, ask = METHODS[method]
    await client.version()
    between.hang(path, times=None)
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer in time") as error:
        await ask(client)
    assert TIMEOUT * 0.9 <= time.monotonic() - began <= TIMEOUT + 2  # 2 s for a busy machine to notice
    one_line(error)
    assert len(between.requests(path)) == 1
    between.clear()
    await ask(client)


async def test_a_lost_reply_to_a_write_is_reported_and_the_write_not_repeated(
    scene: Scene, between: Proxy, client: QbittorrentClient
) -> None:
    scene.api.set_limit(scene.hashes, 0)
    sessions = client.sessions
    between.drop_reply("setUploadLimit", times=None)
    with pytest.raises(UnreachableError, match="closed without an answer") as error:
        await client.set_limit(scene.hashes, 8_765)
    one_line(error)
    assert len(between.requests("setUploadLimit")) == 1
    assert client.sessions > sessions
    between.clear()
    assert await client.limits(scene.hashes) == dict.fromkeys(scene.hashes, 8_765)


async def test_closing_ends_the_session_at_the_daemon(scene: Scene, between: Proxy) -> None:
    client = make_client(between.url, scene.daemon)
    await client.torrents()
    await client.close()
    assert [request.path for request in between.log][-1] == "/api/v2/auth/logout"
    assert between.wait_for("auth/logout")[-1].status in {200, 204}  # the proxy notes it after it passed it on


# API keys, since qBittorrent 5.2


@dataclass
class Keyed:
    daemon: Daemon
    key: str


@pytest.fixture(scope="module", params=["sid", "simulated sid"])
def keyed(request: pytest.FixtureRequest, module_daemon: Callable[..., Daemon]) -> Keyed:
    if request.param not in SIMULATED and (reason := unavailable_reason(request.param)):
        pytest.skip(reason)
    daemon = module_daemon(request.param)
    with daemon.api() as api:
        return Keyed(daemon, str(api.post("app/rotateAPIKey").json()["apiKey"]))


async def test_an_api_key_needs_no_login_and_ignores_netrc(
    keyed: Keyed,
    proxy: Callable[[Daemon], Proxy],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    disturb(monkeypatch, tmp_path)
    between = proxy(keyed.daemon)
    client = make_client(between.url, api_key=keyed.key)
    try:
        assert (await client.version()).app == keyed.daemon.full_version
        assert len(await client.torrents()) == 0
    finally:
        await client.close()
    assert [request.path for request in between.log if "/auth/" in request.path] == []


async def test_a_bad_api_key_is_tried_once_and_said_in_one_line(
    keyed: Keyed, proxy: Callable[[Daemon], Proxy], connect: Connect
) -> None:
    between = proxy(keyed.daemon)
    wrong = "qbt_" + "x" * 28
    client = connect(between.url, api_key=wrong)
    for _ in range(3):
        with pytest.raises(LoginRefusedError, match=r"refused the API key.*qbittorrent\.api_key") as error:
            await client.torrents()
        assert wrong not in one_line(error)
    assert len(between.log) == 1


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that no authority knows, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "certificate.pem", folder / "key.pem"
    words = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=qguard-test -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*words.split(), "-keyout", key, "-out", made], check=True, capture_output=True)
    return made, key


@asynccontextmanager
async def tls_front(daemon: Daemon, certificate: tuple[Path, Path]) -> AsyncIterator[str]:
    """A reverse proxy that only adds TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side went away
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside, outside = await asyncio.open_connection("127.0.0.1", daemon.port)
        await asyncio.gather(pump(reader, outside), pump(inside, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("trusted", [True, False], ids=["by its file", "by order"])
async def test_a_certificate_is_refused_unless_trusted(
    daemon: Callable[..., Daemon], connect: Connect, certificate: tuple[Path, Path], trusted: bool
) -> None:
    running = daemon("4.5", preferences={"WebUI\\HostHeaderValidation": False})
    async with tls_front(running, certificate) as url:
        stranger = connect(url, running)
        with pytest.raises(UnreachableError, match="TLS certificate cannot be verified") as error:
            await stranger.torrents()
        one_line(error)
        friend = make_client(url, running, verify_tls=str(certificate[0]) if trusted else False)
        try:
            assert (await friend.version()).app == running.full_version
        finally:
            await friend.close()

"""The instruments themselves, on each qBittorrent version: what they measure is true and what they break is broken."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support import children
from tests.support.daemon import Daemon, sweep_leftovers
from tests.support.proxy import Proxy
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed, wait_limit_stored, wait_seeding
from tests.support.tracker import Tracker
from tests.support.webapi import WebApi

COUNT = 12
DEMAND = 200_000
LIMIT = 100_000

pytestmark = pytest.mark.qbittorrent


@dataclass
class Scene:
    daemon: Daemon
    api: WebApi
    torrents: list[Torrent]

    @property
    def hashes(self) -> list[str]:
        return [torrent.infohash for torrent in self.torrents]


@pytest.fixture(scope="module")
def scene(daemon_version: str, module_daemon: Callable[..., Daemon]) -> Iterator[Scene]:
    daemon = module_daemon(daemon_version)
    with daemon.api() as api:
        torrents = make_torrents(COUNT, daemon.data)
        seed(daemon, api, torrents)
        yield Scene(daemon, api, torrents)


@pytest.fixture
def swarm(scene: Scene) -> Iterator[Swarm]:
    with Swarm(scene.daemon.bt_port) as leechers:
        for number, torrent in enumerate(scene.torrents):
            leechers.add(torrent, DEMAND, source=f"127.0.1.{number + 1}")
        leechers.wait_ready()
        yield leechers
    scene.api.set_limit(scene.hashes, 0)


def _measure(seconds: float) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(seconds)  # the length of the measurement itself
    return start, start + seconds


def test_leechers_hold_their_demand(swarm: Swarm) -> None:
    t0, t1 = _measure(8)
    assert swarm.rate(None, t0, t1) == pytest.approx(COUNT * DEMAND, rel=0.05)
    assert swarm.window_max(None, 2, t0, t1) < 1.15 * COUNT * DEMAND


def test_what_leechers_count_is_what_the_daemon_uploaded(scene: Scene, swarm: Swarm) -> None:
    swarm.set_demand(scene.hashes, 0)
    _measure(3)  # the daemon's counters follow within two refreshes of 1.5 s
    uploaded, received = sum(scene.api.uploaded().values()), swarm.total()
    swarm.set_demand(scene.hashes, DEMAND)
    _measure(3)
    swarm.set_demand(scene.hashes, 0)
    _measure(3)
    assert swarm.total() - received > COUNT * DEMAND
    assert sum(scene.api.uploaded().values()) - uploaded == pytest.approx(swarm.total() - received, rel=0.01)


def test_an_idle_swarm_receives_nothing_and_wakes_again(scene: Scene, swarm: Swarm) -> None:
    swarm.set_demand(scene.hashes, 0)
    _measure(1)
    before = swarm.total()
    _measure(2)
    assert swarm.total() == before
    swarm.set_demand(scene.hashes, DEMAND)
    swarm.wait_received(COUNT * DEMAND, timeout=5)


def test_a_limit_set_by_the_api_holds_the_rate_down(scene: Scene, swarm: Swarm) -> None:
    _measure(3)
    scene.api.set_limit(scene.hashes, LIMIT)
    _measure(4)  # quota granted at the old rate is still spent
    t0, t1 = _measure(10)
    assert swarm.rate(None, t0, t1) == pytest.approx(COUNT * LIMIT, rel=0.15)
    assert set(scene.api.limits().values()) == {LIMIT}


def test_leechers_come_back_after_the_daemon_was_killed(scene: Scene, swarm: Swarm) -> None:
    scene.api.set_limit(scene.hashes, 0)
    swarm.wait_received(COUNT * DEMAND)
    pid, version = scene.daemon.pid, scene.daemon.full_version
    scene.daemon.kill()
    scene.daemon.start()
    assert scene.daemon.pid != pid
    assert scene.daemon.full_version == version
    with scene.daemon.api() as api:
        wait_seeding(api, scene.hashes)
    swarm.wait_received(COUNT * DEMAND)
    assert swarm.failed() == {}
    scene.api.login(scene.daemon.username, scene.daemon.password)


def test_limits_outlive_a_stop(daemon_version: str, daemon: Callable[..., Daemon]) -> None:
    running = daemon()
    torrents = make_torrents(3, running.data)
    with running.api() as api:
        seed(running, api, torrents, up_limit=5_000, category="films", tags=["x", "y"])
        api.set_limit([torrents[0].infohash], 7_777)
        wait_limit_stored(running, torrents[0].infohash, 7_777)
        running.stop()
        running.start()
    with running.api() as api:
        wait_seeding(api, [torrent.infohash for torrent in torrents])
        assert api.limits() == {torrents[0].infohash: 7_777} | {one.infohash: 5_000 for one in torrents[1:]}
        assert {(row["category"], row["tags"]) for row in api.torrents().values()} == {("films", "x, y")}


def test_daemons_run_side_by_side_with_their_own_preferences(
    daemon_version: str, daemon: Callable[..., Daemon]
) -> None:
    first, second = daemon(preferences={"MaxUploads": 3}), daemon(bypass_auth=True)
    with first.api() as one, WebApi(second.url) as two:
        assert (one.preferences()["max_uploads"], two.preferences()["max_uploads"]) == (3, -1)
    with pytest.raises(httpx.HTTPStatusError), WebApi(first.url) as stranger:
        stranger.preferences()


def test_torrents_announce_to_their_tracker_with_a_passkey(
    daemon_version: str, daemon: Callable[..., Daemon], tracker: Tracker
) -> None:
    running = daemon()
    urls = [tracker.url("a", passkey="c0ffee"), tracker.url("b")]
    torrents = make_torrents(2, running.data, prefix=f"announced-{daemon_version}", tiers=[[url] for url in urls])
    tracker.allow(torrent.infohash for torrent in torrents)
    with running.api() as api:
        seed(running, api, torrents)
        deadline = time.monotonic() + 20
        while tracker.seeds(torrents[0].infohash) == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        rows = api.trackers(torrents[0].infohash)
    assert tracker.seeds(torrents[0].infohash) == 1
    assert [row["url"] for row in rows] == urls


def test_a_daemon_that_does_not_answer_says_why(daemon: Callable[..., Daemon]) -> None:
    running = daemon()
    running.stop()
    running.timeout = 2.0
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", running.port))
        with pytest.raises(
            RuntimeError, match=r"(?s)did not answer on http://127\.0\.0\.1:\d+ within 2 s.*Unable to bind"
        ):
            running.start()
    assert not running.running


@pytest.fixture
def witness(scene: Scene, proxy: Callable[[Daemon], Proxy]) -> Iterator[tuple[Proxy, WebApi]]:
    between = proxy(scene.daemon)
    with WebApi(between.url, scene.daemon.username, scene.daemon.password, timeout=2.0) as api:
        yield between, api


def test_the_proxy_records_the_limits_sent(scene: Scene, witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    api.set_limit(scene.hashes[:2], 4_000)
    api.set_limit(scene.hashes[2:3], 0)
    assert proxy.limits_sent() == [(frozenset(scene.hashes[:2]), "4000"), (frozenset(scene.hashes[2:3]), "0")]
    assert [request.status for request in proxy.wait_for("setUploadLimit", 2)] == [200, 200]
    assert scene.api.limits(scene.hashes[:2]) == dict.fromkeys(scene.hashes[:2], 4_000)


def test_an_injected_failure_reaches_the_client_and_not_the_daemon(scene: Scene, witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    scene.api.set_limit(scene.hashes, 0)
    proxy.fail_next("setUploadLimit", 500)
    with pytest.raises(httpx.HTTPStatusError, match="500"):
        api.set_limit(scene.hashes, 4_000)
    assert set(scene.api.limits().values()) == {0}
    api.set_limit(scene.hashes, 4_000)
    assert set(scene.api.limits().values()) == {4_000}


def test_a_dropped_reply_leaves_the_daemon_changed(scene: Scene, witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    proxy.drop_reply("setUploadLimit")
    with pytest.raises(httpx.RemoteProtocolError):
        api.set_limit(scene.hashes, 6_000)
    assert set(scene.api.limits().values()) == {6_000}


def test_a_truncated_answer_is_seen_as_such(witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    proxy.truncate("torrents/info")
    with pytest.raises(httpx.RemoteProtocolError):
        api.torrents()
    assert len(api.torrents()) == COUNT


def test_a_hanging_request_ends_by_the_clients_patience(witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    fault = proxy.hang("torrents/info")
    with pytest.raises(httpx.ReadTimeout):
        api.torrents()
    assert fault.hit.is_set()
    assert proxy.requests("torrents/info")[0].forwarded is False


def test_a_held_request_is_forwarded_when_released(scene: Scene, witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    api.set_limit(scene.hashes, 6_000)
    fault = proxy.hold("setUploadLimit")
    with pytest.raises(httpx.ReadTimeout):
        api.set_limit(scene.hashes, 8_000)
    fault.wait()
    assert set(scene.api.limits().values()) == {6_000}
    fault.release()
    proxy.wait_for("setUploadLimit", 2)
    assert set(scene.api.limits().values()) == {8_000}


def test_an_answer_is_rewritten(witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    fault = proxy.rewrite("torrents/info", lambda body: re.sub(rb'"upspeed":\d+', b'"upspeed":987654321', body))
    assert {row["upspeed"] for row in api.torrents().values()} == {987_654_321}
    fault.release()
    assert 987_654_321 not in {row["upspeed"] for row in api.torrents().values()}


def test_a_delayed_request_arrives_late(witness: tuple[Proxy, WebApi]) -> None:
    proxy, api = witness
    proxy.delay("app/version", 0.5)
    start = time.monotonic()
    api.version()
    assert time.monotonic() - start >= 0.5


def test_a_dead_daemon_closes_the_connection(daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy]) -> None:
    running = daemon()
    between = proxy(running)
    running.kill()
    with WebApi(between.url) as api, pytest.raises(httpx.RemoteProtocolError):
        api.version()
    assert [request.status for request in between.requests()] == [0]


def test_a_child_that_still_runs_is_named(daemon: Callable[..., Daemon]) -> None:
    running = daemon()
    assert any(str(running.pid) in line for line in children.leftovers())
    running.stop()
    assert not any("qbittorrent-nox" in line and str(running.port) in line for line in children.leftovers())


def test_what_a_killed_run_left_is_swept_and_nothing_else(daemon_version: str, daemon: Callable[..., Daemon]) -> None:
    own = daemon()
    dying = (
        "import os, sys; from tests.support.daemon import Daemon;"
        "print(Daemon(sys.argv[1]).pid, flush=True); os._exit(9)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", dying, daemon_version], cwd=root, env=environment, check=False, capture_output=True
    )
    assert run.returncode == 9, run.stderr.decode()
    orphan = Path("/proc", run.stdout.decode().strip(), "cmdline")
    assert b"qbittorrent-nox" in orphan.read_bytes()
    sweep_leftovers()
    assert not orphan.exists() or orphan.read_bytes() == b""  # empty: a zombie that init has not reaped yet
    with own.api() as api:
        assert api.version() == own.full_version

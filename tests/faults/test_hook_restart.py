"""A hook that was answered is not forgotten: not by a kill, not by a client that is away."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA, Seeds, Setup, sown, until
from tests.support.torrents import make_torrent, seed

pytestmark = pytest.mark.qbittorrent


@pytest.fixture
def seeds(daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(daemon) as seeds:
        yield seeds


@pytest.fixture
def setup(seeds: Seeds, tmp_path: Path) -> Setup:
    setup = Setup.of(tmp_path, seeds)
    setup.edit(poll_interval=300)  # no cycle comes by itself
    return setup


def test_a_kill_right_after_the_answer_loses_no_torrent(seeds: Seeds, setup: Setup) -> None:
    torrent = make_torrent("added-before-the-kill", seeds.daemon.data, tiers=[[f"http://{ALPHA}:9/announce"]])
    with setup.start() as service:
        listing = seeds.proxy.hold("torrents/info", times=None)
        seed(seeds.daemon, seeds.api, [torrent])
        assert service.http.post("/webhook", data={"event": "add", "hash": torrent.infohash}).status_code == 202
        listing.wait()
        service.kill()
    listing.release(forward=False)
    assert seeds.api.limits([torrent.infohash]) == {torrent.infohash: 0}
    with setup.start() as service:
        until(lambda: seeds.api.limits([torrent.infohash])[torrent.infohash] > 0, "the limit", 10.0)
        assert service.health()["problems"] == {}


def test_when_the_last_hook_came_is_known_after_a_kill(setup: Setup) -> None:
    with setup.start() as service:
        assert service.health()["last_hook_time"] is None
        assert service.http.post("/webhook", data={"event": "delete", "hash": "a" * 40}).status_code == 202
        came = service.health()["last_hook_time"]
        service.kill()
    checks = {check["topic"]: check["words"] for check in setup.command("doctor", "--json").json["checks"]}
    assert checks["last hook"].startswith("came ")
    with setup.start() as service:
        assert service.health()["last_hook_time"] == pytest.approx(came, abs=0.001), "a file's time is less exact"


def test_a_torrent_that_comes_after_the_restart_is_still_waited_for(seeds: Seeds, setup: Setup) -> None:
    torrent = make_torrent("added-after-the-start", seeds.daemon.data, tiers=[[f"http://{ALPHA}:9/announce"]])
    with setup.start() as service:
        assert service.http.post("/webhook", data={"event": "add", "hash": torrent.infohash}).status_code == 202
        service.kill()
    with setup.start():
        # Nothing but what was kept can lead to it: no hook comes, and the next cycle is minutes away.
        seed(seeds.daemon, seeds.api, [torrent])
        until(lambda: seeds.api.limits([torrent.infohash])[torrent.infohash] > 0, "the limit", 15.0)


def test_a_client_that_is_away_when_the_hook_comes_is_asked_again(seeds: Seeds, setup: Setup) -> None:
    torrent = make_torrent("added-while-away", seeds.daemon.data, tiers=[[f"http://{ALPHA}:9/announce"]])
    setup.edit(poll_interval=1)
    with setup.start() as service:
        seed(seeds.daemon, seeds.api, [torrent])
        fault = seeds.proxy.fail_next("torrents/info", 500, times=None)
        assert service.http.post("/webhook", data={"event": "add", "hash": torrent.infohash}).status_code == 202
        service.wait_degraded("client")
        fault.release()
        until(lambda: seeds.api.limits([torrent.infohash])[torrent.infohash] > 0, "the limit", 15.0)
        service.wait_healthy()

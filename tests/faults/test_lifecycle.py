"""Starting and ending, with and without a qBittorrent that answers."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA_CAP, BETA_CAP, Seeds, Setup, sown, until
from tests.support.torrents import wait_seeding

pytestmark = pytest.mark.qbittorrent

FEW_SECONDS = 8.0
"""Less than Docker waits before it kills."""

MORE_TRIES = 4
"""Seconds: the pause between two tries after at least two failures, when it is one second without any."""


@pytest.fixture(scope="module")
def planted(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon) as seeds:
        yield seeds


@pytest.fixture
def seeds(planted: Seeds) -> Seeds:
    planted.reset()
    return planted


@pytest.fixture
def setup(seeds: Seeds, tmp_path: Path) -> Setup:
    return Setup.of(tmp_path, seeds)


def test_a_client_that_is_down_at_the_start_and_goes_away_later_is_waited_for(seeds: Seeds, setup: Setup) -> None:
    daemon = seeds.daemon
    setup.config["qbittorrent"]["url"] = daemon.url
    setup.save()
    daemon.stop()
    try:
        with setup.start(wait=False) as service:
            assert "does not answer (connection refused)" in service.wait_degraded("client")
            service.wait_health(lambda health: health["update_interval"] >= MORE_TRIES, "more tries")
            assert len(service.logged("does not answer")) == 1
            start_again(seeds)
            service.wait_healthy()
            assert len(service.logged("connected to qBittorrent")) == 1

            daemon.kill()
            service.wait_degraded("client")
            alpha = service.http.get("/stats/trackers").json()["alpha"]
            assert (alpha["in_force"], "see client in /health" in str(alpha["not_in_force"])) == (False, True)
            service.wait_health(lambda health: health["update_interval"] >= MORE_TRIES, "more tries")
            assert len(service.logged("does not answer")) == 2
            start_again(seeds)
            service.wait_healthy()
            assert len(service.logged("qBittorrent answers again")) == 2
            seeds.wait_limits(seeds.limited)
            assert service.logged("Traceback") == []
    finally:
        start_again(seeds)


def start_again(seeds: Seeds) -> None:
    seeds.daemon.start()
    seeds.api.login(seeds.daemon.username, seeds.daemon.password)
    wait_seeding(seeds.api, seeds.hashes)


def test_a_wrong_password_is_tried_once(seeds: Seeds, setup: Setup) -> None:
    setup.config["qbittorrent"]["password"] = "wrong"
    setup.save()
    with setup.start(wait=False) as service:
        assert "refused the login of user 'qguard'" in service.wait_degraded("client")
        service.wait_health(lambda health: health["update_interval"] >= MORE_TRIES, "more turns")
        for _ in range(6):  # qBittorrent bans an address after five
            assert service.post("/cycle/force").json()["error"]["code"] == "login_refused"
        setup.command("preview").expect(4)
        assert len(service.logged("refused the login")) == 1
    assert [request.path for request in seeds.proxy.requests()] == ["/api/v2/auth/login"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(seeds: Seeds, setup: Setup, number: signal.Signals) -> None:
    with setup.start() as service:
        assert service.end(number, FEW_SECONDS) == 0
        assert len(service.logged("qguard has stopped")) == 1
        assert service.logged("Traceback") == []
    assert [request.path for request in seeds.proxy.requests("auth/logout")] == ["/api/v2/auth/logout"]
    assert not setup.database.with_name("ledger.db-wal").exists(), "the ledger was not closed"


@pytest.mark.parametrize("suffix", ["torrents/info", "torrents/setUploadLimit", "app/version"])
def test_a_signal_ends_it_while_a_request_hangs(seeds: Seeds, setup: Setup, suffix: str) -> None:
    setup.config["qbittorrent"]["timeout"] = 60
    setup.save()
    fault = seeds.proxy.hang(suffix, times=None)
    with setup.start(wait=False) as service:
        fault.wait()
        assert service.end(signal.SIGTERM, FEW_SECONDS) == 0
        assert service.logged("Traceback") == []
    fault.release()
    setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


def test_a_signal_ends_it_while_it_was_asked_for_something_that_hangs(seeds: Seeds, setup: Setup) -> None:
    setup.edit(poll_interval=3600)
    with setup.start() as service, ThreadPoolExecutor(1) as beside:
        fault = seeds.proxy.hang("torrents/info", times=None)
        asked = beside.submit(service.post, "/cycle/force")
        fault.wait()
        assert service.end(signal.SIGTERM, FEW_SECONDS) == 0
        answer = asked.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
        assert service.logged("Traceback") == []


def test_a_restore_at_the_end_that_is_not_possible_is_said_and_does_not_hold_up_the_end(
    seeds: Seeds, setup: Setup
) -> None:
    setup.edit(on_shutdown="restore")
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        fault = seeds.proxy.hang("torrents/info", times=None)
        fault.wait()
        assert service.end(signal.SIGTERM, FEW_SECONDS) == 0
        (line,) = service.logged("originals are not restored")
        assert "run `qguard rollback` when it is back" in line
    fault.release()
    setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


def test_a_fault_of_one_turn_does_not_end_the_loop(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        seeds.proxy.fail_next("torrents/info", 503)
        service.wait_degraded("client")
        setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
        service.wait_healthy()
        until(lambda: 524_288 in seeds.api.limits().values(), "limits under the new caps")


def test_health_answers_at_once_while_the_client_hangs(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        seeds.proxy.hang("torrents/info", times=None).wait()
        began = time.monotonic()
        assert service.health()["status"] in {"healthy", "degraded"}
        assert time.monotonic() - began < 1.0

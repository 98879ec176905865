"""I5: what somebody else set is theirs, and what only the client lost is not mistaken for it."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA, ALPHA_CAP, BETA_CAP, Seeds, Service, Setup, sown
from tests.support.torrents import wait_seeding

pytestmark = pytest.mark.qbittorrent

BY_HAND = 77_777
"""bytes/s that qguard never writes: its standing limits are powers of two."""


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


@pytest.fixture
def service(seeds: Seeds, setup: Setup) -> Iterator[Service]:
    """After its first cycle: every torrent has its limit of `LIMITS`."""
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        yield service


@pytest.fixture
def theirs(seeds: Seeds) -> str:
    """The torrent that somebody sets by hand."""
    return seeds.torrents[ALPHA][0].infohash


def follow(service: Service, factor: int) -> None:
    """Multiply both caps and let the limits follow."""
    service.setup.caps(ALPHA_CAP * factor, BETA_CAP * factor)
    service.reload()
    service.cycle()


def test_a_limit_set_by_hand_is_left_alone_and_listed_until_a_rollback_is_forced(
    seeds: Seeds, service: Service, theirs: str
) -> None:
    setup = service.setup
    seeds.api.set_limit([theirs], BY_HAND)
    service.cycle()
    service.wait_log(f"limit of {theirs} was changed by somebody else")
    follow(service, 8)
    assert seeds.api.limits()[theirs] == BY_HAND

    rolled_back = setup.command("rollback", "--yes", "--json").expect().json
    assert rolled_back["left_alone"] == [{"hash": theirs, "limit": BY_HAND, "original": 0}]
    assert seeds.api.limits() == seeds.originals | {theirs: BY_HAND}
    assert theirs in setup.command("rollback", "--yes").expect().out

    setup.command("rollback", "--yes", "--force").expect()
    assert seeds.api.limits() == seeds.originals
    assert str(BY_HAND) not in setup.originals.read_text()


def test_a_limit_set_by_hand_while_qguard_was_away_is_left_alone(seeds: Seeds, service: Service, theirs: str) -> None:
    service.kill()
    seeds.api.set_limit([theirs], BY_HAND)
    with service.setup.start() as again:
        follow(again, 8)
        assert seeds.api.limits()[theirs] == BY_HAND
        (left,) = service.setup.command("rollback", "--yes", "--json").expect().json["left_alone"]
    assert left == {"hash": theirs, "limit": BY_HAND, "original": 0}


def test_a_limit_set_by_hand_between_a_cycle_and_a_rollback_is_left_alone(
    seeds: Seeds, service: Service, theirs: str
) -> None:
    service.kill()
    seeds.api.set_limit([theirs], BY_HAND)
    (left,) = service.setup.command("rollback", "--yes", "--json").expect().json["left_alone"]
    assert left["hash"] == theirs
    assert seeds.api.limits() == seeds.originals | {theirs: BY_HAND}


def test_a_limit_set_by_hand_before_the_read_back_is_left_alone(seeds: Seeds, setup: Setup, theirs: str) -> None:
    fault = seeds.proxy.hold("torrents/uploadLimit")
    with setup.start(wait=False) as service:
        fault.wait()
        seeds.api.set_limit([theirs], BY_HAND)
        fault.release()
        service.wait_healthy()
        follow(service, 8)
        assert seeds.api.limits()[theirs] == BY_HAND


def test_a_torrent_set_by_hand_is_managed_again_when_it_is_resumed_and_keeps_its_first_original(
    seeds: Seeds, service: Service, theirs: str
) -> None:
    setup = service.setup
    seeds.api.set_limit([theirs], BY_HAND)
    service.cycle()
    setup.command("resume", "--foreign").expect()
    service.cycle()
    seeds.wait_limits(seeds.limited)
    setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


def test_reassert_writes_our_limit_again(seeds: Seeds, service: Service, theirs: str) -> None:
    service.setup.config["trackers"][0]["on_foreign_change"] = "reassert"
    service.setup.save()
    service.reload()
    seeds.api.set_limit([theirs], BY_HAND)
    service.cycle()
    assert seeds.api.limits() == seeds.limited
    service.setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


def test_alert_leaves_it_and_says_so(seeds: Seeds, service: Service, theirs: str) -> None:
    service.setup.config["trackers"][0]["on_foreign_change"] = "alert"
    service.setup.save()
    service.reload()
    seeds.api.set_limit([theirs], BY_HAND)
    service.cycle()
    assert "1 torrents were changed by somebody else" in service.wait_degraded("foreign changes")
    assert seeds.api.limits()[theirs] == BY_HAND


def test_limits_from_memory_are_not_taken_for_somebodys(seeds: Seeds, setup: Setup) -> None:
    """After a slow full listing only active torrents are listed for a while; the others are known from before."""
    seeds.proxy.delay("torrents/info", 0.5)
    with setup.start() as service:
        seeds.proxy.wait_for("torrents/info", 3)
        assert [request.form().get("filter") for request in seeds.proxy.requests("torrents/info")][1:] == ["active"] * 2
        setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
        service.wait_changes(2)
        assert service.logged("somebody else") == []
        assert setup.command("rollback", "--yes", "--json").expect().json["left_alone"] == []
    assert seeds.api.limits() == seeds.originals


@pytest.mark.parametrize(
    ("qguard_too", "earlier"),
    [
        pytest.param(False, False, id="the client, which has the originals again"),
        pytest.param(False, True, id="the client, which has earlier limits of ours again"),
        pytest.param(True, False, id="both, and the client has the originals again"),
    ],
)
def test_limits_that_the_client_lost_when_it_was_killed_are_set_again(
    seeds: Seeds, setup: Setup, tmp_path: Path, qguard_too: bool, earlier: bool
) -> None:
    if earlier:
        with setup.start() as first:
            seeds.wait_limits(seeds.limited)
            first.stop()
    stored = keep_what_is_stored(seeds, tmp_path / "stored")
    with setup.start() as service:
        follow(service, 8)
        wanted = seeds.api.limits()
        # Meanwhile it must not set them again, or what the client found could not be seen.
        if qguard_too:
            service.kill()
        else:
            os.kill(service.pid, signal.SIGSTOP)
        kill_and_bring_back(seeds, stored)
        assert seeds.api.limits() == (seeds.limited if earlier else seeds.originals)
        if not qguard_too:
            os.kill(service.pid, signal.SIGCONT)
        with setup.start() if qguard_too else service as present:
            seeds.wait_limits(wanted)
            assert present.logged("somebody else") == []
            assert setup.command("rollback", "--yes", "--json").expect().json["left_alone"] == []
    assert seeds.api.limits() == seeds.originals


def keep_what_is_stored(seeds: Seeds, folder: Path) -> Path:
    """Stop the client, which makes it store everything, copy that, and start it again."""
    seeds.daemon.stop()
    shutil.copytree(seeds.daemon.backup, folder)
    start_again(seeds)
    return folder


def kill_and_bring_back(seeds: Seeds, stored: Path) -> None:
    """Kill the client, and let it find what it had stored some time ago."""
    seeds.daemon.kill()
    shutil.copytree(stored, seeds.daemon.backup, dirs_exist_ok=True)
    start_again(seeds)


def start_again(seeds: Seeds) -> None:
    seeds.daemon.start()
    seeds.api.login(seeds.daemon.username, seeds.daemon.password)
    wait_seeding(seeds.api, seeds.hashes)

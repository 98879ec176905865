"""I5: whatever happened in between, a rollback brings back what each torrent had before qguard first touched it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA_CAP, BETA_CAP, Seeds, Service, Setup, sown, until
from tests.support.proxy import Fault, Proxy

pytestmark = pytest.mark.qbittorrent

CAPS = [(ALPHA_CAP * 8, BETA_CAP // 8), (ALPHA_CAP // 8, BETA_CAP * 8), (ALPHA_CAP * 64, BETA_CAP)]
"""Each moves every standing limit by more than the factor of two that is let pass."""

RESTORE_SCRIPT = Path(__file__).parents[2] / "scripts/restore-originals.sh"


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


def follow(service: Service, caps: tuple[int, int]) -> None:
    """Change the caps and wait until the limits have followed."""
    service.setup.caps(*caps)
    service.reload()
    service.cycle()


def at_the_first_call(proxy: Proxy) -> Fault:
    return proxy.hold("torrents/setUploadLimit")


def at_the_second_call(proxy: Proxy) -> Fault:
    proxy.delay("torrents/setUploadLimit", 0)
    return proxy.hold("torrents/setUploadLimit")


def at_the_read_back(proxy: Proxy) -> Fault:
    return proxy.hold("torrents/uploadLimit")


MOMENTS = [
    pytest.param(at_the_first_call, False, id="recorded, and nothing was sent"),
    pytest.param(at_the_first_call, True, id="recorded, and the first call arrived after the end"),
    pytest.param(at_the_second_call, False, id="half of the calls were sent"),
    pytest.param(at_the_read_back, False, id="all was sent and not read back"),
]


@pytest.mark.parametrize(("moment", "arrives_late"), MOMENTS)
def test_a_kill_in_the_first_cycle(
    seeds: Seeds, setup: Setup, moment: Callable[[Proxy], Fault], arrives_late: bool
) -> None:
    fault = moment(seeds.proxy)
    with setup.start(wait=False) as service:
        fault.wait()
        service.kill()
    fault.release(forward=arrives_late)
    if arrives_late:
        until(lambda: seeds.api.limits() != seeds.originals, "the late call at the client")
    setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


@pytest.mark.parametrize(("moment", "arrives_late"), MOMENTS)
def test_a_kill_after_several_changes(
    seeds: Seeds, setup: Setup, moment: Callable[[Proxy], Fault], arrives_late: bool
) -> None:
    with setup.start() as service:
        for caps in CAPS[:2]:
            follow(service, caps)
        before = seeds.api.limits()
        fault = moment(seeds.proxy)
        setup.caps(*CAPS[2])
        fault.wait()
        service.kill()
    fault.release(forward=arrives_late)
    if arrives_late:
        until(lambda: seeds.api.limits() != before, "the late call at the client")
    with setup.start() as again:
        again.cycle()
        assert seeds.api.limits() not in (before, seeds.originals), "it did not take up its work again"
        again.wait_healthy()
        rolled_back = setup.command("rollback", "--yes", "--json").expect().json
    assert (rolled_back["status"], rolled_back["left_alone"]) == ("completed", [])
    assert seeds.api.limits() == seeds.originals


def test_a_rollback_that_was_killed_half_way_is_finished_by_the_next(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        follow(service, CAPS[0])
        fault = at_the_second_call(seeds.proxy)
        with subprocess.Popen(
            [setup.executable, "rollback", "--yes", "--config", setup.path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as asking:
            fault.wait()
            service.kill()
            assert asking.stderr is not None
            assert b"does not answer" in asking.stderr.read()
        assert asking.returncode == 1
    fault.release(forward=False)
    assert seeds.api.limits() != seeds.originals
    with setup.start() as again:
        assert again.cycle()["changed"] == 0, "what was to be rolled back was written again"
        setup.command("rollback", "--yes").expect()
        assert seeds.api.limits() == seeds.originals


def test_a_lost_ledger_is_made_good_by_the_script_from_the_plain_file(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        for caps in CAPS:
            follow(service, caps)
        service.stop()
    lose_the_ledger(setup)
    assert seeds.api.limits() != seeds.originals
    done = subprocess.run(
        ["/bin/sh", RESTORE_SCRIPT, seeds.daemon.url, setup.originals],
        env={"PATH": os.environ["PATH"], "QB_USER": seeds.daemon.username, "QB_PASS": seeds.daemon.password},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert seeds.api.limits() == seeds.originals


def test_a_lost_ledger_stops_all_writing_until_the_originals_are_adopted(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        follow(service, CAPS[0])
        service.stop()
    lose_the_ledger(setup)
    sent = seeds.proxy.limits_sent()
    setup.caps(*CAPS[1])
    with setup.start() as service:
        assert f"qguard adopt --originals {setup.originals}" in service.wait_degraded("writing")
        assert service.cycle()["observe_only"]
        assert seeds.proxy.limits_sent() == sent
        setup.command("adopt", "--yes", "--originals", str(setup.originals)).expect()
        service.wait_healthy()
        service.cycle()
        assert len(seeds.proxy.limits_sent()) > len(sent)
        setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


@pytest.mark.parametrize(("choice", "original"), [("as-is", 7_777), ("unlimited", 0)])
def test_limits_of_unknown_origin_are_left_until_somebody_says_what_they_are(
    seeds: Seeds, setup: Setup, choice: str, original: int
) -> None:
    seeds.api.set_limit(seeds.hashes, 7_777)
    with setup.start() as service:
        assert "12 of 12 torrents have a limit that qguard did not set" in service.wait_degraded("writing")
        assert seeds.proxy.limits_sent() == []
        setup.command("adopt", "--yes", "--originals", choice).expect()
        service.wait_healthy()
        service.cycle()
        assert set(seeds.api.limits().values()) != {7_777}
        setup.command("rollback", "--yes").expect()
    touched = {name for name, limit in seeds.limited.items() if name not in rest(seeds)}
    assert {name: seeds.api.limits()[name] for name in touched} == dict.fromkeys(touched, original)


def rest(seeds: Seeds) -> set[str]:
    """Torrents of the rule without a cap: never written while their tracker is not."""
    return {torrent.infohash for torrent in list(seeds.torrents.values())[-1]}


def lose_the_ledger(setup: Setup) -> None:
    for name in ("", "-wal", "-shm"):
        setup.database.with_name(setup.database.name + name).unlink(missing_ok=True)
    assert not setup.database.exists()


def test_a_clean_stop_restores_when_it_is_told_to_and_the_next_start_begins_again(seeds: Seeds, setup: Setup) -> None:
    setup.edit(on_shutdown="restore")
    with setup.start() as service:
        follow(service, CAPS[0])
        assert service.stop() == 0
    assert seeds.api.limits() == seeds.originals
    with setup.start() as again:
        again.cycle()
        assert seeds.api.limits() != seeds.originals
        assert again.stop() == 0
    assert seeds.api.limits() == seeds.originals


def test_a_clean_stop_keeps_the_limits_by_default(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        assert service.stop() == 0
    assert seeds.api.limits() == seeds.limited


def test_what_was_rolled_back_stays_alone_over_restarts_until_resumed(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        setup.command("rollback", "--yes").expect()
        service.kill()
    with setup.start() as again:
        assert again.health()["paused"] == ["*"]
        assert again.cycle()["changed"] == 0
        assert seeds.api.limits() == seeds.originals
        setup.command("resume").expect()
        again.cycle()
        assert seeds.api.limits() == seeds.limited


def test_a_pause_survives_a_restart(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        setup.command("pause", "--tracker", "alpha").expect()
        service.kill()
    setup.caps(*CAPS[0])
    with setup.start() as again:
        again.cycle()
        limits = seeds.api.limits()
    paused = {torrent.infohash for torrent in seeds.torrents["127.0.11.1"]}
    unchanged = {name for name in seeds.hashes if limits[name] == seeds.limited[name]}
    assert unchanged == paused | rest(seeds)


def test_a_torrent_that_was_deleted_and_added_again_is_a_new_one(seeds: Seeds, setup: Setup) -> None:
    torrent = seeds.torrents["127.0.11.1"][0]
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        seeds.replant(torrent, limit=54_321)
        service.cycle()
        seeds.wait_limits(seeds.limited)
        setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals | {torrent.infohash: 54_321}

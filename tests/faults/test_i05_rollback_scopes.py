"""I5: a rollback undoes what it was asked to undo, no less and no more."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA, ALPHA_CAP, BETA, BETA_CAP, LIMITS, REST, Seeds, Service, Setup, sown
from tests.support.torrents import seed

pytestmark = pytest.mark.qbittorrent


@pytest.fixture(scope="module")
def planted(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon) as seeds:
        yield seeds


@pytest.fixture
def seeds(planted: Seeds) -> Seeds:
    planted.reset()
    return planted


@pytest.fixture
def service(seeds: Seeds, tmp_path: Path) -> Iterator[Service]:
    """After its first cycle: every torrent has its limit of `LIMITS`."""
    with Setup.of(tmp_path, seeds).start() as service:
        seeds.wait_limits(seeds.limited)
        yield service


def change(service: Service, factor: int) -> Mapping[str, Any]:
    """Multiply both caps and let the limits follow; the action as the ledger tells it."""
    setup = service.setup
    setup.caps(ALPHA_CAP * factor, BETA_CAP * factor)
    service.reload()
    service.cycle()
    actions = setup.command("ledger", "--json").expect().json["cycles"]
    return dict(next(action for action in actions if action["kind"] == "cycle"))


def mixed(seeds: Seeds, now: Mapping[str, int], originals_of: str) -> dict[str, int]:
    """Limits as they are, but for one tracker with its originals."""
    back = {torrent.infohash for torrent in seeds.torrents[originals_of]}
    return {name: seeds.originals[name] if name in back else limit for name, limit in now.items()}


def test_one_tracker_goes_back_and_stays_alone_and_the_other_is_still_kept_within_its_cap(
    seeds: Seeds, service: Service
) -> None:
    change(service, 8)
    service.setup.command("rollback", "--yes", "--tracker", "alpha").expect()
    expected = mixed(seeds, seeds.of({**LIMITS, BETA: (524_288, 524_288, 524_288, 524_288, 300_000)}), ALPHA)
    assert seeds.api.limits() == expected
    change(service, 1)
    assert seeds.api.limits() == mixed(seeds, seeds.limited, ALPHA)
    assert service.health()["paused"] == ["alpha"]


def test_a_cycle_and_what_came_after_it_is_undone_to_the_values_before(seeds: Seeds, service: Service) -> None:
    change(service, 8)
    between = seeds.api.limits()
    undone = change(service, 1)
    change(service, 64)
    rolled_back = service.setup.command("rollback", "--yes", "--json", "--cycle", str(undone["id"])).expect().json
    assert seeds.api.limits() == between
    assert (rolled_back["status"], rolled_back["paused"]) == ("completed", "torrents")
    service.setup.command("rollback", "--yes").expect()
    assert seeds.api.limits() == seeds.originals


def test_everything_since_a_time_is_undone_to_the_values_then(seeds: Seeds, service: Service) -> None:
    change(service, 8)
    between = seeds.api.limits()
    undone = change(service, 1)
    change(service, 64)
    service.setup.command("rollback", "--yes", "--since", str(undone["at"])).expect()
    assert seeds.api.limits() == between


def test_a_dry_run_says_what_would_be_put_back_and_does_nothing(seeds: Seeds, service: Service) -> None:
    sent = seeds.proxy.limits_sent()
    changed = sum(limit != seeds.originals[name] for name, limit in seeds.limited.items())
    shown = service.setup.command("rollback", "--dry-run", "--json").expect().json
    assert (shown["status"], shown["changes_reversed"], shown["cycle"]) == ("dry-run", changed, None)
    assert f"{changed} limits would be put back" in service.setup.command("rollback", "--dry-run").expect().out
    assert seeds.proxy.limits_sent() == sent
    assert service.health()["paused"] == []


def test_a_second_rollback_has_nothing_left_to_do(seeds: Seeds, service: Service) -> None:
    service.setup.command("rollback", "--yes").expect()
    again = service.setup.command("rollback", "--yes", "--json").expect().json
    assert (again["status"], again["changes_reversed"], again["left_alone"]) == ("completed", 0, [])
    assert seeds.api.limits() == seeds.originals


def test_a_torrent_that_is_gone_is_counted_and_the_others_are_restored(seeds: Seeds, service: Service) -> None:
    gone = seeds.torrents[BETA][0]
    seeds.api.delete([gone.infohash])
    try:
        rolled_back = service.setup.command("rollback", "--yes", "--json").expect().json
        assert (rolled_back["status"], rolled_back["gone"]) == ("completed", 1)
        expected = {name: limit for name, limit in seeds.originals.items() if name != gone.infohash}
        assert seeds.api.limits() == expected
    finally:
        seed(seeds.daemon, seeds.api, [gone])


def test_a_torrent_without_a_cap_was_never_written_and_is_not_by_a_rollback(seeds: Seeds, service: Service) -> None:
    change(service, 8)
    service.setup.command("rollback", "--yes").expect()
    uncapped = {torrent.infohash for torrent in seeds.torrents[REST]}
    assert all(not (hashes & uncapped) for hashes, _ in seeds.proxy.limits_sent())

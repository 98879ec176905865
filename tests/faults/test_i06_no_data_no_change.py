"""I6: from a failed, partial or implausible reading nothing is concluded: nothing is written, nothing forgotten."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA, ALPHA_CAP, BETA_CAP, Seeds, Service, Setup, sown
from tests.support.proxy import Fault, Proxy
from tests.support.torrents import seed

pytestmark = pytest.mark.qbittorrent

LISTING = "torrents/info"

COPIES = 2
"""A loss of up to ten torrents is believed without a second look, so half of these must be more than that."""


@pytest.fixture(scope="module")
def planted(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon, copies=COPIES) as seeds:
        yield seeds


@pytest.fixture
def seeds(planted: Seeds) -> Seeds:
    planted.reset()
    return planted


@pytest.fixture
def setup(seeds: Seeds, tmp_path: Path) -> Setup:
    setup = Setup.of(tmp_path, seeds)
    setup.config["qbittorrent"]["timeout"] = 1
    setup.caps(ALPHA_CAP * COPIES, BETA_CAP * COPIES)  # twice as many sleepers share a part of it
    return setup


@pytest.fixture
def service(seeds: Seeds, setup: Setup) -> Iterator[Service]:
    """After its first cycle: every torrent has its limit of `LIMITS`."""
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        yield service


def rows(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Callable[[Proxy], Fault]:
    """Answer full listings with other rows than there are; those of active torrents are empty here."""

    def changed(body: bytes) -> bytes:
        listed = json.loads(body)
        return json.dumps(change(listed) if listed else []).encode()

    return lambda proxy: proxy.rewrite(LISTING, changed)


BAD_READINGS: dict[str, tuple[Callable[[Proxy], Fault], str]] = {
    "an error status": (lambda proxy: proxy.fail_next(LISTING, 500, times=None), "answered 500"),
    "no answer": (lambda proxy: proxy.hang(LISTING, times=None), "does not answer (no answer in time)"),
    "half of an answer": (lambda proxy: proxy.truncate(LISTING, times=None), "broke off"),
    "cut JSON": (lambda proxy: proxy.rewrite(LISTING, lambda body: body[:-20]), "torrents/info cannot be read"),
    "another program's page": (
        lambda proxy: proxy.rewrite(LISTING, lambda _: b"<html>"),
        "torrents/info cannot be read",
    ),
    "an empty listing": (rows(lambda _: []), "listed 0 torrents in one way and 24 in another"),
    "half of the torrents": (rows(lambda all_: all_[::2]), "listed 12 torrents in one way and 24 in another"),
    "a bad info-hash": (rows(lambda all_: [{**all_[0], "hash": "x" * 40}, *all_[1:]]), "without a proper info-hash"),
    "a torrent twice": (rows(lambda all_: [*all_, all_[0]]), "listed the same torrent twice"),
    "a limit that is text": (rows(lambda all_: [{**all_[0], "up_limit": "0"}, *all_[1:]]), "cannot be read"),
}

bad_readings = pytest.mark.parametrize(("spoil", "reason"), BAD_READINGS.values(), ids=BAD_READINGS.keys())


@bad_readings
def test_a_bad_reading_changes_nothing_and_is_told_and_then_all_is_as_before(
    seeds: Seeds, service: Service, spoil: Callable[[Proxy], Fault], reason: str
) -> None:
    sent = seeds.proxy.limits_sent()
    fault = spoil(seeds.proxy)
    refused = service.post("/cycle/force")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "client_unavailable")
    assert reason in refused.json()["error"]["message"]
    service.setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
    assert reason in service.wait_degraded("client")
    assert seeds.proxy.limits_sent() == sent
    assert seeds.api.limits() == seeds.limited

    fault.release()
    service.cycle()
    service.wait_healthy()
    assert seeds.api.limits() != seeds.limited
    assert service.logged("somebody else") == []
    assert len(service.logged(reason)) == 1
    service.roll_back()
    assert seeds.api.limits() == seeds.originals


@pytest.mark.parametrize("reading", ["an empty listing", "half of an answer", "a bad info-hash"])
def test_a_bad_first_reading_writes_nothing(seeds: Seeds, setup: Setup, reading: str) -> None:
    spoil, reason = BAD_READINGS[reading]
    fault = spoil(seeds.proxy)
    with setup.start(wait=False) as service:
        assert reason in service.wait_degraded("client")
        assert seeds.proxy.limits_sent() == []
        fault.release()
        seeds.wait_limits(seeds.limited)
        service.wait_healthy()


@pytest.mark.parametrize("kind", ["fail", "hang", "truncate"])
def test_a_failed_second_look_confirms_nothing(seeds: Seeds, service: Service, kind: str) -> None:
    sent = seeds.proxy.limits_sent()
    listing = rows(lambda _: [])(seeds.proxy)
    second = {
        "fail": lambda: seeds.proxy.fail_next("sync/maindata", 500, times=None),
        "hang": lambda: seeds.proxy.hang("sync/maindata", times=None),
        "truncate": lambda: seeds.proxy.truncate("sync/maindata", times=None),
    }[kind]()
    assert service.post("/cycle/force").status_code == 503
    listing.release()
    second.release()
    assert service.cycle()["changed"] == 0
    assert seeds.proxy.limits_sent() == sent


def test_a_client_without_torrents_is_healthy_and_forgets_nothing(seeds: Seeds, service: Service) -> None:
    known = service.setup.originals.read_text()
    torrents = [torrent for group in seeds.torrents.values() for torrent in group]
    seeds.api.delete(seeds.hashes)
    try:
        assert service.cycle()["changed"] == 0
        service.wait_healthy()
        assert service.setup.originals.read_text() == known
    finally:
        seed(seeds.daemon, seeds.api, torrents)


def test_a_start_on_a_client_without_torrents_is_healthy(
    daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], tmp_path: Path
) -> None:
    empty = daemon("4.5")
    between = proxy(empty)
    setup = Setup(tmp_path, between.url, username=empty.username, password=empty.password)
    with setup.start() as service:
        assert service.health()["status"] == "healthy"
        assert between.requests("sync/maindata") != []
        assert between.limits_sent() == []


def test_a_torrent_deleted_before_the_write_harms_no_other(seeds: Seeds, service: Service) -> None:
    gone = seeds.torrents[ALPHA][0]
    fault = seeds.proxy.hold("torrents/setUploadLimit")
    service.setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
    fault.wait()
    seeds.api.delete([gone.infohash])
    try:
        fault.release()
        service.wait_changes(2)
        service.wait_healthy()
        assert service.cycle()["changed"] == 0
        limits = seeds.api.limits()
        assert limits.keys() == set(seeds.hashes) - {gone.infohash}
        assert not {4_096, 65_536} & set(limits.values()), "not all of the others have followed"
        service.roll_back()
        assert seeds.api.limits() == {name: seeds.originals[name] for name in limits}
    finally:
        seed(seeds.daemon, seeds.api, [gone])


def test_a_failed_write_is_finished_by_the_next_cycle(seeds: Seeds, service: Service) -> None:
    seeds.proxy.fail_next("torrents/setUploadLimit", 500)
    service.setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
    assert "answered 500" in service.wait_degraded("client")
    service.wait_healthy()
    assert service.cycle()["changed"] == 0
    assert 65_536 not in seeds.api.limits().values()
    assert service.logged("somebody else") == []
    service.roll_back()
    assert seeds.api.limits() == seeds.originals


def test_a_write_whose_answer_was_lost_counts_as_ours(seeds: Seeds, service: Service) -> None:
    seeds.proxy.drop_reply("torrents/setUploadLimit")
    service.setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
    service.wait_degraded("client")
    service.wait_healthy()
    assert service.logged("somebody else") == []
    service.roll_back()
    assert seeds.api.limits() == seeds.originals

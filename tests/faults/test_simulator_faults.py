"""Each fault of the simulator comes to pass, ends when it should, and is met by qguard as its promises say."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from qguard.config import load
from qguard.cycle import Memory
from qguard.ledger import Ledger
from qguard.observe import ImplausibleError
from qguard.qbittorrent.client import Address, QbittorrentClient
from qguard.qbittorrent.errors import BadAnswerError, ClientError, LoginRefusedError, UnreachableError
from qguard.service import Service
from qguard.simulator.faults import PATH, WORDS, Fault, FaultError, Faults, FaultyApp, Kind
from qguard.simulator.scenes import SCENES
from qguard.simulator.webapi import make_app
from qguard.simulator.webui import WebUi
from tests.support.running import configuration
from tests.support.simulated import SimulatedDaemon

TIMEOUT = 1.0
CAPS = {"tracker0.example": 1_000_000, "tracker1.example": 2_000_000}
TRACKERS = [
    *({"id": host[:8], "match": [host], "max_upload_speed": cap} for host, cap in CAPS.items()),
    {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
]
BEFORE = 30.0
"""Seconds for which the client has run: enough for its counters to tell one session from the next."""


@pytest.fixture
def daemon() -> Iterator[SimulatedDaemon]:
    stage = SCENES["all-hot"].stage(list(CAPS.values()), torrents=40, seed=5)
    stage.client.advance(BEFORE)
    with SimulatedDaemon("simulated 5.1", client=stage.client, announces=False) as daemon:
        yield daemon


@pytest.fixture
async def client(daemon: SimulatedDaemon) -> AsyncIterator[QbittorrentClient]:
    made = QbittorrentClient(Address(daemon.url, daemon.username, daemon.password, timeout=TIMEOUT))
    await made.torrents()
    yield made
    await made.close()


@pytest.fixture
async def service(daemon: SimulatedDaemon, tmp_path: Path) -> AsyncIterator[Service]:
    """Before its first cycle."""
    path = tmp_path / "qguard.yaml"
    login = (daemon.username, daemon.password)
    keys = {"rollout_percentage": 100}
    text = configuration(tmp_path / "ledger.db", daemon.url, trackers=TRACKERS, login=login, keys=keys)
    path.write_text(text.replace('"username"', f'"timeout": {TIMEOUT:.0f}, "username"'))
    loaded = load(path)
    made = Service(loaded, await Ledger.open(loaded.settings.rollback.database_path))
    yield made
    await made.close()


@pytest.fixture
def control(daemon: SimulatedDaemon) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=daemon.url, trust_env=False) as http:
        yield http


async def begin(daemon: SimulatedDaemon, kind: Kind, **more: Any) -> None:
    def work() -> None:
        daemon.faults.begin(Fault(kind=kind, **more))

    await asyncio.to_thread(daemon.do, work)


async def cycle(service: Service) -> Any:
    return await service.cycle(who="test", reason="")


def limits(daemon: SimulatedDaemon) -> list[int]:
    return [int(limit) for limit in daemon.client.plant.limit]


def held(service: Service) -> int:
    return sum(bool(claim.hold) for claim in service.ledger.claims.values())


def listed(service: Service) -> int:
    assert service._memory.reading is not None
    return len(service._memory.reading.torrents)


def sums_fit(daemon: SimulatedDaemon) -> bool:
    """Whether the limits of what uploads now fit each cap."""
    awake = daemon.client.seen.upspeed > 0
    for host, cap in CAPS.items():
        mine = np.array([host in torrent.announce[0] for torrent in daemon.client.torrents])
        if (daemon.client.plant.limit[mine & awake] == 0).any() or daemon.client.plant.limit[mine & awake].sum() > cap:
            return False
    return True


# Requests


READINGS: dict[str, tuple[dict[str, Any], type[ClientError], str]] = {
    "slow": ({"kind": "slow", "delay": TIMEOUT * 2}, UnreachableError, "no answer in time"),
    "500": ({"kind": "status", "status": 500}, BadAnswerError, "answered 500"),
    "404": ({"kind": "status", "status": 404}, BadAnswerError, "answered 404"),
    "lost": ({"kind": "lost-reply"}, UnreachableError, "connection closed without an answer"),
    "truncated": ({"kind": "truncated"}, BadAnswerError, "broke off"),
    "garbled": ({"kind": "garbled"}, BadAnswerError, "cannot be read"),
}


@pytest.mark.parametrize("name", READINGS)
async def test_a_reading_fails_as_often_as_the_fault_is_for_and_then_goes_through(
    daemon: SimulatedDaemon, client: QbittorrentClient, name: str
) -> None:
    words, error, reason = READINGS[name]
    await begin(daemon, **words, path="torrents/info", count=2)
    for _ in range(2):
        assert (await client.transfer()).up_rate_limit == 0  # other paths are as always
        with pytest.raises(error, match=reason):
            await client.torrents()
    assert len(await client.torrents()) == 40
    assert daemon.faults.met == {words["kind"]: 2}
    assert daemon.faults.present() == []


@pytest.mark.parametrize("name", READINGS)
async def test_no_bad_reading_makes_qguard_write(daemon: SimulatedDaemon, service: Service, name: str) -> None:
    words, _, reason = READINGS[name]
    await begin(daemon, **words, path="torrents/info", count=1)
    await service.turn()
    assert reason in service.problems["client"]
    assert limits(daemon) == [0] * 40
    await service.turn()
    assert service.problems == {}
    assert sums_fit(daemon)


async def test_a_session_that_ends_in_the_middle_of_a_cycle_costs_a_login_and_nothing_else(
    daemon: SimulatedDaemon, service: Service
) -> None:
    other = await asyncio.to_thread(daemon.api)
    await begin(daemon, "logged-out", path="setUploadLimit")
    done = await cycle(service)
    with other, pytest.raises(httpx.HTTPStatusError, match="403"):
        await asyncio.to_thread(other.version)
    assert done.applied == done.changed == 40
    assert daemon.faults.met == {"logged-out": 1}
    assert sums_fit(daemon)
    assert service.problems == {}


async def test_a_write_whose_answer_is_lost_has_been_done_and_counts_as_ours(
    daemon: SimulatedDaemon, service: Service
) -> None:
    await begin(daemon, "lost-reply", path="setUploadLimit")
    await service.turn()
    assert "client" in service.problems
    assert any(limits(daemon))
    await service.turn()
    assert (service.problems, held(service)) == ({}, 0)
    assert sums_fit(daemon)


async def test_torrents_that_vanish_from_one_listing_are_not_believed_and_from_all_they_are(
    daemon: SimulatedDaemon, service: Service
) -> None:
    await cycle(service)
    before = limits(daemon)
    await begin(daemon, "vanish", path="torrents/info", share=0.9, count=3)
    service._memory = Memory()  # a full listing next
    with pytest.raises(ImplausibleError, match="in one way and 40 in another"):
        await cycle(service)
    assert limits(daemon) == before
    await asyncio.to_thread(daemon.do, daemon.faults.clear)
    await begin(daemon, "vanish", share=0.9, count=None, seconds=60)
    service._memory = Memory()
    await cycle(service)
    assert 0 < listed(service) < 10
    assert len(service.ledger.claims) == 40
    await asyncio.to_thread(daemon.do, daemon.faults.clear)
    service._memory = Memory()
    await cycle(service)
    assert listed(service) == 40
    assert held(service) == 0


# The client itself


async def test_a_restart_ends_sessions_loses_limits_and_is_not_taken_for_somebodys_hand(
    daemon: SimulatedDaemon, service: Service
) -> None:
    await cycle(service)
    await begin(daemon, "restart", share=1.0, seconds=0.5)
    assert limits(daemon) == [0] * 40
    assert int(daemon.client.session.sum()) == 0
    await service.turn()
    assert "client" in service.problems
    await asyncio.sleep(0.6)  # the half second for which it is away
    await service.turn()
    assert (service.problems, held(service)) == ({}, 0)
    assert sums_fit(daemon)


async def test_a_restart_without_a_loss_keeps_what_was_saved(
    daemon: SimulatedDaemon, client: QbittorrentClient
) -> None:
    await client.set_limit([daemon.client.torrents[0].infohash], 4_321)
    sessions = client.sessions
    await begin(daemon, "restart", share=0.0, seconds=0.01)
    await asyncio.sleep(0.05)
    assert (await client.torrents()).up_limit.max() == 4_321
    assert client.sessions > sessions


async def test_a_banned_client_asks_once_and_no_more(daemon: SimulatedDaemon, client: QbittorrentClient) -> None:
    await begin(daemon, "ban", seconds=1.0)
    for _ in range(3):
        with pytest.raises(LoginRefusedError, match="banned"):
            await client.torrents()
    with pytest.raises(PermissionError, match="403"):
        await asyncio.to_thread(daemon.api)
    await asyncio.sleep(1.1)  # the ban
    fresh = QbittorrentClient(Address(daemon.url, daemon.username, daemon.password, timeout=TIMEOUT))
    assert len(await fresh.torrents()) == 40
    await fresh.close()


async def test_what_a_second_tool_writes_is_left_alone(daemon: SimulatedDaemon, service: Service) -> None:
    await cycle(service)
    await begin(daemon, "second-tool", share=0.5, limit=77_777, count=2, delay=0.3)
    deadline = time.monotonic() + 20
    while daemon.faults.met.get("second-tool", 0) < 2:
        assert time.monotonic() < deadline, "the second tool did not write twice within 20 s"
        await asyncio.sleep(0.02)
    theirs = limits(daemon).count(77_777)
    assert 0 < theirs < 40
    while held(service) < theirs:
        # The client shows a limit with its next refresh, which may come after a cycle's listing.
        assert time.monotonic() < deadline + 20, f"{held(service)} of {theirs} were noticed"
        await asyncio.sleep(0.1)
        await cycle(service)
    await cycle(service)
    assert (held(service), limits(daemon).count(77_777)) == (theirs, theirs)
    assert daemon.faults.present() == []


async def test_a_leap_of_the_clients_time_breaks_no_cap(daemon: SimulatedDaemon, service: Service) -> None:
    await cycle(service)
    uploaded = float(daemon.client.uploaded.sum())
    await begin(daemon, "clock-jump", delay=600.0)
    assert daemon.client.now >= BEFORE + 600
    # Limits bound what goes out meanwhile; torrents that fall asleep leave theirs unused.
    assert 0.1 < (float(daemon.client.uploaded.sum()) - uploaded) / (600 * sum(CAPS.values())) < 1.1
    await cycle(service)
    assert (service.problems, held(service)) == ({}, 0)
    assert sums_fit(daemon)


# The endpoint


def test_faults_are_begun_listed_and_ended_over_http(daemon: SimulatedDaemon, control: httpx.Client) -> None:
    begun = control.post(PATH, json={"kind": "status", "path": "app/version", "status": 503, "count": None})
    assert begun.status_code == 200
    (there,) = control.get(PATH).json()["present"]
    assert (there["kind"], there["requests_left"]) == ("status", None)
    assert [control.get("/api/v2/app/version").status_code for _ in range(3)] == [503] * 3
    assert control.delete(PATH).status_code == 204
    assert control.get("/api/v2/app/version").status_code == 403
    told = control.get(PATH).json()
    assert (told["present"], told["met"]) == ([], {"status": 3})
    assert set(told["kinds"]) == set(WORDS) == set(get_args(Kind))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"kind": "meteor"}, "Invalid enum value 'meteor'"),
        ({"kind": "slow", "delay": 0}, "delay must be more than 0"),
        ({"kind": "slow", "seconds": 1e9}, "seconds must be more than 0, at most 3600"),
        ({"kind": "slow", "count": 0}, "count must be 1 to 10000, or null"),
        ({"kind": "status", "status": 200}, "status must be 400 to 599"),
        ({"kind": "vanish", "share": 2}, "share must be 0 to 1"),
        ({"kind": "second-tool", "limit": -1}, "limit must be 0 to 2147483646"),
        ({"kind": "slow", "for": 1}, "unknown field"),
    ],
)
def test_a_fault_without_bounds_is_refused(control: httpx.Client, wrong: dict[str, Any], words: str) -> None:
    answer = control.post(PATH, json=wrong)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert control.get(PATH).json()["present"] == []


def test_web_pages_cannot_begin_faults(control: httpx.Client) -> None:
    answer = control.post(PATH, json={"kind": "ban"}, headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403
    assert control.put(PATH).status_code == 405
    assert control.post(PATH, content=iter([b"{}"])).status_code == 413


async def test_other_machines_cannot_begin_faults() -> None:
    ui = WebUi(SCENES["mixed"].stage([1], torrents=2).client)
    transport = httpx.ASGITransport(FaultyApp(make_app(ui), Faults(ui)), client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        assert (await http.post(PATH, json={"kind": "ban"})).status_code == 403


def test_a_fault_ends_with_its_time_and_with_its_count() -> None:
    now = 0.0
    ui = WebUi(SCENES["mixed"].stage([1], torrents=2).client, clock=lambda: now)
    faults = Faults(ui)
    faults.begin(Fault(kind="slow", path="info", count=None, seconds=10))
    faults.begin(Fault(kind="status", path="torrents/info", count=2, seconds=10))
    met = []
    for second in (0.0, 1.0, 2.0, 9.9, 10.0):
        now = second
        met.append([fault.kind for fault in faults.take("/api/v2/torrents/info")])
    assert met == [["slow", "status"], ["slow", "status"], ["slow"], ["slow"], []]
    assert faults.take("/api/v2/app/version") == []
    with pytest.raises(FaultError):
        faults.begin(Fault(kind="slow", seconds=0))

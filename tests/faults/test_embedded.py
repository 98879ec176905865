"""`qbittorrent.url: embedded`: the whole service on a simulated client, with nothing else installed."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import Qguard

TRACKERS = [
    {"id": "alpha", "match": ["alpha.example"], "max_upload_speed": 4_000_000},
    {"id": "beta", "match": ["beta.example"], "max_upload_speed": 2_000_000},
    {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Qguard]:
    with Qguard(tmp_path, "embedded", trackers=TRACKERS, rollout_percentage=100, poll_interval="2s") as running:
        yield running


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_gone(pid: int, seconds: float = 15.0) -> bool:
    """Whether a process ends in that time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.1)
    return False


def test_a_living_client_of_four_hundred_torrents_of_the_users_trackers(service: Qguard) -> None:
    for _ in range(8):  # at rest at first, as far as rates tell: they are averages
        service.wait_cycle()
    stats = service.http.get("/stats/trackers").json()
    assert sum(row["torrents"] for row in stats.values()) == 400
    assert all(row["torrents"] > 80 for row in stats.values())
    assert stats["alpha"]["rate"] > 0
    assert stats["alpha"]["managed"] == stats["alpha"]["torrents"]
    assert stats["rest"]["managed"] == 0


def test_page_health_and_log_say_that_it_is_simulated(service: Qguard) -> None:
    service.wait_cycle()
    assert service.health()["client"].startswith("a simulated qBittorrent v")
    assert "connected to a simulated qBittorrent" in service.log_tail(200)
    page = service.http.get("/", headers={"Accept": "text/html"}).text
    assert "Client: a simulated qBittorrent v" in page


def test_what_can_be_done_with_a_real_client_can_be_done_with_it(service: Qguard) -> None:
    service.wait_cycle()
    preview = service.preview()
    assert preview["strategy"] == "equal"
    assert service.json("trackers")
    done = service.json("rollback", "--yes")
    assert done["failed"] == 0
    assert done["changes_reversed"] > 0


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_it_ends_with_the_service(service: Qguard, how: str) -> None:
    service.wait_cycle()
    simulators = children_of(service.child.pid)
    assert simulators
    getattr(service, how)()
    assert all(wait_gone(pid) for pid in simulators)


def test_commands_alone_bring_their_own(tmp_path: Path) -> None:
    with Qguard(tmp_path, "embedded", trackers=TRACKERS) as service:
        service.stop()
        assert {row["host"] for row in service.json("trackers")} == {"alpha.example", "beta.example", "rest.example"}

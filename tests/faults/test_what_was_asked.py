"""What was asked in a wrong way does nothing and says so; what was done, and what holds, is told as it is."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allocators.base import BadAllocationError
from qguard.ledger import LedgerError
from qguard.log import redact
from qguard.qbittorrent.errors import UnreachableError
from qguard.redact import Redactor
from qguard.service import Service
from qguard.snapshot import Torrents
from tests.support.columns import ADDED_ON, infohash, torrents
from tests.support.fake_client import FakeClient
from tests.support.http_service import HttpService
from tests.support.process import until

CONFIG = """
global: {rollout_percentage: 100, poll_interval: 3600}
qbittorrent: {url: "http://127.0.0.1:1"}
trackers:
  - {id: alpha, match: [alpha.example], max_upload_speed: 1000000}
  - {id: beta, match: [beta.example], max_upload_speed: 1000000}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""
UNKNOWN = "f" * 40


class Client(FakeClient):
    """Does not answer while it is told not to."""

    away = False

    async def torrents(self) -> Torrents:
        if self.away:
            raise UnreachableError("qBittorrent does not answer")
        return await super().torrents()


@pytest.fixture
def client() -> Client:
    """Two torrents of alpha and one of beta; the owner had limited one."""
    return Client(torrents([{}, {"up_limit": 9_000}, {"host": "beta.example"}]))


@pytest.fixture
def service(tmp_path: Path, client: Client) -> Iterator[HttpService]:
    """After its first cycle."""
    with HttpService(tmp_path, client, CONFIG) as running:
        running.post("/cycle/force")
        yield running


def refusal(service: HttpService, path: str, **body: Any) -> tuple[int, str]:
    reply = service.http.post(path, json=body)
    return reply.status_code, reply.json()["error"]["code"]


# Resuming


def test_no_torrent_at_all_does_not_mean_all(service: HttpService) -> None:
    service.post("/rollback", confirm=True)
    assert refusal(service, "/resume", hashes=[])[0] == 422
    assert service.get("/health")["paused"] == ["*"]
    assert service.post("/resume", hashes=None)["scope"] == "*"
    assert service.get("/health")["paused"] == []


async def test_nor_does_it_within(tmp_path: Path, service: HttpService) -> None:
    with pytest.raises(Exception, match="no torrent is named"):
        await service.service.resume(tracker=None, who="test", reason="", hashes=())


@pytest.mark.parametrize(
    ("hashes", "answer"),
    [
        ([UNKNOWN], (404, "unknown_torrent")),
        ([infohash(0), UNKNOWN], (404, "unknown_torrent")),
        (["zz"], (422, "bad_hash")),
        ([infohash(0)[:20]], (422, "bad_hash")),
    ],
)
def test_torrents_that_are_none_of_ours_resume_nothing(
    service: HttpService, hashes: list[str], answer: tuple[int, str]
) -> None:
    service.post("/rollback", confirm=True)
    assert refusal(service, "/resume", hashes=hashes) == answer
    assert "resume" not in {row["kind"] for row in service.get("/ledger")["cycles"]}


def test_a_torrent_is_named_in_either_case_and_the_answer_says_how_many(tmp_path: Path) -> None:
    name = "abcdef" + "0" * 34
    with HttpService(tmp_path, Client(torrents([{}, {"infohash": name}])), CONFIG) as service:
        service.post("/cycle/force")
        service.post("/rollback", confirm=True)
        done = service.post("/resume", hashes=[name.upper()], reason="this one")
        assert (done["scope"], done["resumed_torrents"]) == ("1 torrent", 1)
        newest, *_ = service.get("/ledger")["cycles"]
        assert newest["reason"] == "1 torrent; this one"
        assert service.get("/health")["paused"] == ["*"]


def test_a_reason_with_lines_of_its_own_is_one_line_of_the_log(
    service: HttpService, capsys: pytest.CaptureFixture[str]
) -> None:
    service.post("/resume", reason="x\n2026-01-01 [error] forged \x1b[31m")
    told = capsys.readouterr()
    lines = [line for line in (told.out + told.err).splitlines() if "forged" in line]
    assert lines
    assert all("resumed" in line and "\x1b[31m" not in line for line in lines)


# Pausing


def test_a_pause_that_is_over_already_is_refused(service: HttpService) -> None:
    assert refusal(service, "/pause", until=1) == (409, "bad_time")
    assert "pause" not in {row["kind"] for row in service.get("/ledger")["cycles"]}
    assert service.post("/pause", until=time.time() + 3600)["status"] == "paused"


def in_force(service: HttpService) -> dict[str, bool]:
    """What statistics and metrics say, which is the same."""
    told = {name: row["in_force"] for name, row in service.get("/stats/trackers").items()}
    metrics = service.http.get("/metrics").text
    for name, value in told.items():
        assert f'qguard_tracker_cap_in_force{{tracker="{name}"}} {float(value)}' in metrics
    return told


def test_a_pause_shows_at_once_and_looks_again(service: HttpService) -> None:
    assert in_force(service) == {"alpha": True, "beta": True, "rest": False}
    service.service._cycle_wanted = False
    service.post("/pause", tracker="alpha")
    assert in_force(service) == {"alpha": False, "beta": True, "rest": False}
    assert service.get("/stats/trackers")["alpha"]["not_in_force"] == ["paused"]
    assert service.service._cycle_wanted


@pytest.mark.parametrize(
    "fault", [UnreachableError("away"), LedgerError("the disk is full"), BadAllocationError("bad")]
)
def test_while_no_cycle_goes_through_no_cap_is_in_force(
    service: HttpService, client: Client, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    async def fail(**_: object) -> None:
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(service.service, "cycle", fail)
        turn(service)
        until(lambda: service.get("/health")["problems"], "the failed turn")
    assert in_force(service) == {"alpha": False, "beta": False, "rest": False}
    (words,) = service.get("/stats/trackers")["beta"]["not_in_force"]
    assert words.startswith("no cycle goes through: see ")
    assert service.get("/stats/trackers")["rest"]["not_in_force"] == []
    turn(service)
    until(lambda: not service.get("/health")["problems"], "a turn that goes through")
    assert in_force(service)["alpha"]


def turn(service: HttpService) -> None:
    """Begin one turn of the loop, in the service's own thread."""

    def begin(running: Service) -> None:
        running._retired.add(asyncio.get_running_loop().create_task(running.turn()))

    service.call(begin)


# Reloading


def test_a_reload_says_what_is_in_force_and_not_what_the_file_says(service: HttpService) -> None:
    service.post("/rollout", percentage=30)
    assert service.post("/config/reload")["rollout_percentage"] == 30 == service.get("/health")["rollout_percentage"]
    service.config.write_text(CONFIG.replace("rollout_percentage: 100", "rollout_percentage: 60"))
    assert service.post("/config/reload")["rollout_percentage"] == 60 == service.get("/health")["rollout_percentage"]


def test_a_reload_does_not_forget_what_opens_our_doors(service: HttpService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "redactor", Redactor())
    service.service.door_keys = ("token-of-commands", "a-made-key")
    service.post("/config/reload")
    assert redact("token-of-commands and a-made-key") == "*** and ***"


# Adopting


def lines(*names: str) -> str:
    return "".join(f'{{"hash":"{name}","added_on":{ADDED_ON},"limit":5000,"tracker":"alpha"}}\n' for name in names)


RELEASED = f'{{"hash":"{infohash(0)}","added_on":{ADDED_ON},"released":true}}\n'

WRONG_FILES: dict[str, tuple[str, str]] = {
    "empty": ("", "bad_originals"),
    "of no lines": ("HOME=/root\0USER=root", "bad_originals"),
    "of another kind": ("root:x:0:0\n", "bad_originals"),
    "all given back": (lines(infohash(0)) + RELEASED, "bad_originals"),
    "of another client": (lines(UNKNOWN), "other_originals"),
}


@pytest.mark.parametrize(("content", "code"), WRONG_FILES.values(), ids=WRONG_FILES.keys())
def test_a_wrong_file_adopts_nothing(service: HttpService, tmp_path: Path, content: str, code: str) -> None:
    (tmp_path / "old.jsonl").write_text(content)
    assert refusal(service, "/adopt", originals="old.jsonl") == (422, code)
    assert "adopt" not in {row["kind"] for row in service.get("/ledger")["cycles"]}


def test_a_file_of_this_client_is_adopted(tmp_path: Path) -> None:
    with HttpService(tmp_path, Client(torrents([{"up_limit": 7_000}])), CONFIG) as service:
        (tmp_path / "old.jsonl").write_text(lines(infohash(0), UNKNOWN))
        assert service.post("/adopt", originals="old.jsonl")["originals"] == 1


# The doctor


@pytest.mark.parametrize(
    ("fault", "topic"),
    [(BadAllocationError("alpha: too much"), "strategy"), (LedgerError("the disk is full"), "ledger")],
)
def test_the_doctor_outlives_what_it_finds(
    service: HttpService, monkeypatch: pytest.MonkeyPatch, fault: Exception, topic: str
) -> None:
    async def fail() -> None:
        raise fault

    monkeypatch.setattr(service.service, "decision", fail)
    checks = {check["topic"]: check for check in service.get("/doctor")["checks"]}
    assert (checks[topic]["verdict"], str(fault) in checks[topic]["words"]) == ("wrong", True)
    assert checks["qBittorrent"]["verdict"] == "good"


# Statistics


def test_what_cross_seed_did_not_take_is_counted_for_good(service: HttpService) -> None:
    forwarder = service.service.forwarder
    forwarder.forwarded, forwarder.dropped = 3, 2
    hooks = service.get("/stats")["hooks"]
    assert (hooks["cross_seed_forwarded"], hooks["cross_seed_dropped"], hooks["cross_seed_waiting"]) == (3, 2, 0)

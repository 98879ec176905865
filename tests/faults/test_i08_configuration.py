"""I8: a running service takes a good edit of its configuration at once, and a bad one never."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from qguard.api.server import Rules
from qguard.config import load
from qguard.ledger import Ledger
from qguard.log import redact
from qguard.service import Service as Inside
from qguard.snapshot import empty
from tests.support.daemon import Daemon
from tests.support.fake_client import FakeClient
from tests.support.ports import free_port
from tests.support.process import ALPHA_CAP, BETA_CAP, Seeds, Service, Setup, sown, until

pytestmark = pytest.mark.qbittorrent

SOON = 2.0
"""Seconds within which an edit is taken."""


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


BAD_EDITS = {
    "YAML syntax": ("trackers:", "trackers: ]", "trackers", "YAML"),
    "unknown key": ("  poll_interval: 1", "  pol_interval: 1", "pol_interval", "poll_interval?"),
    "bad regex": ("pattern: .*", "pattern: '('", "pattern: '('", "not a regular expression"),
    "no catch-all": ("pattern: .*", "pattern: x", "- id: alpha", "no catch-all"),
    "cap 0": ("max_upload_speed: 700000", "max_upload_speed: 0", "max_upload_speed: 0", "0 is not a rate"),
    "bad unit": ("max_upload_speed: 700000", "max_upload_speed: 4 M", "4 M", "unit"),
    "rollout 101": ("rollout_percentage: 100", "rollout_percentage: 101", "101", "from 0 to 100"),
    "unknown strategy": ("poll_interval: 1", "allocation_strategy: equl", "equl", "did you mean equal?"),
    "unset variable": ("poll_interval: 1", "poll_interval: ${QGUARD_NOT_SET}", "QGUARD_NOT_SET", "not set"),
}


@pytest.mark.parametrize(("old", "new", "marker", "reason"), BAD_EDITS.values(), ids=BAD_EDITS.keys())
def test_a_bad_edit_changes_nothing_and_says_where_it_is_wrong(
    seeds: Seeds, service: Service, old: str, new: str, marker: str, reason: str
) -> None:
    setup = service.setup
    good = setup.path.read_text()
    # The caps change in the same edit: none of it may count.
    bad = good.replace(str(BETA_CAP), str(BETA_CAP * 8)).replace(old, new)
    line = next(number for number, text in enumerate(bad.splitlines(), 1) if marker in text)
    setup.write(bad)
    told = service.wait_degraded("configuration")
    assert "the last good configuration stays in force" in told
    assert f"{setup.path}:{line}:" in told
    assert reason in told
    assert len(service.logged(f"{setup.path}:{line}:")) == 1
    assert service.cycle()["changed"] == 0
    assert seeds.api.limits() == seeds.limited
    refused = service.post("/config/reload")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "bad_configuration")
    assert reason in refused.json()["error"]["message"]

    setup.write(good)
    service.wait_healthy()


def test_bad_edits_in_other_ways_change_nothing_either(seeds: Seeds, service: Service) -> None:
    setup = service.setup
    good = setup.path.read_text()
    ways: list[tuple[Callable[[], object], str]] = [
        (partial(setup.path.write_text, ""), "is empty"),
        (partial(setup.path.write_bytes, b"trackers: [\xff]"), "is not UTF-8"),
        (setup.path.unlink, "there is no such file"),
        (setup.path.mkdir, "is a folder"),
    ]
    for spoil, reason in ways:
        spoil()
        until(lambda words=reason: words in str(service.health()["problems"]), reason)  # type: ignore[misc] # mypy: lambdas have no types
        assert service.cycle()["changed"] == 0
    setup.path.rmdir()
    setup.write(good)
    service.wait_healthy()
    assert seeds.api.limits() == seeds.limited


def in_place(setup: Setup, text: str) -> None:
    setup.path.write_text(text)


def by_rename(setup: Setup, text: str) -> None:
    setup.write(text)


def by_deletion(setup: Setup, text: str) -> None:
    setup.path.unlink()
    setup.path.write_text(text)


@pytest.mark.parametrize("write", [in_place, by_rename, by_deletion])
def test_limits_follow_a_changed_cap_soon_however_the_file_is_written(
    seeds: Seeds, service: Service, write: Callable[[Setup, str], None]
) -> None:
    text = service.setup.path.read_text()
    write(service.setup, text.replace(str(ALPHA_CAP), str(ALPHA_CAP * 8)))
    until(lambda: 32_768 in seeds.api.limits().values(), "a limit under the new cap", SOON)
    service.wait_healthy()


def test_two_edits_in_a_row_end_with_the_second(seeds: Seeds, service: Service) -> None:
    text = service.setup.path.read_text()
    service.setup.write(text.replace(str(ALPHA_CAP), str(ALPHA_CAP * 8)))
    service.setup.write(text.replace(str(ALPHA_CAP), str(ALPHA_CAP * 64)))
    until(lambda: 262_144 in seeds.api.limits().values(), "a limit under the last cap", SOON)


def test_a_corrected_password_logs_in_soon(seeds: Seeds, setup: Setup) -> None:
    setup.config["qbittorrent"]["password"] = "wrong"
    setup.save()
    with setup.start(wait=False) as service:
        assert "refused the login" in service.wait_degraded("client")
        setup.config["qbittorrent"]["password"] = seeds.daemon.password
        setup.save()
        service.wait_health(lambda health: health["status"] == "healthy", "a login", SOON)
        seeds.wait_limits(seeds.limited)
    assert len(seeds.proxy.requests("auth/login")) == 2


def test_another_poll_interval_is_taken(service: Service) -> None:
    service.setup.edit(poll_interval="7s")
    service.wait_health(lambda health: health["update_interval"] == 7, "the new interval", SOON)


def test_a_restart_that_is_needed_is_said_until_it_is_not_needed_any_more(service: Service) -> None:
    setup = service.setup
    port = setup.config["global"]["port"]
    setup.edit(port=free_port())
    assert service.wait_degraded("configuration") == "restart needed for global.port"
    setup.caps(ALPHA_CAP * 8, BETA_CAP)
    service.reload()
    assert service.health()["problems"]["configuration"] == "restart needed for global.port"
    setup.edit(port=port)
    service.reload()
    assert service.health()["problems"] == {}


def test_a_reload_by_request_says_what_is_in_force(service: Service) -> None:
    service.setup.edit(rollout_percentage=50, cache_ttl_seconds=3)
    answer = service.post("/config/reload")
    assert answer.status_code == 200
    report = answer.json()
    assert (report["status"], report["rollout_percentage"], report["restart_needed"]) == ("reloaded", 50, [])
    assert ["cache_ttl_seconds" in warning for warning in report["warnings"]] == [True]


@pytest.mark.parametrize("by_request", [False, True], ids=["watched", "requested"])
def test_a_new_key_counts_soon_while_the_client_hangs(seeds: Seeds, setup: Setup, *, by_request: bool) -> None:
    old, new = "the-first-key-of-all", "the-key-after-the-leak"
    setup.config["server"] = {"api_key": old}
    setup.config["qbittorrent"]["timeout"] = 60
    setup.save()
    with setup.start() as service:

        def opens(key: str) -> bool:
            return service.http.get("/stats", headers={"X-API-Key": key}).status_code == 200

        assert (opens(old), opens(new)) == (True, False)
        fault = seeds.proxy.hang("torrents/info", times=None)
        fault.wait()  # a cycle waits, for up to a minute
        setup.config["server"] = {"api_key": new}
        setup.save()
        if by_request:
            token = json.loads(setup.database.with_name("ledger.db.lock").read_text())["token"]
            answer = service.http.post("/config/reload", headers={"X-API-Key": token}, timeout=SOON)
            assert answer.status_code == 200
            assert (opens(old), opens(new)) == (False, True)
        until(lambda: not opens(old) and opens(new), "the end of the old key", SOON)
        fault.release()


KEY_FILE = "qguard.api_key"


async def test_keys_that_cannot_be_made_leave_the_former_ones_hidden_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redact, "redactor", redact.redactor)
    first, token = "the-first-key-of-all", "token-of-commands"
    path = tmp_path / "qguard.yaml"
    sections = {
        "global": {"host": "0.0.0.0"},
        "qbittorrent": {"url": "http://127.0.0.1:1"},
        "trackers": [{"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"}],
        "rollback": {"database_path": "ledger.db"},
    }
    path.write_text(yaml.safe_dump({**sections, "server": {"api_key": first}}))
    service = Inside(
        load(path), await Ledger.open(tmp_path / "ledger.db"), client_factory=lambda _: FakeClient(empty())
    )
    try:
        rules = Rules(service, token)
        (tmp_path / KEY_FILE).mkdir()  # nobody's key is in there
        path.write_text(yaml.safe_dump(sections))
        await service.reload()
        for _ in range(2):
            assert rules().holder(first.encode()) == "api_key"
            assert redact(f"{first} and {token}") == "*** and ***"
        assert "the former keys stay in force" in service.health().problems["keys"]
        (tmp_path / KEY_FILE).rmdir()
        made = rules()
        assert made.holder(first.encode()) is None
        assert "keys" not in service.health().problems
        key = (tmp_path / KEY_FILE).read_text().strip()
        assert made.holder(key.encode()) == "api_key"
        assert redact(f"{key} and {token}") == "*** and ***"
    finally:
        await service.close()


def test_a_bad_file_at_the_start_starts_nothing(seeds: Seeds, setup: Setup) -> None:
    setup.write(setup.path.read_text().replace("pattern: .*", "pattern: '('"))
    ended = setup.command("run").expect(2)
    assert f"{setup.path}:" in ended.err
    assert "not a regular expression" in ended.err
    assert seeds.proxy.requests() == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{setup.port}/health", trust_env=False)
    assert not setup.database.exists()

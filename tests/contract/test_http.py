"""Every endpoint of the HTTP interface, asked of a running service; and a fuzzer that holds it to its own document."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema_rs
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families

from qguard.config import parse
from tests.support import configurations
from tests.support.columns import infohash, torrents
from tests.support.fake_client import FakeClient
from tests.support.http_service import HttpService

ROOT: Final = Path(__file__).parents[2]
KEY = "a-key-for-tests"
CONFIG = """
global: {rollout_percentage: 100}
qbittorrent: {url: 'http://127.0.0.1:1', username: someone, password: hunter22}
trackers:
  - {id: alpha, name: Alpha, match: [alpha.example], max_upload_speed: 1048576, priority: 3}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""
BUSY = {"upspeed": 51_200, "uploaded_session": 10**7}


def client() -> FakeClient:
    """Three busy torrents of alpha, one idle one of it that its owner had limited, one of somebody else."""
    return FakeClient(
        torrents([BUSY, BUSY, BUSY, {"infohash": "a" * 40, "up_limit": 90_000}, {"host": "other.example"}])
    )


@pytest.fixture
def service(tmp_path: Path) -> Iterator[HttpService]:
    with HttpService(tmp_path, client(), CONFIG) as running:
        yield running


def limits(service: HttpService) -> list[int]:
    return service.client.there.up_limit.tolist()


def test_the_root_names_every_endpoint(service: HttpService) -> None:
    answer = service.get("/")
    assert set(answer) == {"name", "version", "description", "status", "client", "endpoints"}
    documented = set(service.get("/openapi.json")["paths"]) - {"/login", "/logout", "/session"}
    assert set(answer["endpoints"].values()) == documented


def test_the_root_is_a_page_for_browsers(service: HttpService) -> None:
    page = service.http.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"].startswith("text/html")
    assert '<a href="/stats/trackers">' in page.text
    assert "<code>cycle</code>" in page.text
    assert "`" not in page.text


def test_stats_count_what_happened(service: HttpService) -> None:
    before = service.get("/stats")
    service.post("/cycle/force")
    after = service.get("/stats")
    assert (before["allocation_cycles"], before["last_cycle_time"], before["active_torrents"]) == (0, None, 0)
    assert (after["allocation_cycles"], after["limits_applied"], after["torrents_processed"]) == (1, 4, 5)
    assert (after["active_torrents"], after["managed_torrents"], after["used_count"]) == (3, 4, 5)
    assert after["cache_stats"]["pattern_matches"] == 4


def test_stats_of_trackers_are_mebibytes_where_the_key_says_mbps(service: HttpService) -> None:
    service.post("/cycle/force")
    alpha, rest = service.get("/stats/trackers").values()
    assert (alpha["name"], alpha["priority"], alpha["active_torrents"]) == ("Alpha", 3, 3)
    assert (alpha["configured_limit_mbps"], alpha["effective_cap_mbps"], alpha["borrowed_mbps"]) == (1.0, 1.0, 0.0)
    assert (alpha["current_usage_mbps"], alpha["efficiency_percent"]) == (0.15, 14.6)
    assert alpha["in_force"]
    assert (rest["configured_limit_mbps"], rest["cap"]) == (None, None)


def test_stats_of_managed_torrents_give_their_limits(service: HttpService) -> None:
    service.post("/cycle/force")
    answer = service.get("/stats/managed")
    assert (answer["total"], answer["counts_by_tracker"]) == (4, {"alpha": 4})
    given = {row["hash"]: row["current_limit"] for row in answer["trackers"]["alpha"]}
    assert given == {infohash(n): limits(service)[n] for n in range(3)} | {"a" * 40: limits(service)[4]}


def test_the_configuration_shows_no_secret(service: HttpService) -> None:
    text = service.http.get("/config").text
    answer = json.loads(text)
    assert answer["qbittorrent"]["password"] == "***"
    assert "hunter22" not in text
    assert answer["global_settings"] == answer["global"]
    assert answer["global_settings"]["rollout_percentage"] == 100


def test_a_match_lists_the_rules_only_in_detail(service: HttpService) -> None:
    url = "http://alpha.example/announce?passkey=0123456789"
    short, full = service.get("/match/test", url=url), service.get("/match/test", url=url, detailed=True)
    assert (short["matched_tracker"], short["matches"]) == ("alpha", [])
    assert [row["matches"] for row in full["matches"]] == [True, False]
    assert "0123456789" not in json.dumps(full)


def test_a_preview_has_caps_by_tracker_and_a_summary(service: HttpService) -> None:
    answer = service.get("/preview/next-cycle")
    assert answer["trackers"]["alpha"] == {"base_cap": 1_048_576, "effective_cap": 1_048_576, "borrowed": 0}
    assert answer["summary"]["trackers"][0]["effective_cap_h"] == "1.00 MiB/s"
    assert answer["summary"]["trackers"][1]["base_cap_h"] == "unlimited"
    assert {row["hash"] for row in answer["summary"]["top_changes"]} == set(answer["proposed_changes"])
    assert [row["id"] for row in answer["tracker_reports"]] == ["alpha", "rest"]


def test_an_override_is_the_cap_while_it_lasts(service: HttpService) -> None:
    service.post("/override", tracker="alpha", rate="512 KiB/s", until=time.time() + 3600, reason="guests")
    service.post("/cycle/force")
    assert sum(limits(service)[:3]) <= 524_288
    alpha = service.get("/stats/trackers")["alpha"]
    assert (alpha["configured_cap"], alpha["cap"], alpha["override"]["reason"]) == (1_048_576, 524_288, "guests")
    assert service.get("/explain/" + "a" * 40)["override"]["rate"] == 524_288
    assert service.get("/preview/next-cycle")["trackers"]["alpha"]["base_cap"] == 524_288

    assert service.post("/override", tracker="alpha", rate=None)["status"] == "cleared"
    service.post("/cycle/force")
    assert service.get("/stats/trackers")["alpha"]["override"] is None
    assert sum(limits(service)[:3]) > 524_288


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"tracker": "alpha", "rate": "10"}, 422, "bad_rate"),
        ({"tracker": "alpha", "rate": 0}, 422, "bad_rate"),
        ({"tracker": "none", "rate": 1000}, 404, "unknown_tracker"),
        ({"tracker": "alpha", "rate": 1000, "until": 1}, 409, "bad_time"),
        ({"tracker": "alpha"}, 422, "bad_body"),
    ],
)
def test_a_bad_override_is_refused(service: HttpService, body: dict[str, Any], status: int, code: str) -> None:
    reply = service.http.post("/override", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_a_reset_of_limits_restores_the_originals_and_pauses(service: HttpService) -> None:
    service.post("/cycle/force")
    answer = service.post("/limits/reset", confirm=True, reason="moving house")
    assert (answer["status"], answer["count"], answer["mode"], answer["paused"]) == ("ok", 4, "real", "*")
    assert limits(service) == [0, 0, 0, 0, 90_000]
    service.post("/cycle/force")
    assert limits(service) == [0, 0, 0, 0, 90_000]


def test_a_reset_of_limits_takes_what_others_changed_only_when_told(service: HttpService) -> None:
    service.post("/cycle/force")
    service.client.there.up_limit[4] = 7_777
    service.post("/cycle/force")
    assert service.post("/limits/reset", confirm=True)["left_alone"] == 1
    assert limits(service)[4] == 7_777
    service.post("/limits/reset", confirm=True, scope="all")
    assert limits(service)[4] == 90_000


def test_what_is_marked_as_restored_is_let_go_of(service: HttpService) -> None:
    service.post("/cycle/force")
    service.client.there.up_limit[4] = 7_777
    service.post("/cycle/force")
    service.post("/limits/reset", confirm=True, mark_restored=True)
    assert service.post("/limits/reset", confirm=True, scope="all")["count"] == 0
    assert limits(service)[4] == 7_777


@pytest.mark.parametrize("path", ["/rollback", "/limits/reset"])
def test_what_is_not_confirmed_is_not_done(service: HttpService, path: str) -> None:
    service.post("/cycle/force")
    before = limits(service)
    assert service.http.post(path, json={"confirm": False}).status_code == 400
    assert limits(service) == before


def test_a_reset_of_smoothing_must_say_of_what(service: HttpService) -> None:
    assert service.http.post("/smoothing/reset", json={}).status_code == 422
    assert service.http.post("/smoothing/reset", json={"all": True, "tracker_id": "alpha"}).status_code == 422
    assert service.http.post("/smoothing/reset", json={"tracker_id": "none"}).status_code == 404
    answer = service.post("/smoothing/reset", tracker_id="alpha")
    assert (answer["status"], answer["cleared_count"], answer["strategy"]) == ("ok", 0, "equal")


def test_everything_that_changes_something_stands_in_the_ledger(service: HttpService) -> None:
    service.post("/cycle/force", reason="first")
    service.post("/rollout", percentage=50, reason="half")
    service.post("/override", tracker="alpha", rate=2_000_000)
    service.post("/pause", tracker="alpha")
    service.post("/resume")
    service.post("/smoothing/reset", all=True)
    service.post("/config/reload")
    service.post("/rollback", confirm=True)
    actions = service.get("/ledger")["cycles"]
    kinds = ["rollback", "reload", "smoothing reset", "resume", "pause", "override", "rollout", "cycle"]
    assert [row["kind"] for row in actions] == kinds
    assert {row["who"] for row in actions} == {"127.0.0.1"}
    assert actions[-2]["reason"] == "*: 50 %; half"


def test_the_ledger_is_paged_to_its_end(service: HttpService) -> None:
    for percentage in range(5):
        service.post("/rollout", percentage=percentage)
    seen, before = [], None
    while True:
        page = service.get("/ledger", limit=2, **({} if before is None else {"before": before}))
        seen += [row["reason"] for row in page["cycles"]]
        before = page["next_before"]
        if before is None:
            break
    assert seen == [f"*: {percentage} %" for percentage in (4, 3, 2, 1, 0)]


def test_a_hash_in_capitals_is_the_same_torrent(service: HttpService) -> None:
    service.post("/cycle/force")
    (change,) = service.get("/ledger", hash=f" {'A' * 40}")["changes"]
    assert change["hash"] == "a" * 40


@pytest.mark.parametrize("path", ["/ledger?trackr=alpha", "/match/test?url=x&detaild=true"])
def test_a_query_with_a_slip_of_the_pen_is_refused(service: HttpService, path: str) -> None:
    reply = service.http.get(path)
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "bad_field")
    assert "known are" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("event", "status", "waiting"),
    [("add", "queued", 1), ("complete", "queued", 1), ("torrent_added", "queued", 1), ("delete", "noted", 0)],
)
def test_any_event_of_a_hook_is_taken_and_the_answer_says_what_becomes_of_it(
    service: HttpService, event: str, status: str, waiting: int
) -> None:
    reply = service.http.post("/webhook", data={"event": event, "hash": "b" * 40})
    assert (reply.status_code, reply.json()["status"], reply.json()["queue_size"]) == (202, status, waiting)


@pytest.mark.parametrize("url", ["http://qguard:8089/a b", "http://qguard:8089/%K", "http://qguard:8089/$(x)"])
def test_an_address_that_would_break_the_line_of_a_hook_is_refused(service: HttpService, url: str) -> None:
    reply = service.http.post("/preview/next-cycle", json={"config": f"{CONFIG}server: {{hook_url: '{url}'}}\n"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "bad_configuration")
    assert "server.hook_url" in reply.json()["error"]["message"]
    assert service.post("/preview/next-cycle", config=f"{CONFIG}server: {{hook_url: 'http://[fd00::2]:80/a-b_~.c'}}\n")


def test_what_is_wrong_with_a_body_is_said_in_words_of_ours(service: HttpService) -> None:
    said = {
        name: service.http.post("/limits/reset", content=body).json()["error"]["message"]
        for name, body in {
            "field": b'{"sope": 1}',
            "type": b'{"confirm": 1}',
            "choice": b'{"scope": "sommething"}',
            "json": b"{",
        }.items()
    }
    assert said == {
        "field": "the body is not what is expected: a field is not known; known are "
        "confirm, scope, mark_restored, reason",
        "type": "the body is not what is expected: Expected `bool`, got `int` - at `$.confirm`",
        "choice": "the body is not what is expected: Expected another value - at `$.scope`",
        "json": "the body is not what is expected: Input data was truncated",
    }


def test_changes_are_paged_too(service: HttpService) -> None:
    service.post("/cycle/force")
    first = service.get("/ledger", show="changes", limit=3)
    second = service.get("/ledger", show="changes", limit=3, before=first["next_before"])
    assert len({row["hash"] for row in first["changes"] + second["changes"]}) == 4
    assert second["next_before"] is None


@pytest.mark.parametrize(
    ("body", "status"), [({"confirm": True, "cycle": 99}, 404), ({"confirm": True, "cycle": 1, "since": 1}, 409)]
)
def test_a_rollback_of_what_is_not_there_is_refused(service: HttpService, body: dict[str, Any], status: int) -> None:
    assert service.http.post("/rollback", json=body).status_code == status


def test_metrics_are_what_prometheus_reads(service: HttpService) -> None:
    service.post("/cycle/force")
    reply = service.http.get("/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    caps = {s.labels["tracker"]: s.value for s in families["qguard_tracker_cap_bytes_per_second"].samples}
    assert caps == {"alpha": 1_048_576.0}
    assert infohash(0) not in reply.text


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=configurations.texts())
def test_any_good_configuration_can_be_previewed(service: HttpService, text: str) -> None:
    answer = service.post("/preview/next-cycle", config=text)
    rules = parse(text, source=service.config, environ={}).settings.trackers
    assert {name: row["base_cap"] for name, row in answer["trackers"].items()} == {
        rule.id: rule.max_upload_speed for rule in rules
    }
    assert [rule["id"] for rule in yaml.safe_load(text)["trackers"]] == list(answer["trackers"])


@pytest.mark.parametrize("text", ["", "\0", "trackers: []", "qbittorrent: {}", "{" * 1000, CONFIG + "more: 1\n"])
def test_a_preview_of_what_is_no_configuration_is_refused(service: HttpService, text: str) -> None:
    reply = service.http.post("/preview/next-cycle", json={"config": text})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "bad_configuration")


def events(service: HttpService, count: int) -> list[tuple[str, dict[str, Any]]]:
    """The first events of a new stream; a cycle is forced once it is open."""
    found: list[tuple[str, dict[str, Any]]] = []
    kind = ""
    with service.http.stream("GET", "/events") as reply:
        for line in reply.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                found.append((kind, json.loads(value)))
                if len(found) == 1:
                    service.post("/cycle/force")
                if len(found) == count:
                    break
    return found


def test_events_tell_of_cycles_trackers_and_health(service: HttpService) -> None:
    (first, health), *rest = events(service, 4)
    assert (first, health["status"]) == ("health", "starting")
    assert [kind for kind, _ in rest] == ["cycle", "trackers", "health"]
    assert rest[0][1]["applied"] == 4
    assert rest[1][1]["alpha"]["rate"] == 153_600
    assert rest[2][1]["status"] == "healthy"


def test_every_event_is_what_the_document_says(service: HttpService) -> None:
    document = service.get("/openapi.json")
    ((media, content),) = document["paths"]["/events"]["get"]["responses"]["200"]["content"].items()
    schemas = {
        event["properties"]["event"]["const"]: jsonschema_rs.Draft202012Validator(
            event["properties"]["data"]["contentSchema"] | {"components": document["components"]}
        )
        for event in content["schema"]["oneOf"]
    }
    with service.http.stream("GET", "/events") as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].partition(";")[0] == media == "text/event-stream"
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
    # The present state of one that just started; what a cycle tells; then the state, which is all three.
    heard = [*events(service, 4), *events(service, 3)]
    for kind, data in heard:
        assert not [f"{kind}: {error.message}" for error in schemas[kind].iter_errors(data)]
        assert not schemas[kind].is_valid({"alpha": 0})
    assert {kind for kind, _ in heard} == set(schemas)


def test_a_stop_ends_the_streams(tmp_path: Path) -> None:
    with HttpService(tmp_path, client(), CONFIG) as service, service.http.stream("GET", "/events") as reply:
        lines = reply.iter_lines()
        next(lines)
        service.call(lambda running: running.events.close())
        assert not any(line.startswith("event: cycle") for line in lines)


def fuzz(service: HttpService, folder: Path, *, most: int, seed: int) -> str:
    """The closing report of a fuzzer that tried each operation up to so many times in each of its ways."""
    document = folder / "openapi.json"  # from its address, it would leave out the operation that serves it
    document.write_bytes(service.http.get("/openapi.json").content)
    done = subprocess.run(
        [
            Path(sys.executable).with_name("schemathesis"),
            "--config-file",
            Path(__file__).with_name("schemathesis.toml"),
            "run",
            document,
            *("--url", service.url),
            *("--header", f"X-API-Key: {KEY}", "--max-examples", str(most), "--seed", str(seed)),
        ],
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "NO_COLOR": "1",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": str(Path(__file__).with_name("formats.py")),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=570,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_fuzzer_finds_no_answer_that_the_document_does_not_give(tmp_path: Path) -> None:
    with HttpService(tmp_path, client(), CONFIG, api_key=KEY, cycles=True) as service:
        # As when it stops: a stream tells the present state and ends, which a fuzzer needs in order to look at it.
        service.call(lambda running: running.events.close())
        said = fuzz(service, tmp_path, most=15, seed=20260101)
        operations = sum(len(methods) for methods in service.get("/openapi.json")["paths"].values())
    assert "Rate limited" not in said  # else most requests were never looked at
    assert f"Tested: {operations}\n" in said

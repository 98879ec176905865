"""What Prometheus reads: every metric documented, in base units, never one series per torrent."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from qguard import metrics, report
from qguard.answers import Health
from qguard.config import CrossSeed
from qguard.cross_seed import Forwarder
from qguard.cycle import Verdict
from qguard.inbox import Inbox
from qguard.metrics import METRICS, State
from qguard.overview import Totals
from qguard.qbittorrent.client import TorrentClient
from tests.support.columns import decide, infohash, rules, torrents

DOCS = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
HEALTH = Health(
    status="healthy",
    problems={},
    uptime_seconds=12.5,
    version="1.2.3",
    client="qBittorrent v5",
    last_cycle_time=1_000.0,
    last_cycle_duration=0.25,
    last_hook_time=None,
    rollout_percentage=50,
    update_interval=5.0,
    dry_run=False,
    active_torrents=2,
    managed_torrents=2,
    api_calls_last_cycle=3,
    unstaged=0,
    paused=(),
)


@pytest.fixture
def state(tmp_path: Path) -> State:
    """After one cycle in which two busy torrents of alpha were limited."""
    decided = decide(torrents([{"upspeed": 50_000}] * 2 + [{"host": "other.example"}]), rules())
    done = report.cycle(decided, Verdict(1, applied=2, calls=1), duration=0.25, timestamp=1_000.0, requests=3)
    totals = Totals()
    totals.add(done, 3)
    totals.fail("client")
    forwarder = Forwarder(CrossSeed, no_client)
    forwarder.forwarded, forwarder.dropped = 5, 2
    return State(HEALTH, totals, Inbox(tmp_path / "hooks", clock=lambda: 0.0), forwarder, (decided, done))


def no_client() -> TorrentClient:
    raise NotImplementedError


def values(state: State) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.render(state))
        for sample in family.samples
    }


def test_every_metric_that_is_declared_is_collected_and_no_other(state: State) -> None:
    assert {family.name for family in state.collect()} == {kind.name for kind in METRICS}


@pytest.mark.parametrize("kind", METRICS, ids=lambda kind: kind.name)
def test_every_metric_is_documented(kind: metrics.Kind) -> None:
    name = kind.name + ("_total" if kind.type is metrics.CounterMetricFamily else "")
    assert f"| `{name}` |" in DOCS


def test_every_documented_metric_exists() -> None:
    names = set(re.findall(r"^\| `(qguard_\w+)` \|", DOCS, flags=re.MULTILINE))
    assert {name.removesuffix("_total") for name in names} == {kind.name for kind in METRICS}


def test_the_numbers_are_those_of_the_last_decision(state: State) -> None:
    found = values(state)
    assert found["qguard_tracker_cap_bytes_per_second", "alpha"] == 1_000_000
    assert found["qguard_tracker_limits_bytes_per_second", "alpha"] == 1_000_000
    assert found["qguard_tracker_upload_bytes_per_second", "alpha"] == 100_000
    assert found["qguard_tracker_awake_torrents", "alpha"] == 2
    assert found["qguard_torrents",] == 3
    assert found["qguard_changes_total", "applied"] == 2
    assert found["qguard_errors_total", "client"] == 1
    assert found["qguard_cycle_duration_seconds_sum",] == 0.25
    assert found["qguard_rollout_ratio",] == 0.5
    assert found["qguard_cross_seed_forwarded_total",] == 5
    assert found["qguard_cross_seed_dropped_total",] == 2
    assert found["qguard_cross_seed_waiting",] == 0


def test_a_cap_that_is_not_kept_since_the_last_decision_is_not_in_force(state: State) -> None:
    in_force = "qguard_tracker_cap_in_force"
    assert values(state)[in_force, "alpha"] == 1
    assert values(replace(state, doubts={"alpha": "paused"}))[in_force, "alpha"] == 0


def test_a_tracker_without_cap_has_no_cap_series(state: State) -> None:
    found = values(state)
    assert ("qguard_tracker_cap_bytes_per_second", "rest") not in found
    assert found["qguard_tracker_torrents", "rest"] == 1


def test_exactly_one_status_holds(state: State) -> None:
    found = {key[1]: value for key, value in values(state).items() if key[0] == "qguard_status"}
    assert found == {"starting": 0, "healthy": 1, "degraded": 0, "unhealthy": 0}


def test_no_torrent_is_named(state: State) -> None:
    text = metrics.render(state)
    assert infohash(0) not in text
    assert "torrent 0" not in text


def test_before_the_first_cycle_there_are_no_numbers_of_trackers(state: State) -> None:
    fresh = State(HEALTH, Totals(), state.inbox, state.forwarder, None)
    assert not any(name.startswith("qguard_tracker_") for name, *_ in values(fresh))

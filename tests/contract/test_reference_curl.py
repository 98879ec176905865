"""The command lines that users of the older program have in their notes, word for word, and the keys they read."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.columns import torrents
from tests.support.fake_client import FakeClient
from tests.support.http_service import HttpService

CONFIG = """
global: {rollout_percentage: 10}
qbittorrent: {url: 'http://127.0.0.1:1', username: admin, password: hunter22}
cross_seed: {enabled: false, url: 'http://127.0.0.1:1/api/webhook', api_key: crossed33}
trackers:
  - {id: premium, pattern: ".*premium-tracker\\\\.com.*", max_upload_speed: 10485760, priority: 10}
  - {id: default, pattern: ".*", max_upload_speed: 2097152}
"""

LINES = {
    "curl http://localhost:8089/health": """
        status uptime_seconds version last_cycle_time last_cycle_duration rollout_percentage update_interval dry_run
        active_torrents managed_torrents api_calls_last_cycle""",
    "curl http://localhost:8089/stats": """
        allocation_cycles api_calls_last_cycle torrents_processed limits_applied errors last_cycle_duration
        last_cycle_time active_torrents managed_torrents managed_torrent_count score_distribution used_count free_slots
        capacity utilization_percent rollout_percentage cache_stats estimated_memory_mb strategy dry_run""",
    "curl http://localhost:8089/stats/trackers": "premium default",
    "curl http://localhost:8089/preview/next-cycle": """
        strategy torrents_considered proposed_count proposed_changes trackers summary""",
    "curl http://localhost:8089/config": """
        global global_settings qbittorrent cross_seed trackers rollback logging""",
    "curl -XPOST http://localhost:8089/cycle/force": "status duration_seconds timestamp",
    """curl -XPOST http://localhost:8089/rollback \\
  -H "Content-Type: application/json" \\
  -d '{"confirm": true, "reason": "emergency"}'""": "status changes_reversed duration_seconds reason timestamp",
    """curl -XPOST http://localhost:8089/rollout \\
  -H "Content-Type: application/json" \\
  -d '{"percentage": 50}'""": "status rollout_percentage timestamp",
    """curl -XPOST http://localhost:8089/webhook \\
     --data-urlencode "event=complete" \\
     --data-urlencode "hash=%I" \\
     --data-urlencode "name=%N" \\
     --data-urlencode "tracker=%T\"""": "status queue_size processing_time_ms",
}
"""Command line -> keys of the answer."""

FILLED_IN = {"%I": "a" * 40, "%N": "A name & more", "%T": "https://premium-tracker.com/announce?passkey=0123456789"}
"""What qBittorrent puts in."""

INNER = {
    "/stats": {
        ("score_distribution",): "high medium low ignored",
        ("cache_stats",): "cache_size cache_hits cache_misses hit_rate_percent pattern_matches failed_matches",
    },
    "/stats/trackers": {
        ("premium",): """name configured_limit_mbps priority active_torrents current_usage_mbps effective_cap_mbps
            borrowed_mbps efficiency_percent""",
    },
    "/preview/next-cycle": {
        ("trackers", "premium"): "base_cap effective_cap borrowed",
        ("summary",): "trackers top_changes",
        ("summary", "trackers", 0): """id base_cap_mbps base_cap_h effective_cap_mbps effective_cap_h borrowed_mbps
            borrowed_h""",
        ("summary", "top_changes", 0): "hash new_limit_kib delta_kib new_limit_h delta_h",
    },
    "/match/test?url=x&detailed=true": {
        (): "url matched_tracker matches",
        ("matches", 0): "tracker_id pattern matches",
    },
    "/stats/managed": {(): "generated_at total counts_by_tracker trackers"},
    "/": {(): "name version description status endpoints"},
}
"""Keys further inside."""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[HttpService]:
    """Keyless, on loopback, on a client with torrents of which about a tenth are in the rollout."""
    rows = [{"infohash": f"{n:02x}" * 20, "host": "premium-tracker.com", "upspeed": 50_000} for n in range(200)]
    with HttpService(tmp_path, FakeClient(torrents(rows)), CONFIG) as running:
        yield running


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split("8089")[1].split()[0])
def test_the_line_works_and_its_keys_are_there(service: HttpService, line: str) -> None:
    words = line.replace("localhost:8089", f"127.0.0.1:{service.port}")
    for placeholder, value in FILLED_IN.items():
        words = words.replace(placeholder, value)
    command = f"{words} -s --noproxy '*' --fail"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert set(LINES[line].split()) <= set(json.loads(done.stdout))


@pytest.mark.parametrize("path", INNER)
def test_the_keys_inside_are_there(service: HttpService, path: str) -> None:
    answer = service.get(path)
    for way, keys in INNER[path].items():
        inner: Any = answer
        for step in way:
            inner = inner[step]
        assert set(keys.split()) <= set(inner), way


def test_secrets_are_stars(service: HttpService) -> None:
    shown = service.get("/config")
    assert (shown["qbittorrent"]["password"], shown["cross_seed"]["api_key"]) == ("***", "***")

"""The state of things for Prometheus: base units, one series per tracker, never one per torrent.

`METRICS` is the whole list; docs/api.md has the same list for people, and a test holds them together.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qguard.answers import Health
from qguard.cross_seed import Forwarder
from qguard.decision import Decision
from qguard.inbox import Inbox
from qguard.overview import Totals, tracker_stats
from qguard.report import CycleReport

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

STATUSES: Final = ("starting", "healthy", "degraded", "unhealthy")


@dataclass(frozen=True, slots=True)
class Kind:
    """One metric."""

    name: str
    type: type[GaugeMetricFamily | CounterMetricFamily | SummaryMetricFamily]
    help: str
    labels: tuple[str, ...] = ()


def _tracker(name: str, words: str) -> Kind:
    return Kind(f"qguard_tracker_{name}", GaugeMetricFamily, words, ("tracker",))


METRICS: Final = (
    Kind("qguard_build_info", GaugeMetricFamily, "Always 1; the version is a label.", ("version", "client")),
    Kind("qguard_uptime_seconds", GaugeMetricFamily, "Since the service started."),
    Kind("qguard_status", GaugeMetricFamily, "1 for the status that /health gives, 0 for the others.", ("status",)),
    Kind("qguard_observe_only", GaugeMetricFamily, "1 while nothing at all may be written."),
    Kind("qguard_rollout_ratio", GaugeMetricFamily, "Global rollout percentage as a fraction."),
    Kind("qguard_torrents", GaugeMetricFamily, "Torrents of the client."),
    Kind("qguard_cycles", CounterMetricFamily, "Cycles that went through."),
    Kind("qguard_cycle_duration_seconds", SummaryMetricFamily, "Time spent in cycles that went through."),
    Kind("qguard_last_cycle_duration_seconds", GaugeMetricFamily, "Duration of the last cycle that went through."),
    Kind("qguard_last_cycle_timestamp_seconds", GaugeMetricFamily, "When the last cycle went through, epoch seconds."),
    Kind("qguard_client_requests", CounterMetricFamily, "Requests sent to qBittorrent in cycles."),
    Kind("qguard_changes", CounterMetricFamily, "Limits written in cycles, by what was read back.", ("outcome",)),
    Kind("qguard_errors", CounterMetricFamily, "Turns of the loop that failed, by topic.", ("topic",)),
    Kind("qguard_hooks_accepted", CounterMetricFamily, "Webhooks that named a torrent to look at."),
    Kind("qguard_hooks_refused", CounterMetricFamily, "Webhooks that could not be kept."),
    Kind("qguard_hooks_waiting", GaugeMetricFamily, "Torrents that webhooks named and no cycle has seen yet."),
    Kind("qguard_hooks_given_up", CounterMetricFamily, "Torrents that webhooks named and the client never had."),
    Kind("qguard_cross_seed_forwarded", CounterMetricFamily, "Finished torrents that cross-seed took."),
    Kind("qguard_cross_seed_dropped", CounterMetricFamily, "Finished torrents that cross-seed did not take."),
    Kind("qguard_cross_seed_waiting", GaugeMetricFamily, "Finished torrents that are still to be passed on."),
    Kind("qguard_unstaged_torrents", GaugeMetricFamily, "Torrents that wait for their first standing limit."),
    _tracker("configured_cap_bytes_per_second", "Cap of the configuration; absent for no cap."),
    _tracker("cap_bytes_per_second", "Cap that holds, an override included; absent for no cap."),
    _tracker("effective_cap_bytes_per_second", "Cap after lending; absent for no cap."),
    _tracker("borrowed_bytes_per_second", "What the effective cap is above the cap."),
    _tracker("upload_bytes_per_second", "What all torrents of the tracker upload."),
    _tracker("outside_bytes_per_second", "Taken off the cap for torrents that qguard may not change."),
    _tracker("limits_bytes_per_second", "What the managed limits add up to: awake ones and the K highest sleepers."),
    _tracker("standing_limit_bytes_per_second", "What a sleeping torrent holds; 0 for none."),
    _tracker("cap_in_force", "1 while qguard keeps the cap; 0 too while no cycle goes through."),
    _tracker("overridden", "1 while an override holds."),
    _tracker("torrents", "Torrents of the tracker."),
    _tracker("awake_torrents", "Torrents that upload at present."),
    _tracker("managed_torrents", "Torrents that get their limits from qguard."),
    _tracker("rollout_ratio", "Rollout percentage in force as a fraction."),
)


@dataclass(frozen=True, slots=True, eq=False)
class State(Collector):
    """What is collected: one moment of one service."""

    health: Health
    totals: Totals
    inbox: Inbox
    forwarder: Forwarder
    last: tuple[Decision, CycleReport] | None
    doubts: Mapping[str, str] = field(default_factory=dict)
    """Tracker id -> why its cap is not kept any more since the last decision."""

    def collect(self) -> Iterator[Metric]:
        """Every metric that has a value at present."""
        values = dict(self._values())
        for kind in METRICS:
            rows = values.get(kind.name)
            if rows is None:
                continue
            family: Any = kind.type(kind.name, kind.help, labels=kind.labels)
            for labels, value in rows:
                if isinstance(value, tuple):
                    family.add_metric(labels, count_value=value[0], sum_value=value[1])
                elif value is not None:
                    family.add_metric(labels, float(value))
            yield family

    def _values(self) -> Iterator[tuple[str, list[tuple[tuple[str, ...], Any]]]]:
        """Name -> [(label values, value)]; a None is left out."""
        health, totals, inbox = self.health, self.totals, self.inbox
        single = {
            "uptime_seconds": health.uptime_seconds,
            "rollout_ratio": health.rollout_percentage / 100,
            "cycles": totals.cycles,
            "cycle_duration_seconds": (totals.cycles, totals.seconds),
            "last_cycle_duration_seconds": health.last_cycle_duration,
            "last_cycle_timestamp_seconds": health.last_cycle_time,
            "client_requests": totals.requests,
            "hooks_accepted": inbox.accepted,
            "hooks_refused": inbox.refused,
            "hooks_waiting": len(inbox),
            "hooks_given_up": inbox.given_up,
            "cross_seed_forwarded": self.forwarder.forwarded,
            "cross_seed_dropped": self.forwarder.dropped,
            "cross_seed_waiting": len(self.forwarder),
            "unstaged_torrents": health.unstaged,
        }
        for name, value in single.items():
            yield f"qguard_{name}", [((), value)]
        yield "qguard_build_info", [((health.version, health.client), 1)]
        yield "qguard_status", [((status,), status == health.status) for status in STATUSES]
        yield "qguard_changes", [((outcome,), count) for outcome, count in totals.outcomes.items()]
        yield "qguard_errors", [((topic,), count) for topic, count in totals.errors.items()]
        if self.last is not None:
            decision, _ = self.last
            yield "qguard_observe_only", [((), bool(decision.policy.observe_only))]
            yield "qguard_torrents", [((), len(decision.reading.torrents))]
            yield from _per_tracker(decision, self.doubts)


def _per_tracker(
    decision: Decision, doubts: Mapping[str, str]
) -> Iterable[tuple[str, list[tuple[tuple[str, ...], Any]]]]:
    rows = tracker_stats(decision, doubts)
    columns: dict[str, list[Any]] = {
        "configured_cap_bytes_per_second": [row.configured_cap for row in rows.values()],
        "cap_bytes_per_second": [row.cap for row in rows.values()],
        "effective_cap_bytes_per_second": [row.effective_cap for row in rows.values()],
        "borrowed_bytes_per_second": [row.borrowed for row in rows.values()],
        "upload_bytes_per_second": [row.rate for row in rows.values()],
        "outside_bytes_per_second": [row.outside for row in rows.values()],
        "limits_bytes_per_second": [row.promised for row in rows.values()],
        "standing_limit_bytes_per_second": [row.standing_limit for row in rows.values()],
        "cap_in_force": [row.in_force for row in rows.values()],
        "overridden": [row.override is not None for row in rows.values()],
        "torrents": [row.torrents for row in rows.values()],
        "awake_torrents": [row.active_torrents for row in rows.values()],
        "managed_torrents": [row.managed for row in rows.values()],
        "rollout_ratio": [row.rollout_percentage / 100 for row in rows.values()],
    }
    for name, column in columns.items():
        yield f"qguard_tracker_{name}", [((tracker,), value) for tracker, value in zip(rows, column, strict=True)]


def render(state: State) -> str:
    """The text that Prometheus reads. The registry is our own and of this moment: nothing else gets in."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(state)
    return generate_latest(registry).decode()

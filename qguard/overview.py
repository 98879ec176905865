"""The state of things in numbers: totals since the start, and trackers and torrents of one decision. Pure.

Rates, caps and limits are bytes/s, except where a key ends in `_mbps`: those are MiB/s, as they have always been.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from qguard import report
from qguard.answers import (
    CacheStats,
    HookStats,
    ManagedReport,
    ManagedTorrent,
    ScoreDistribution,
    Stats,
    TrackerStats,
)
from qguard.cross_seed import Forwarder
from qguard.decision import Decision
from qguard.inbox import Inbox
from qguard.ledger import Claim, Key
from qguard.pace import Pace
from qguard.report import CycleReport
from qguard.snapshot import UNLIMITED
from qguard.summary import mbps

SCORES: Final = {"high": 0.8, "medium": 0.5, "low": 0.2}
"""Lower bounds of a score, or of the part of its limit that a torrent uses."""


@dataclass(slots=True)
class Totals:
    """What happened since the service started."""

    cycles: int = 0
    processed: int = 0
    """Torrents looked at, in all cycles."""
    seconds: float = 0.0
    """Spent in cycles."""
    requests: int = 0
    """Sent to the client in cycles."""
    outcomes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("applied", "lost", "overridden", "gone"), 0)
    )
    """Changes by what became of them."""
    errors: dict[str, int] = field(default_factory=dict)
    """Failed turns of the loop by topic."""

    def add(self, done: CycleReport, torrents: int) -> None:
        """Count a cycle that went through."""
        self.cycles += 1
        self.processed += torrents
        self.seconds += done.duration_seconds
        self.requests += done.requests
        for outcome in self.outcomes:
            self.outcomes[outcome] += getattr(done, outcome)

    def fail(self, topic: str) -> None:
        """Count a turn that failed."""
        self.errors[topic] = self.errors.get(topic, 0) + 1


def stats(
    totals: Totals,
    last: tuple[Decision, CycleReport] | None,
    inbox: Inbox,
    forwarder: Forwarder,
    *,
    pace: Pace,
    rollout_percentage: int,
    strategy: str,
    dry_run: bool,
    memory_mb: float,
) -> Stats:
    """The service in numbers.

    Args:
        totals: since the start.
        last: the last cycle that went through; without one, everything about torrents is 0.
        inbox: of the hooks.
        forwarder: of finished torrents.
        pace: in force.
        rollout_percentage: in force.
        strategy: in force.
        dry_run: as configured.
        memory_mb: resident memory of the process, MiB.
    """
    decision, done = last or (None, None)
    managed = int(decision.planned.managed.sum()) if decision else 0
    return Stats(
        allocation_cycles=totals.cycles,
        api_calls_last_cycle=done.requests if done else 0,
        torrents_processed=totals.processed,
        limits_applied=totals.outcomes["applied"],
        errors=sum(totals.errors.values()),
        errors_by_topic=dict(totals.errors),
        last_cycle_duration=done.duration_seconds if done else None,
        last_cycle_time=done.timestamp if done else None,
        update_interval=round(pace.seconds, 2),
        update_interval_reason=pace.why,
        active_torrents=int(decision.estimated.demand.awake.sum()) if decision else 0,
        managed_torrents=managed,
        managed_torrent_count=managed,
        score_distribution=scores(decision) if decision else ScoreDistribution(0, 0, 0, 0),
        used_count=len(decision.reading.torrents) if decision else 0,
        free_slots=None,
        capacity=None,
        utilization_percent=None,
        rollout_percentage=rollout_percentage,
        cache_stats=matching(decision) if decision else CacheStats(0, 0, 0, 0.0, 0, 0),
        estimated_memory_mb=round(memory_mb, 1),
        strategy=strategy,
        dry_run=dry_run,
        hooks=HookStats(
            inbox.accepted,
            inbox.refused,
            len(inbox),
            inbox.given_up,
            cross_seed_forwarded=forwarder.forwarded,
            cross_seed_dropped=forwarder.dropped,
            cross_seed_waiting=len(forwarder),
        ),
    )


def scores(decision: Decision) -> ScoreDistribution:
    """How many managed torrents have which score; without scores, how many use how much of their limits."""
    managed = decision.planned.managed & (decision.planned.wanted > 0)
    given = report.scores(decision)
    score = decision.estimated.demand.rate / np.maximum(decision.planned.wanted, 1) if given is None else given
    score = score[managed]
    at_least = {name: int((score >= bound).sum()) for name, bound in SCORES.items()}
    return ScoreDistribution(
        high=at_least["high"],
        medium=at_least["medium"] - at_least["high"],
        low=at_least["low"] - at_least["medium"],
        ignored=len(score) - at_least["low"],
    )


def matching(decision: Decision) -> CacheStats:
    """How often torrents share announce URLs, category and tags: each distinct set is matched once."""
    torrents, rule = decision.reading.torrents, decision.matched.rule
    distinct = len(set(zip(torrents.announce, torrents.category, torrents.tags, strict=True)))
    rest = int((rule == len(decision.policy.ids) - 1).sum())
    hits = len(torrents) - distinct
    return CacheStats(
        cache_size=distinct,
        cache_hits=hits,
        cache_misses=distinct,
        hit_rate_percent=round(100 * hits / len(torrents), 1) if len(torrents) else 0.0,
        pattern_matches=len(torrents) - rest,
        failed_matches=rest,
    )


def tracker_stats(decision: Decision, doubts: Mapping[str, str] = MappingProxyType({})) -> dict[str, TrackerStats]:
    """Every tracker in numbers, in file order.

    Args:
        decision: the last one.
        doubts: tracker id -> why its cap is not kept any more since then.
    """
    caps = report.caps_of(decision)
    found = {}
    for r, (rule, row) in enumerate(zip(decision.policy.settings.trackers, report.trackers(decision), strict=True)):
        cap = caps[rule.id]
        doubt = doubts.get(rule.id, "") if decision.policy.capped[r] else ""
        reasons = (doubt, *row.not_in_force) if doubt and doubt not in row.not_in_force else row.not_in_force
        found[rule.id] = TrackerStats(
            name=row.name,
            configured_limit_mbps=mbps(row.configured_cap),
            priority=rule.priority,
            active_torrents=row.awake,
            current_usage_mbps=mbps(row.rate) or 0.0,
            effective_cap_mbps=mbps(cap.effective_cap),
            borrowed_mbps=mbps(cap.borrowed) or 0.0,
            efficiency_percent=round(100 * row.rate / cap.effective_cap, 1) if cap.effective_cap else 0.0,
            configured_cap=row.configured_cap,
            override=row.override,
            cap=row.cap,
            effective_cap=cap.effective_cap,
            borrowed=cap.borrowed,
            in_force=row.in_force and not doubt,
            not_in_force=reasons,
            torrents=row.torrents,
            managed=row.managed,
            rate=row.rate,
            outside=row.outside,
            promised=row.promised,
            wakeups=row.wakeups,
            standing_limit=row.standing_limit,
            rollout_percentage=row.rollout_percentage,
        )
    return found


def managed(decision: Decision, claims: Mapping[Key, Claim], *, seen_at: float, now: float) -> ManagedReport:
    """The torrents that get their limits from qguard.

    Args:
        decision: the last one.
        claims: of the ledger.
        seen_at: when its reading was taken, epoch seconds.
        now: epoch seconds.
    """
    torrents = decision.reading.torrents
    rows = np.flatnonzero(decision.planned.managed)
    limit = torrents.up_limit.copy()
    limit[decision.planned.plan.rows] = decision.planned.plan.new
    trackers: dict[str, list[ManagedTorrent]] = {}
    columns = (torrents.keys(rows), decision.matched.rule[rows].tolist(), limit[rows].tolist())
    for key, rule, value in zip(*columns, strict=True):
        claim = claims.get(key)
        trackers.setdefault(decision.policy.ids[rule], []).append(
            ManagedTorrent(
                hash=key[0],
                current_limit=value or UNLIMITED,
                added_at=claim.claimed_at if claim else None,
                last_seen=seen_at,
                age_seconds=round(max(now - seen_at, 0.0), 1),
            )
        )
    return ManagedReport(
        generated_at=now,
        total=len(rows),
        counts_by_tracker={tracker: len(found) for tracker, found in trackers.items()},
        trackers={tracker: tuple(found) for tracker, found in trackers.items()},
    )


def forget(state: Any, tracker: str | None, trackers: Sequence[str]) -> tuple[Any, int]:  # noqa: ANN401 - opaque
    """A strategy's state without one tracker, or (None) nothing at all; and how many trackers it knew of those.

    A state is whatever the strategy made of it. Mappings by tracker id, in it or it itself, are what can be taken
    apart; a state of another shape knows of no tracker and is only ever dropped whole.
    """
    gone = set(trackers) if tracker is None else {tracker}
    known = gone & _ids(state)
    if tracker is None:
        return None, len(known) if known or state is None else len(trackers)
    return _without(state, tracker), len(known)


def _ids(state: Any) -> set[str]:  # noqa: ANN401
    if isinstance(state, Mapping):
        return set(state)
    if is_dataclass(state) and not isinstance(state, type):
        return {i for f in fields(state) if isinstance(found := getattr(state, f.name), Mapping) for i in found}
    return set()


def _without(state: Any, tracker: str) -> Any:  # noqa: ANN401
    if isinstance(state, Mapping):
        return {key: value for key, value in state.items() if key != tracker}
    if is_dataclass(state) and not isinstance(state, type):
        maps = {f.name: found for f in fields(state) if isinstance(found := getattr(state, f.name), Mapping)}
        return replace(state, **{name: _without(found, tracker) for name, found in maps.items()})
    return state

"""Typed answers of the service besides those about a decision (`qguard.report`). Rates and limits are bytes/s."""

from typing import Any, Literal

import msgspec

from qguard.ledger import ActionSummary, Change
from qguard.report import OverrideReport


class RequestError(Exception):
    """Something was asked that cannot be done; says what to do instead."""

    def __init__(self, code: str, message: str, hint: str = "", status: int = 400) -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code = code
        self.message = message
        self.hint = hint
        self.status = status


class Health(msgspec.Struct, frozen=True):
    """How the service is, without asking the client anything."""

    status: Literal["starting", "healthy", "degraded", "unhealthy"]
    problems: dict[str, str]
    """Topic -> one sentence that says what to do."""
    uptime_seconds: float
    version: str
    client: str
    """What answered last, empty before the first answer."""
    last_cycle_time: float | None
    """Epoch seconds of the last cycle that went through."""
    last_cycle_duration: float | None
    last_hook_time: float | None
    """Epoch seconds of the last webhook, before a restart too."""
    rollout_percentage: int
    update_interval: float
    """Seconds between two cycles at present, stretched or backed off."""
    dry_run: bool
    active_torrents: int
    managed_torrents: int
    api_calls_last_cycle: int
    unstaged: int
    """Sleeping torrents that still wait for their first standing limit."""
    paused: tuple[str, ...]


class AnnounceHost(msgspec.Struct, frozen=True):
    """One announce host of the client's torrents."""

    host: str
    torrents: int
    rate: int
    rules: tuple[str, ...]
    """The rules its torrents fall under; more than one when category, tags or other trackers decide."""


class RuleMatch(msgspec.Struct, frozen=True):
    """Whether one rule matches a URL."""

    tracker_id: str
    pattern: str | None
    matches: bool
    by: str


class MatchReport(msgspec.Struct, frozen=True):
    """Which rule takes an announce URL."""

    url: str
    """Scheme and host only."""
    matched_tracker: str
    by: str
    matches: tuple[RuleMatch, ...]


class PauseReport(msgspec.Struct, frozen=True):
    """What is paused now, or what was taken up again."""

    status: str
    scope: str
    """`*`, a tracker id, or how many torrents."""
    until: float | None = None
    resumed_torrents: int = 0


class RolloutReport(msgspec.Struct, frozen=True):
    """The percentage in force."""

    status: str
    rollout_percentage: int
    tracker: str | None
    timestamp: float


class AdoptReport(msgspec.Struct, frozen=True):
    """Which limits count as originals from now on."""

    status: str
    mode: str
    originals: int
    """Torrents whose original was taken from somewhere else than their present limit."""


class ReloadReport(msgspec.Struct, frozen=True):
    """What a reload did."""

    status: str
    rollout_percentage: int
    strategy: str
    warnings: tuple[str, ...]
    restart_needed: tuple[str, ...]


class HistoryReport(msgspec.Struct, frozen=True):
    """A page of the ledger, newest first: either actions or changes."""

    cycles: tuple[ActionSummary, ...]
    changes: tuple[Change, ...]
    show: Literal["cycles", "changes"]
    """Which of the two was asked for."""
    next_before: int | None
    """Ask again with this as `before` (and the same `show`) for the next page; None on the last one."""


class Index(msgspec.Struct, frozen=True):
    """Who answers here, and what can be asked."""

    name: str
    version: str
    description: str
    status: Literal["starting", "healthy", "degraded", "unhealthy"]
    client: str
    """What answered last, and whether it is simulated; empty before the first answer."""
    endpoints: dict[str, str]
    """Name -> path."""


class ScoreDistribution(msgspec.Struct, frozen=True):
    """Managed torrents by the part of their limit that they use."""

    high: int
    """80 % and more."""
    medium: int
    """50 to 80 %."""
    low: int
    """20 to 50 %."""
    ignored: int
    """Less than 20 %."""


class CacheStats(msgspec.Struct, frozen=True):
    """Matching of torrents to rules in the last cycle; torrents with the same announce URLs are matched once."""

    cache_size: int
    cache_hits: int
    cache_misses: int
    hit_rate_percent: float
    pattern_matches: int
    """Torrents that a rule other than the catch-all takes."""
    failed_matches: int
    """Torrents that the catch-all takes."""


class HookStats(msgspec.Struct, frozen=True):
    """Webhooks since the start."""

    accepted: int
    refused: int
    waiting: int
    given_up: int
    """Torrents that the client never had."""
    cross_seed_forwarded: int
    """Finished torrents that cross-seed took."""
    cross_seed_dropped: int
    """Finished torrents that it did not take, or that found no room."""
    cross_seed_waiting: int


class Stats(msgspec.Struct, frozen=True):
    """The service in numbers, since it started."""

    allocation_cycles: int
    api_calls_last_cycle: int
    torrents_processed: int
    """Torrents looked at, in all cycles."""
    limits_applied: int
    """Counted by read-back."""
    errors: int
    """Failed turns of the loop."""
    errors_by_topic: dict[str, int]
    last_cycle_duration: float | None
    last_cycle_time: float | None
    update_interval: float
    """Seconds between two cycles at present, stretched or backed off."""
    update_interval_reason: str
    """What it comes from."""
    active_torrents: int
    managed_torrents: int
    managed_torrent_count: int
    """The same; both names are kept."""
    score_distribution: ScoreDistribution
    used_count: int
    """Torrents of the client."""
    free_slots: int | None
    """None: there is no fixed capacity."""
    capacity: int | None
    utilization_percent: float | None
    rollout_percentage: int
    cache_stats: CacheStats
    estimated_memory_mb: float
    """Resident memory of the process, MiB."""
    strategy: str
    dry_run: bool
    hooks: HookStats


class TrackerStats(msgspec.Struct, frozen=True):
    """One tracker. Keys that end in `_mbps` are MiB/s, all others bytes/s; None is no cap."""

    name: str
    configured_limit_mbps: float | None
    priority: int
    active_torrents: int
    current_usage_mbps: float
    effective_cap_mbps: float | None
    borrowed_mbps: float
    efficiency_percent: float
    """Which part of the effective cap is used; 0 where there is none."""
    configured_cap: int | None
    override: OverrideReport | None
    cap: int | None
    effective_cap: int | None
    borrowed: int
    in_force: bool
    """Whether the cap is kept at this moment; every other number is of the last cycle that went through."""
    not_in_force: tuple[str, ...]
    """Why not, one phrase each."""
    torrents: int
    managed: int
    rate: int
    outside: int
    promised: int
    wakeups: int
    standing_limit: int
    rollout_percentage: int


class ManagedTorrent(msgspec.Struct, frozen=True):
    """One torrent that gets its limit from qguard."""

    hash: str
    current_limit: int
    """bytes/s, 0 for none."""
    added_at: float | None
    """Epoch seconds of the first touch; None before it."""
    last_seen: float
    """Epoch seconds."""
    age_seconds: float
    """Since it was last seen."""


class ManagedReport(msgspec.Struct, frozen=True):
    """All torrents that get their limits from qguard."""

    generated_at: float
    total: int
    counts_by_tracker: dict[str, int]
    trackers: dict[str, tuple[ManagedTorrent, ...]]


class ConfigReport(msgspec.Struct, frozen=True):
    """The configuration in force, `***` for each secret that is set. Rates in bytes/s, durations in seconds."""

    global_settings: dict[str, Any]
    global_: dict[str, Any] = msgspec.field(name="global")
    """The same under its name in the file."""
    qbittorrent: dict[str, Any]
    cross_seed: dict[str, Any] | None
    trackers: list[dict[str, Any]]
    rollback: dict[str, Any]
    logging: dict[str, Any]
    server: dict[str, Any]


class LimitsResetReport(msgspec.Struct, frozen=True):
    """Originals that were put back."""

    status: Literal["ok", "incomplete"]
    count: int
    """Torrents whose limit was put back (in a dry run: would be)."""
    mode: Literal["real", "dry-run"]
    left_alone: int
    """Torrents that somebody else changed after qguard."""
    failed: int
    paused: str
    cycle: int | None
    """The number of this action in the ledger."""


class SmoothingResetReport(msgspec.Struct, frozen=True):
    """What the strategy has forgotten."""

    status: str
    cleared_count: int
    """Trackers."""
    tracker: str | None
    strategy: str
    timestamp: float
    message: str


class OverrideAnswer(msgspec.Struct, frozen=True):
    """The cap of a tracker from now on."""

    status: Literal["set", "cleared"]
    tracker: str
    rate: int | None
    """bytes/s; None where there is no cap, or none by override."""
    until: float | None
    cap: str
    """The cap that holds now, in words."""
    timestamp: float

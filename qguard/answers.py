"""Typed answers of the service besides those about a decision (`qguard.report`). Rates and limits are bytes/s."""

from typing import Literal

import msgspec

from qguard.ledger import ActionSummary, Change


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
    """A page of the ledger, newest first."""

    cycles: tuple[ActionSummary, ...]
    changes: tuple[Change, ...]

"""Every endpoint in one table: what it takes, what it answers, who may call it. Handlers only call the service."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from qguard import report
from qguard.answers import (
    AdoptReport,
    AnnounceHost,
    Health,
    HistoryReport,
    MatchReport,
    PauseReport,
    ReloadReport,
    RequestError,
    RolloutReport,
)
from qguard.api import schemas
from qguard.api.access import Need
from qguard.inbox import InboxFullError
from qguard.rollback import RollbackReport, Scope
from qguard.service import Service


@dataclass(frozen=True, slots=True)
class Call:
    """One request, decoded."""

    who: str
    """The caller, for the ledger."""
    body: Any
    query: Any
    path: dict[str, str]


Handler = Callable[[Service, Call], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the interface."""

    method: str
    path: str
    handler: Handler
    need: Need
    answer: Any
    """Type of the answer."""
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] = schemas.Nothing
    status: int = 200

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().splitlines()[0]


async def health(service: Service, _: Call) -> Health:
    """How the service is; cheap, never asks qBittorrent."""
    return service.health()


async def force(service: Service, call: Call) -> report.CycleReport:
    """Run a cycle now, on a full listing."""
    return await service.cycle(who=call.who, reason=call.body.reason, force_full=True)


async def preview(service: Service, _: Call) -> report.PreviewReport:
    """What the next cycle would do."""
    return await service.preview()


async def preview_other(service: Service, call: Call) -> report.PreviewReport:
    """What the next cycle would do under another configuration."""
    return await service.preview(call.body.config)


async def roll_back(service: Service, call: Call) -> RollbackReport:
    """Put earlier limits back and leave the torrents alone until resumed."""
    body: schemas.RollbackBody = call.body
    if not (body.confirm or body.dry_run):
        raise RequestError("not_confirmed", "a rollback must be confirmed", 'send {"confirm": true}')
    return await service.rollback(
        Scope(body.tracker, body.cycle, body.since),
        who=call.who,
        reason=body.reason or "Manual rollback",
        force=body.force,
        dry_run=body.dry_run,
    )


async def rollout(service: Service, call: Call) -> RolloutReport:
    """Set the percentage of torrents that are managed."""
    body: schemas.RolloutBody = call.body
    return await service.set_rollout(body.percentage, tracker=body.tracker, who=call.who, reason=body.reason)


async def pause(service: Service, call: Call) -> PauseReport:
    """Write nothing any more, until resumed."""
    body: schemas.PauseBody = call.body
    return await service.pause(tracker=body.tracker, until=body.until, who=call.who, reason=body.reason)


async def resume(service: Service, call: Call) -> PauseReport:
    """Take up again what was paused or rolled back."""
    body: schemas.ResumeBody = call.body
    return await service.resume(
        tracker=body.tracker, who=call.who, reason=body.reason, foreign=body.foreign, hashes=body.hashes
    )


async def adopt(service: Service, call: Call) -> AdoptReport:
    """Say which limits count as originals, at first contact."""
    return await service.adopt(call.body.originals, who=call.who)


async def trackers(service: Service, _: Call) -> tuple[AnnounceHost, ...]:
    """Announce hosts of the client's torrents, their rates and the rules that take them."""
    return await service.trackers()


async def match(service: Service, call: Call) -> MatchReport:
    """Which rule takes an announce URL."""
    return service.match(call.query.url, call.query.category, call.query.tags)


async def explain(service: Service, call: Call) -> report.Explanation:
    """Why a torrent has the limit it has."""
    return await service.explain(call.path["hash"])


async def ledger(service: Service, call: Call) -> HistoryReport:
    """A page of the history: the latest cycles, or the changes of a torrent, tracker or cycle."""
    query: schemas.LedgerQuery = call.query
    return await service.history(
        infohash=query.hash, tracker=query.tracker, cycle=query.cycle, before_id=query.before, limit=query.limit
    )


async def reload(service: Service, _: Call) -> ReloadReport:
    """Read the configuration file again."""
    return await service.reload()


async def hook(service: Service, call: Call) -> schemas.HookAnswer:
    """Have a torrent looked at at once; for qBittorrent's external programs."""
    began = time.perf_counter()
    body: schemas.HookBody = call.body
    try:
        service.announce(body.hash)
    except InboxFullError as error:
        raise RequestError("inbox_full", str(error), "the next full listing finds the torrent", 503) from None
    took = (time.perf_counter() - began) * 1000
    return schemas.HookAnswer("queued", len(service.inbox), round(took, 3))


ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint("GET", "/health", health, Need.NOTHING, Health),
    Endpoint("GET", "/preview/next-cycle", preview, Need.READ, report.PreviewReport),
    Endpoint("GET", "/trackers", trackers, Need.READ, tuple[AnnounceHost, ...]),
    Endpoint("GET", "/match/test", match, Need.READ, MatchReport, query=schemas.MatchQuery),
    Endpoint("GET", "/explain/{hash}", explain, Need.READ, report.Explanation),
    Endpoint("GET", "/ledger", ledger, Need.READ, HistoryReport, query=schemas.LedgerQuery),
    Endpoint("POST", "/webhook", hook, Need.HOOK, schemas.HookAnswer, schemas.HookBody, status=202),
    Endpoint("POST", "/cycle/force", force, Need.ALL, report.CycleReport, schemas.ForceBody),
    Endpoint("POST", "/preview/next-cycle", preview_other, Need.ALL, report.PreviewReport, schemas.PreviewBody),
    Endpoint("POST", "/rollback", roll_back, Need.ALL, RollbackReport, schemas.RollbackBody),
    Endpoint("POST", "/rollout", rollout, Need.ALL, RolloutReport, schemas.RolloutBody),
    Endpoint("POST", "/pause", pause, Need.ALL, PauseReport, schemas.PauseBody),
    Endpoint("POST", "/resume", resume, Need.ALL, PauseReport, schemas.ResumeBody),
    Endpoint("POST", "/adopt", adopt, Need.ALL, AdoptReport, schemas.AdoptBody),
    Endpoint("POST", "/config/reload", reload, Need.ALL, ReloadReport),
)

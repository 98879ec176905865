"""Every endpoint in one table: what it takes, what it answers, who may call it. Handlers only call the service."""

import time
from typing import Any, Final

import msgspec
from starlette.responses import HTMLResponse, PlainTextResponse, Response

from qguard import __version__, metrics, report
from qguard.answers import (
    AdoptReport,
    AnnounceHost,
    ConfigReport,
    Health,
    HistoryReport,
    Index,
    LimitsResetReport,
    ManagedReport,
    MatchReport,
    OverrideAnswer,
    PauseReport,
    ReloadReport,
    RequestError,
    RolloutReport,
    SmoothingResetReport,
    Stats,
    TrackerStats,
)
from qguard.api import openapi, pages, schemas
from qguard.api.access import Need
from qguard.api.contract import JSON, Call, Endpoint
from qguard.api.stream import Stream
from qguard.doctor import DoctorReport
from qguard.hooks import HookBody, HookRemoveBody, HookReport
from qguard.inbox import InboxFullError
from qguard.log import redact
from qguard.policy import EVERYWHERE
from qguard.redact import Redactor
from qguard.rollback import RollbackReport, Scope
from qguard.service import Service

PATTERNS: Final = Redactor()
"""Knows no secret, and passkeys by where they stand."""


async def health(service: Service, call: Call) -> Health:
    """How the service is; cheap, never asks qBittorrent.

    Who may not read everything is told what is wrong, and not in words: these quote paths, keys and values of the
    configuration, and rules have the names of trackers.
    """
    found = service.health()
    if call.may_read:
        return found
    return msgspec.structs.replace(
        found,
        problems=dict.fromkeys(found.problems, "ask with server.read_key for the words"),
        client="",
        paused=tuple(scope for scope in found.paused if scope == EVERYWHERE),
    )


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
        Scope(body.tracker, None if body.cycle is None else int(body.cycle), body.since),
        who=call.who,
        reason=body.reason or "Manual rollback",
        force=body.force,
        dry_run=body.dry_run,
    )


async def rollout(service: Service, call: Call) -> RolloutReport:
    """Set the percentage of torrents that are managed."""
    body: schemas.RolloutBody = call.body
    return await service.set_rollout(int(body.percentage), tracker=body.tracker, who=call.who, reason=body.reason)


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
    return await service.adopt(call.body.originals, who=call.who, anywhere=False)


async def trackers(service: Service, _: Call) -> tuple[AnnounceHost, ...]:
    """Announce hosts of the client's torrents, their rates and the rules that take them."""
    return await service.trackers()


async def match(service: Service, call: Call) -> Response:
    """Which rule takes an announce URL."""
    query: schemas.MatchQuery = call.query
    found = service.match(query.url, query.category, query.tags)
    shown = redact.strings(msgspec.to_builtins(found))
    # Passkeys are hidden in what was sent, and secrets are not: hidden, they would tell that they are.
    shown["url"] = PATTERNS(found.url)
    if not query.detailed:
        shown["matches"] = []
    return Response(msgspec.json.encode(shown), media_type=JSON)


async def explain(service: Service, call: Call) -> report.Explanation:
    """Why a torrent has the limit it has."""
    name = call.path["hash"]
    try:
        return await service.explain(name)
    except RequestError as error:
        if call.who == "command":
            raise
        # Hidden where it is a secret, what was sent would tell that it is one.
        words = error.message.replace(repr(name), "'…'")
        raise RequestError(error.code, words, error.hint, error.status) from None


async def ledger(service: Service, call: Call) -> HistoryReport:
    """A page of the history: the latest actions, or the changes of a torrent, tracker or cycle."""
    query: schemas.LedgerQuery = call.query
    return await service.history(
        infohash=(query.hash or "").strip().lower() or None,
        tracker=query.tracker or None,
        cycle=None if query.cycle is msgspec.UNSET else query.cycle,
        before_id=None if query.before is msgspec.UNSET else query.before,
        limit=query.limit,
        show=None if query.show == "auto" else query.show,
    )


async def reload(service: Service, call: Call) -> ReloadReport:
    """Read the configuration file again."""
    return await service.reload(who=call.who)


async def index(service: Service, call: Call) -> Index | Response:
    """Who answers here, and what can be asked; a page for browsers."""
    state = service.health()
    found = Index(
        name="qguard",
        version=__version__,
        description=openapi.DESCRIPTION,
        status=state.status,
        client=state.client,
        endpoints=dict(sorted({_label(endpoint.path): endpoint.path for endpoint in ENDPOINTS}.items())),
    )
    if "text/html" not in call.headers.get("accept", ""):
        return found
    return HTMLResponse(pages.index(found, ENDPOINTS))


def _label(path: str) -> str:
    """/preview/next-cycle -> preview_next_cycle; the root is itself."""
    words = path.partition("{")[0].strip("/").replace("/", "_").replace("-", "_").replace(".", "_")
    return words or "root"


async def stats(service: Service, _: Call) -> Stats:
    """The service in numbers, since it started; never asks qBittorrent."""
    return service.stats()


async def stats_trackers(service: Service, _: Call) -> dict[str, TrackerStats]:
    """Every tracker in numbers, by its id."""
    return await service.tracker_stats()


async def stats_managed(service: Service, _: Call) -> ManagedReport:
    """The torrents that get their limits from qguard."""
    return await service.managed()


async def config(service: Service, _: Call) -> ConfigReport:
    """The configuration in force, without secrets."""
    return service.config()


async def prometheus(service: Service, _: Call) -> Response:
    """Metrics for Prometheus; never asks qBittorrent."""
    return PlainTextResponse(service.metrics(), media_type=metrics.CONTENT_TYPE)


async def events(service: Service, call: Call) -> Response:
    """What happens, as it happens: `cycle`, `trackers` and `health`, as server-sent events."""
    if service.events.is_full:
        raise RequestError("too_many_listeners", "as many listen already as may", "close another page", 503)
    first: list[tuple[str, object]] = [("health", service.health())]
    if service.last is not None:
        first += [("cycle", service.last.report), ("trackers", await service.tracker_stats())]
    return Stream(service.events.listen(*first, may_listen=call.still_open))


async def document(_: Service, __: Call) -> dict[str, Any]:
    """This interface as an OpenAPI 3.1 document."""
    return openapi.document(ENDPOINTS)


async def override(service: Service, call: Call) -> OverrideAnswer:
    """Give a tracker another cap for a while, or take that away again."""
    body: schemas.OverrideBody = call.body
    rate = int(body.rate) if isinstance(body.rate, float) and body.rate.is_integer() else body.rate
    return await service.override(body.tracker, rate, until=body.until, who=call.who, reason=body.reason)


async def limits_reset(service: Service, call: Call) -> LimitsResetReport:
    """Put all originals back and leave the torrents alone until resumed."""
    body: schemas.LimitsResetBody = call.body
    if not body.confirm:
        raise RequestError("not_confirmed", "a reset must be confirmed", 'send {"confirm": true}')
    return await service.reset_limits(
        everything=body.scope == "all", mark_restored=body.mark_restored, who=call.who, reason=body.reason
    )


async def smoothing_reset(service: Service, call: Call) -> SmoothingResetReport:
    """Let the strategy forget what it has smoothed so far, for one tracker or all."""
    body: schemas.SmoothingResetBody = call.body
    if body.all == (body.tracker_id is not None):
        raise RequestError(
            "nothing_named",
            "say what is to be reset: one tracker or all",
            'send {"tracker_id": "..."} or {"all": true}',
            422,
        )
    return await service.reset_smoothing(body.tracker_id, who=call.who)


async def hook(service: Service, call: Call) -> schemas.HookAnswer:
    """Have a torrent looked at at once; for qBittorrent's external programs."""
    began = time.perf_counter()
    body: schemas.WebhookBody = call.body
    try:
        service.announce(body.hash, body.event)
    except InboxFullError as error:
        raise RequestError("inbox_full", str(error), "the next full listing finds the torrent", 503) from None
    took = (time.perf_counter() - began) * 1000
    status = "noted" if body.event == "delete" else "queued"
    return schemas.HookAnswer(status, len(service.inbox), round(took, 3))


async def hook_lines(service: Service, _: Call) -> HookReport:
    """The lines by which qBittorrent calls the webhook, for pasting."""
    return await service.hook_lines()


async def hook_install(service: Service, call: Call) -> HookReport:
    """Let qBittorrent call the webhook for each torrent that is added, or finished too."""
    body: HookBody = call.body
    return await service.install_hook(finished=body.finished, who=call.who, reason=body.reason)


async def hook_remove(service: Service, call: Call) -> HookReport:
    """Put back what qBittorrent ran before the hook was installed."""
    body: HookRemoveBody = call.body
    return await service.remove_hook(who=call.who, reason=body.reason)


async def doctor(service: Service, _: Call) -> DoctorReport:
    """What is good, what is not, and what to do about it; asks qBittorrent and tries the ledger."""
    return await service.doctor()


TEXT: Final = ("text/plain",)
STREAM: Final = ("text/event-stream",)
EVENTS: Final = (("cycle", report.CycleReport), ("trackers", dict[str, TrackerStats]), ("health", Health))

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    Endpoint("GET", "/", index, Need.READ, Index, media=(JSON, "text/html")),
    Endpoint("GET", "/health", health, Need.NOTHING, Health),
    Endpoint("GET", "/stats", stats, Need.READ, Stats),
    Endpoint("GET", "/stats/trackers", stats_trackers, Need.READ, dict[str, TrackerStats], asks_client=True),
    Endpoint("GET", "/stats/managed", stats_managed, Need.READ, ManagedReport, asks_client=True),
    Endpoint("GET", "/preview/next-cycle", preview, Need.READ, report.PreviewReport, asks_client=True),
    Endpoint("GET", "/config", config, Need.READ, ConfigReport),
    Endpoint("GET", "/match/test", match, Need.READ, MatchReport, query=schemas.MatchQuery),
    Endpoint("GET", "/trackers", trackers, Need.READ, tuple[AnnounceHost, ...], asks_client=True),
    Endpoint(
        "GET",
        "/ledger",
        ledger,
        Need.READ,
        HistoryReport,
        query=schemas.LedgerQuery,
        errors=(409,),
    ),
    Endpoint("GET", "/explain/{hash}", explain, Need.READ, report.Explanation, errors=(404,), asks_client=True),
    Endpoint("GET", "/metrics", prometheus, Need.READ, str, media=TEXT),
    Endpoint(
        "GET",
        "/events",
        events,
        Need.READ,
        str,
        media=STREAM,
        events=EVENTS,
        asks_client=True,
    ),
    Endpoint("GET", "/openapi.json", document, Need.READ, dict[str, Any]),
    Endpoint("POST", "/webhook", hook, Need.HOOK, schemas.HookAnswer, schemas.WebhookBody, status=202),
    Endpoint("GET", "/hook", hook_lines, Need.ALL, HookReport, errors=(409,), asks_client=True),
    Endpoint(
        "POST",
        "/hook/install",
        hook_install,
        Need.ALL,
        HookReport,
        HookBody,
        errors=(409,),
        asks_client=True,
    ),
    Endpoint(
        "POST",
        "/hook/remove",
        hook_remove,
        Need.ALL,
        HookReport,
        HookRemoveBody,
        errors=(409,),
        asks_client=True,
    ),
    Endpoint("GET", "/doctor", doctor, Need.ALL, DoctorReport, asks_client=True),
    Endpoint(
        "POST",
        "/cycle/force",
        force,
        Need.ALL,
        report.CycleReport,
        schemas.ForceBody,
        asks_client=True,
    ),
    Endpoint(
        "POST",
        "/preview/next-cycle",
        preview_other,
        Need.ALL,
        report.PreviewReport,
        schemas.PreviewBody,
        asks_client=True,
    ),
    Endpoint(
        "POST",
        "/rollback",
        roll_back,
        Need.ALL,
        RollbackReport,
        schemas.RollbackBody,
        errors=(404, 409),
        asks_client=True,
    ),
    Endpoint(
        "POST",
        "/rollout",
        rollout,
        Need.ALL,
        RolloutReport,
        schemas.RolloutBody,
        errors=(404,),
    ),
    Endpoint("POST", "/pause", pause, Need.ALL, PauseReport, schemas.PauseBody, errors=(404, 409)),
    Endpoint("POST", "/resume", resume, Need.ALL, PauseReport, schemas.ResumeBody, errors=(404,)),
    Endpoint(
        "POST",
        "/override",
        override,
        Need.ALL,
        OverrideAnswer,
        schemas.OverrideBody,
        errors=(404, 409),
    ),
    Endpoint(
        "POST",
        "/adopt",
        adopt,
        Need.ALL,
        AdoptReport,
        schemas.AdoptBody,
        errors=(404,),
        asks_client=True,
    ),
    Endpoint(
        "POST",
        "/limits/reset",
        limits_reset,
        Need.ALL,
        LimitsResetReport,
        schemas.LimitsResetBody,
        asks_client=True,
    ),
    Endpoint(
        "POST",
        "/smoothing/reset",
        smoothing_reset,
        Need.ALL,
        SmoothingResetReport,
        schemas.SmoothingResetBody,
        errors=(404,),
    ),
    Endpoint("POST", "/config/reload", reload, Need.ALL, ReloadReport, errors=(422,)),
)

"""When cycles run: timer, hooks, back-off, what is told and what is forgotten.

`qguard.service.Service` is this and everything a person can ask for.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import structlog

from allocators.base import BadAllocationError, steers_rates
from qguard import __version__, overview, policy, report, wiring
from qguard.answers import (
    Health,
    RequestError,
)
from qguard.config import (
    Loaded,
    Settings,
)
from qguard.cross_seed import Forwarder
from qguard.cycle import Memory, World, run
from qguard.decision import Decision
from qguard.events import Events
from qguard.inbox import Inbox, Latest
from qguard.ledger import Key, Ledger, LedgerError
from qguard.log import redact
from qguard.pace import Pace, paced
from qguard.policy import EVERYWHERE, Policy
from qguard.previews import Basis, Changes, Previews
from qguard.qbittorrent.client import TorrentClient
from qguard.qbittorrent.errors import ClientError, LoginRefusedError

STALE_AFTER: Final = 5
"""Turns of the loop that may be missed before /health calls it stale; at least `STALE_SECONDS`."""

STALE_SECONDS: Final = 60.0

FORGET_AFTER: Final = 86400.0
"""Seconds for which a torrent must have been missing until its original is forgotten."""

PRUNE_EVERY: Final = 86400.0
"""Seconds between two prunings of the history."""

HOOK_DEBOUNCE: Final = 0.05
"""Seconds between the first hook of a burst and the look at what it named; far below the second that is promised."""

FAILURES: Final = ("client", "ledger", "strategy", "internal")
"""Topics of problems that end a turn of the loop; over with the next one that goes through."""

ClientFactory = Callable[[Settings], TorrentClient]


@dataclass(frozen=True, slots=True)
class Last:
    """What the last cycle that went through left for those who ask."""

    decision: Decision
    report: report.CycleReport


class Loop:
    """One qBittorrent, one ledger, one configuration at a time, and the cycles that keep them together."""

    def __init__(
        self,
        loaded: Loaded,
        ledger: Ledger,
        *,
        client_factory: ClientFactory = wiring.make_client,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.loaded = loaded
        self._started_with = loaded.settings
        self.ledger = ledger
        self.problems: dict[str, str] = {}
        self.last: Last | None = None
        self.totals = overview.Totals()
        self.events = Events()
        self._told: object = None  # what listeners were last told of health
        self._client_factory = client_factory
        self._clock = clock
        self._wall_clock = wall_clock
        self._client = client_factory(loaded.settings)
        self._matcher = policy.make_matcher(loaded.settings)
        self._allocator = policy.make_allocator(loaded.settings)
        self._memory = Memory()
        self.inbox = Inbox(ledger.path.with_name(f"{ledger.path.stem}.hooks"), clock=clock)
        self.forwarder = Forwarder(
            lambda: self.settings.cross_seed,
            lambda: self._client,
            path=ledger.path.with_name(f"{ledger.path.stem}.cross-seed"),
        )
        self.hooked = Latest(ledger.path.with_name(f"{ledger.path.stem}.last-hook"), clock=wall_clock)
        self.door_keys: tuple[str, ...] = ()
        """What opens our doors at present, wherever it is from; no reload lets it show."""
        self._serving = False
        self._cycle_wanted = True
        self._unsure = False  # what is remembered may no longer be what the client has: list everything next time
        self._refused: LoginRefusedError | None = None
        self._lock = asyncio.Lock()
        self._changes = Changes()
        self.previews = Previews(lambda: client_factory(self.settings), self._basis, clock, self._changes)
        self._reloading = asyncio.Lock()
        self._retired: set[asyncio.Task[None]] = set()  # clients of former configurations, being closed
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._failures = 0
        self._started = clock()
        self._turned = clock()
        self._version = ""
        self._met = False  # whether version and refresh interval are those of the client that answers now
        self._refresh = 0.0
        self._missing: dict[Key, float] = {}
        self._pruned_at: float | None = None
        self._log = structlog.get_logger("qguard")

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self.loaded.settings

    @property
    def world(self) -> World:
        """The neighbours, for one cycle."""
        return World(self._client, self.ledger, self._clock, self._wall_clock)

    def _basis(self) -> Basis:
        return Basis(self.world, self._memory, self.policy(), self._unsure, self._refused)

    @contextlib.asynccontextmanager
    async def _changing(self) -> AsyncIterator[None]:
        """Alone, and previews that look meanwhile look again."""
        async with self._lock:
            with self._changes.under_way():
                yield

    def policy(self) -> Policy:
        """What configuration and commands say at this moment."""
        return policy.make(
            self.settings,
            self.ledger.controls,
            self._wall_clock(),
            matcher=self._matcher,
            allocator=self._allocator,
        )

    # The loop

    async def serve(self) -> None:
        """Run cycles, and look at what hooks name in between, until `stop` is called."""
        self._serving = True
        self.forwarder.start()
        next_cycle = self._clock()
        while not self._stop.is_set():
            if self._cycle_wanted or self._clock() >= next_cycle:
                self._cycle_wanted = False
                await self.turn()
                next_cycle = self._clock() + self.interval()
            elif self.inbox.due():
                await asyncio.sleep(HOOK_DEBOUNCE)  # a burst of hooks is one look
                await self.turn(self.inbox.due())
            due = self.inbox.next_due()
            wait = (next_cycle if due is None else min(next_cycle, due)) - self._clock()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(wait, 0.0))
            self._wake.clear()

    def stop(self) -> None:
        """End the loop after the cycle that is under way."""
        self._stop.set()
        self._wake.set()
        self.events.close()

    def wake(self) -> None:
        """Let the next cycle begin now."""
        self._cycle_wanted = True
        self._wake.set()

    def announce(self, infohash: str, event: str = "add") -> None:
        """A hook names a torrent: look at it as soon as possible, and pass it on when it is `complete`.

        Raises:
            RequestError: that is no info-hash.
            InboxFullError: it cannot be kept.
        """
        name = torrent_id(infohash)
        self.hooked.note()
        if event == "delete":
            return  # nothing to look at; a torrent that waits is given up by itself
        if event == "complete":
            self.forwarder.offer(name)
        self.inbox.put(name)
        self._wake.set()

    def pace(self) -> Pace:
        """The interval until the next cycle: stretched for a client that lists slowly, backed off while it is away."""
        reading = self._memory.reading
        return paced(
            self.settings.global_.poll_interval,
            steers=steers_rates(self._allocator),
            refresh=self._refresh,
            cost=reading.active_cost if reading else 0.0,
            failures=self._failures,
        )

    def interval(self) -> float:
        """Seconds until the next cycle."""
        return self.pace().seconds

    async def turn(self, names: Sequence[str] = ()) -> None:
        """One cycle of the loop. Whatever goes wrong is told once, shown in /health and tried again.

        Args:
            names: info-hashes to look at, instead of all torrents.
        """
        client = self._client
        try:
            done = await self.cycle(who="hook" if names else "service", reason="", names=names)
            await self._sort_out(names, full=not names or done.full)
        except (ClientError, LedgerError, BadAllocationError) as error:
            if client is self._client:
                self._fail(error)
            else:
                self._log.info(f"before the configuration was changed: {error}")
        except Exception as error:  # noqa: BLE001 - the loop must outlive a fault of ours; it is logged in full
            self._fail(error, unexpected=True)
        self._turned = self._clock()
        self._tell_health()

    def _tell_health(self) -> None:
        """Tell listeners when the status or a problem is new or over."""
        health = self.health()
        told = (health.status, health.problems, health.paused, health.rollout_percentage)
        if told != self._told:
            self._told = told
            self.events.publish("health", health)

    def _fail(self, error: Exception, *, unexpected: bool = False) -> None:
        self._failures += 1
        topic = {ClientError: "client", LedgerError: "ledger", BadAllocationError: "strategy"}
        name = next((name for kind, name in topic.items() if isinstance(error, kind)), "internal")
        self.totals.fail(name)
        words = f"{type(error).__name__}: {error}" if unexpected else str(error)
        if self.problems.get(name) != words:
            self._log.error(words, exc_info=unexpected)
        self.problems[name] = words
        if isinstance(error, ClientError):
            self._met = False  # it may come back as another version, with another refresh interval
        if isinstance(error, LoginRefusedError):
            self._refused = error

    async def _sort_out(self, names: Sequence[str], *, full: bool) -> None:
        """What the hooks named has been seen, or is to be looked for again."""
        torrents = self.last.decision.reading.torrents if self.last else None
        names = list(names) if not full else self.inbox.names()
        if torrents is None or not names:
            return
        there = torrents.rows_of(names) >= 0
        self.inbox.found(name for name, known in zip(names, there, strict=True) if known)
        doubtful = self.inbox.missing(name for name, known in zip(names, there, strict=True) if not known)
        if doubtful:
            try:
                aliases = await self._client.aliases()
            except ClientError:
                self.inbox.doubt_again(doubtful)
                raise
            for name in doubtful:
                if name in aliases:
                    self.inbox.found([name])
                    self.inbox.put(aliases[name])

    async def cycle(
        self, *, who: str, reason: str, force_full: bool = False, names: Sequence[str] = ()
    ) -> report.CycleReport:
        """One cycle, now; with `names` on what hooks named, as soon as all torrents were read once."""
        async with self._lock:
            # All of one moment: a reload does not wait, and a cycle ends with what it began with.
            world, rules, memory = self.world, self.policy(), self._memory
            client, began, requests = world.client, self._clock(), world.client.requests
            if not self._met:
                await self._meet(client)
            with contextlib.ExitStack() as changing:
                try:
                    decision, verdict, memory = await run(
                        world,
                        rules,
                        memory,
                        who=who,
                        reason=redact(reason),
                        force_full=force_full or self._unsure,
                        names=names,
                        before_writing=lambda: changing.enter_context(self._changes.under_way()),
                    )
                except BaseException:
                    self._unsure = True
                    raise
                done = report.cycle(
                    decision,
                    verdict,
                    duration=self._clock() - began,
                    timestamp=self._wall_clock(),
                    requests=client.requests - requests,
                )
                self.totals.add(done, len(decision.reading.torrents))
                if client is not self._client:  # the client of now knows nothing of all this
                    return done
                self._memory, self._unsure, self._refused = memory, False, None
                self.last = Last(decision, done)
                self._tell(decision, done)
                await self._tidy(decision)
            self.events.publish("cycle", done)
            self.events.publish("trackers", overview.tracker_stats(decision, self.doubts()))
            self._tell_health()
            return done

    async def _meet(self, client: TorrentClient) -> None:
        version = await client.version()
        if client is not self._client:
            return
        kind = "a simulated qBittorrent" if self.settings.qbittorrent.is_embedded else "qBittorrent"
        met, self._version = self._version, f"{kind} {version.app} (Web API {version.api})"
        self._met, self._refresh = True, version.refresh_interval
        if self._version != met:
            self._log.info(f"connected to {self._version}")

    def _use(self, client: TorrentClient) -> None:
        """Take another client from the next cycle on. The former one is closed when a cycle is done with it."""

        async def close(former: TorrentClient) -> None:
            async with self._lock:
                pass  # whoever used it is done
            await former.close()

        task = asyncio.create_task(close(self._client), name="close")
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)
        self._client, self._memory, self._version, self._refused = client, Memory(), "", None
        self._met, self._refresh = False, 0.0
        self.previews.renew()

    def _tell(self, decision: Decision, done: report.CycleReport) -> None:
        """Log what changed and what is new; forget problems that are over."""
        if self._failures and "client" in self.problems:
            self._log.info("qBittorrent answers again")
        self._failures = 0
        for topic in FAILURES:
            self.problems.pop(topic, None)
        self.note("writing", decision.policy.observe_only and f"observing only: {decision.policy.observe_only}")
        conflicts = "; ".join(f"{tracker}: {words}" for tracker, words in decision.allocated.conflicts.items())
        self.note("caps", conflicts)
        alerts = [r.id for r in self.settings.trackers if r.on_foreign_change == "alert"]
        foreign = decision.matched.own.foreign & np.isin(
            decision.matched.rule, [n for n, tracker in enumerate(decision.policy.ids) if tracker in alerts]
        )
        self.note(
            "foreign changes",
            f"{int(foreign.sum())} torrents were changed by somebody else and are left alone" if foreign.any() else "",
        )
        for infohash, _ in decision.matched.findings.seen:
            self._log.warning(f"limit of {infohash} was changed by somebody else after qguard")
        if done.changed and not done.observe_only:
            caps = {t.id: t for t in report.trackers(decision)}
            self._log.info(
                f"cycle {done.cycle}: {done.applied} of {done.changed} limits changed in {done.calls} calls",
                raised=sum(t.raised for t in caps.values()),
                lowered=sum(t.lowered for t in caps.values()),
                standing=sum(t.standing for t in caps.values()),
                given_back=sum(t.given_back for t in caps.values()),
                left_for_later=decision.planned.plan.unstaged,
                lost=done.lost,
                overridden=done.overridden,
                ms=round(done.duration_seconds * 1000),
            )

    def note(self, topic: str, words: str) -> None:
        """Keep a problem for /health, and log it when it is new or (with no words) over."""
        if words and self.problems.get(topic) != words:
            self._log.warning(words)
            self.problems[topic] = words
        elif not words and topic in self.problems:
            del self.problems[topic]
            self._log.info(f"no longer: {topic}")

    async def _tidy(self, decision: Decision) -> None:
        """Forget originals of torrents that are long gone, and old history."""
        if decision.reading.full:
            now = self._clock()
            torrents = decision.reading.torrents
            there = set(torrents.keys(np.arange(len(torrents))))
            gone = [key for key in self.ledger.claims if key not in there]
            self._missing = {key: self._missing.get(key, now) for key in gone}
            forgotten = [key for key, since in self._missing.items() if now - since >= FORGET_AFTER]
            if forgotten:
                await self.ledger.forget(forgotten)
        if self._pruned_at is None or self._clock() - self._pruned_at >= PRUNE_EVERY:
            self._pruned_at = self._clock()
            await self.ledger.prune(self.settings.rollback.keep_days, self.settings.rollback.max_rows)

    def _idle(self) -> float:
        """Seconds since the last turn of the loop, 0.0 while that is no reason to worry."""
        idle = self._clock() - self._turned
        return idle if idle > max(STALE_AFTER * self.interval(), STALE_SECONDS) else 0.0

    def doubts(self) -> dict[str, str]:
        """Tracker id -> why its cap is not kept at present, whatever the last decision says of it."""
        topics = [topic for topic in FAILURES if topic in self.problems] + (["loop"] if self._idle() else [])
        if topics:
            words = f"no cycle goes through: see {', '.join(topics)} in /health"
            return {rule.id: words for rule in self.settings.trackers}
        now = self._wall_clock()
        return {
            rule.id: "paused"
            for rule in self.settings.trackers
            if policy.pause_reason(self.ledger.controls, rule.id, now)
        }

    def health(self) -> Health:
        """How the service is; cheap."""
        stale = idle = self._idle()
        last = self.last
        problems = dict(self.problems)
        if self.forwarder.problem:
            problems["cross-seed"] = self.forwarder.problem
        if stale:
            problems["loop"] = f"no cycle has ended for {idle:.0f} s; look at the log and restart qguard"
        if stale:
            status: Literal["starting", "healthy", "degraded", "unhealthy"] = "unhealthy"
        elif problems:
            status = "degraded"
        else:
            status = "healthy" if last else "starting"
        now = self._wall_clock()
        return Health(
            status=status,
            problems=problems,
            uptime_seconds=round(self._clock() - self._started, 1),
            version=__version__,
            client=self._version,
            last_cycle_time=last.report.timestamp if last else None,
            last_cycle_duration=last.report.duration_seconds if last else None,
            last_hook_time=self.hooked.at,
            rollout_percentage=policy.percentage(self.settings, self.ledger.controls, EVERYWHERE),
            update_interval=round(self.interval(), 2),
            dry_run=self.settings.global_.dry_run,
            active_torrents=int(last.decision.estimated.demand.awake.sum()) if last else 0,
            managed_torrents=int(last.decision.planned.managed.sum()) if last else 0,
            api_calls_last_cycle=last.report.requests if last else 0,
            unstaged=last.decision.planned.plan.unstaged if last else 0,
            paused=tuple(
                scope
                for name, scope in self.ledger.controls
                if name == "pause" and policy.pause_reason(self.ledger.controls, scope, now)
            ),
        )


def torrent_id(infohash: str, hint: str = "send %K, or %I before qBittorrent 4.4, as hash") -> str:
    """The name by which qBittorrent goes: a v2 hash is cut to 40 digits.

    Args:
        infohash: in either case.
        hint: what to do where it is none.

    Raises:
        RequestError: neither a v1 nor a v2 info-hash.
    """
    name = infohash.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        raise RequestError("bad_hash", "the hash is not an info-hash", hint, 422)
    return name[:40]

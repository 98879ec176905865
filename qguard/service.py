"""When things happen: the loop of cycles, and everything a person can ask for in between.

One lock: cycles, rollbacks, rollout changes, pauses and adoptions never overlap. Commands and endpoints call the
methods of `Service` and nothing below it.
"""

import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import structlog

from allocators.base import BadAllocationError
from qguard import __version__, hooks, metrics, overview, policy, questions, report, wiring
from qguard.answers import (
    AdoptReport,
    AnnounceHost,
    ConfigReport,
    Health,
    HistoryReport,
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
from qguard.config import (
    BadValueError,
    ConfigError,
    Loaded,
    Settings,
    describe_cap,
    load,
    parse,
    parse_rate,
    redacted,
    restart_needed,
)
from qguard.cross_seed import Forwarder
from qguard.cycle import GONE, Memory, World, look, read_limits, run
from qguard.decision import Decision
from qguard.doctor import DoctorReport, Facts, examine
from qguard.events import Events
from qguard.inbox import Inbox
from qguard.ledger import Hold, Key, Ledger, LedgerError, read_originals_file
from qguard.log import redact
from qguard.observe import pause_between
from qguard.policy import EVERYWHERE, NO_CAP, Policy
from qguard.qbittorrent.client import TorrentClient
from qguard.qbittorrent.errors import ClientError, UnreachableError
from qguard.rollback import RollbackReport, Scope, rollback
from qguard.snapshot import UNLIMITED

LONGEST_BACKOFF: Final = 60.0
"""Seconds between two tries while the client does not answer."""

STALE_AFTER: Final = 5
"""Turns of the loop that may be missed before /health calls it stale; at least `STALE_SECONDS`."""

STALE_SECONDS: Final = 60.0

FORGET_AFTER: Final = 86400.0
"""Seconds for which a torrent must have been missing until its original is forgotten."""

PRUNE_EVERY: Final = 86400.0
"""Seconds between two prunings of the history."""

HOOK_DEBOUNCE: Final = 0.05
"""Seconds between the first hook of a burst and the look at what it named; far below the second that is promised."""

ClientFactory = Callable[[Settings], TorrentClient]


@dataclass(frozen=True, slots=True)
class Last:
    """What the last cycle that went through left for those who ask."""

    decision: Decision
    report: report.CycleReport


class Service:
    """One qBittorrent, one ledger, one configuration at a time."""

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
        self.forwarder = Forwarder(lambda: self.settings.cross_seed, lambda: self._client)
        self.last_hook: float | None = None
        self._serving = False
        self._cycle_wanted = True
        self._unsure = False  # what is remembered may no longer be what the client has: list everything next time
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._failures = 0
        self._started = clock()
        self._turned = clock()
        self._version = ""
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
        self.last_hook = self._wall_clock()
        if event == "delete":
            return  # nothing to look at; a torrent that waits is given up by itself
        if event == "complete":
            self.forwarder.offer(name)
        self.inbox.put(name)
        self._wake.set()

    def interval(self) -> float:
        """Seconds until the next cycle: stretched for a client that lists slowly, backed off while it is away."""
        reading = self._memory.reading
        usual = max(
            self.settings.global_.poll_interval,
            self._refresh,
            pause_between(reading.active_cost) if reading else 0.0,
        )
        if not self._failures:
            return usual
        return max(usual, min(usual * 2.0 ** min(self._failures, 10), LONGEST_BACKOFF))

    async def turn(self, names: Sequence[str] = ()) -> None:
        """One cycle of the loop. Whatever goes wrong is told once, shown in /health and tried again.

        Args:
            names: info-hashes to look at, instead of all torrents.
        """
        try:
            done = await self.cycle(who="hook" if names else "service", reason="", names=names)
            await self._sort_out(names, full=not names or done.full)
        except (ClientError, LedgerError, BadAllocationError) as error:
            self._fail(error)
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

    # What changes limits

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
            began, requests = self._clock(), self._client.requests
            if not self._version:
                await self._meet()
            full, self._unsure = force_full or self._unsure, True
            decision, verdict, self._memory = await run(
                self.world,
                self.policy(),
                self._memory,
                who=who,
                reason=redact(reason),
                force_full=full,
                names=names,
            )
            self._unsure = False
            done = report.cycle(
                decision,
                verdict,
                duration=self._clock() - began,
                timestamp=self._wall_clock(),
                requests=self._client.requests - requests,
            )
            self.last = Last(decision, done)
            self.totals.add(done, len(decision.reading.torrents))
            self._tell(decision, done)
            await self._tidy(decision)
            self.events.publish("cycle", done)
            self.events.publish("trackers", overview.tracker_stats(decision))
            self._tell_health()
            return done

    async def _meet(self) -> None:
        version = await self._client.version()
        self._version = f"qBittorrent {version.app} (Web API {version.api})"
        self._refresh = version.refresh_interval
        self._log.info(f"connected to {self._version}")

    def _tell(self, decision: Decision, done: report.CycleReport) -> None:
        """Log what changed and what is new; forget problems that are over."""
        if self._failures and "client" in self.problems:
            self._log.info("qBittorrent answers again")
        self._failures = 0
        for topic in ("client", "ledger", "strategy", "internal"):
            self.problems.pop(topic, None)
        self._note("writing", decision.policy.observe_only and f"observing only: {decision.policy.observe_only}")
        conflicts = "; ".join(f"{tracker}: {words}" for tracker, words in decision.allocated.conflicts.items())
        self._note("caps", conflicts)
        alerts = [r.id for r in self.settings.trackers if r.on_foreign_change == "alert"]
        foreign = decision.matched.own.foreign & np.isin(
            decision.matched.rule, [decision.policy.ids.index(i) for i in alerts]
        )
        self._note(
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

    def _note(self, topic: str, words: str) -> None:
        """Keep a problem for /health, and log it when it is new or over."""
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

    async def rollback(
        self, scope: Scope, *, who: str, reason: str, force: bool = False, dry_run: bool = False
    ) -> RollbackReport:
        """Put earlier limits back and pause what was touched."""
        if scope.tracker is not None:
            self._know(scope.tracker)
        if scope.action is not None and scope.since is not None:
            raise RequestError("bad_scope", "both a cycle and a time are given", "give one of the two", 409)
        if scope.action is not None and not await self.ledger.history(action=scope.action, limit=1):
            raise RequestError(
                "unknown_cycle",
                f"the ledger has no changes of cycle {scope.action}",
                "`qguard ledger` or GET /ledger lists the cycles",
                404,
            )
        async with self._lock:
            began = self._clock()
            self._unsure = True
            done = await rollback(
                self.world, self.policy(), scope, who=who, reason=redact(reason), force=force, dry_run=dry_run
            )
            done = msgspec.structs.replace(
                done, duration_seconds=round(self._clock() - began, 3), timestamp=self._wall_clock()
            )
            if not dry_run:
                self._log.warning(
                    f"rollback by {who}: {done.changes_reversed} limits put back, {len(done.left_alone)} left alone, "
                    f"{done.failed} failed; paused until `qguard resume`: {done.paused}"
                )
            return done

    async def shut_down(self, *, hangs: bool = False) -> None:
        """What is to happen when the service ends, and close the neighbours; `hangs`: the client does not answer."""
        async with self._lock:
            if self.settings.global_.on_shutdown == "restore" and self.ledger.originals():
                try:
                    if hangs:
                        raise UnreachableError("a request to qBittorrent hangs")
                    done = await rollback(
                        self.world, self.policy(), Scope(), who="service", reason="shutdown", hold=False
                    )
                    self._log.info(f"put {done.changes_reversed} limits back as they were")
                except (ClientError, LedgerError) as error:
                    self._log.error(f"originals are not restored ({error}); run `qguard rollback` when it is back")
        await self.close()

    async def close(self) -> None:
        """Let go of client and ledger."""
        await self.forwarder.close()
        async with self._lock:
            await self._client.close()
            await self.ledger.close()

    async def set_rollout(self, percentage: int, *, tracker: str | None, who: str, reason: str) -> RolloutReport:
        """Set the percentage of torrents that are managed; it holds until the file's own value changes."""
        scope = EVERYWHERE if tracker is None else self._know(tracker)
        if type(percentage) is not int or not 0 <= percentage <= 100:
            raise RequestError("bad_percentage", f"{percentage!r} is not a percentage", "give a whole number, 0 to 100")
        async with self._lock:
            value = {"percentage": percentage, "file": policy.file_percentage(self.settings, scope)}
            words = _because(f"{scope}: {percentage} %", reason)
            await self.ledger.record("rollout", (), who=who, reason=words, controls={("rollout", scope): value})
        self._log.info(f"rollout of {scope} set to {percentage} % by {who}")
        self.wake()
        return RolloutReport("updated", percentage, tracker, self._wall_clock())

    async def pause(self, *, tracker: str | None, until: float | None, who: str, reason: str) -> PauseReport:
        """Write nothing any more, for one tracker or for all, until resumed (or until then)."""
        scope = EVERYWHERE if tracker is None else self._know(tracker)
        async with self._lock:
            await self.ledger.record(
                "pause", (), who=who, reason=_because(scope, reason), controls={("pause", scope): {"until": until}}
            )
        self._log.info(f"paused {scope} by {who}")
        self._tell_health()
        return PauseReport("paused", scope, until)

    async def resume(
        self, *, tracker: str | None, who: str, reason: str, foreign: bool = False, hashes: tuple[str, ...] = ()
    ) -> PauseReport:
        """Take up again what was paused or rolled back; with `foreign`, also what was yielded to somebody else."""
        scope = EVERYWHERE if tracker is None else self._know(tracker)
        async with self._lock:
            scopes = [s for name, s in self.ledger.controls if name == "pause" and scope in {EVERYWHERE, s}]
            kinds = {"rollback", "foreign"} if foreign or hashes else {"rollback"}
            keys = [
                key
                for key, claim in self.ledger.claims.items()
                if claim.hold in kinds and scope in {EVERYWHERE, claim.tracker} and (not hashes or key[0] in hashes)
            ]
            # What they have now counts as ours from here on: otherwise it would be somebody else's again at once.
            theirs = [key for key in keys if self.ledger.claims[key].hold == "foreign"]
            there = await read_limits(self._client, [infohash for infohash, _ in theirs]) if theirs else {}
            taken = {key: there[key[0]] for key in theirs if there.get(key[0], GONE) != GONE}
            self._unsure = True
            await self.ledger.settle((), reset=taken)
            await self.ledger.record(
                "resume",
                (),
                who=who,
                reason=_because(f"{len(hashes)} torrents" if hashes else scope, reason),
                holds=dict.fromkeys(keys, Hold("")),
                controls={} if hashes else {("pause", paused): None for paused in scopes},
            )
        self._log.info(f"resumed {scope} by {who}" + (f": {reason}" if reason else ""), torrents=len(keys))
        self.wake()
        return PauseReport("resumed", scope, None, len(keys))

    async def adopt(self, originals: str, *, who: str) -> AdoptReport:
        """Say which limits count as originals: `as-is`, `unlimited`, or those of an originals file."""
        async with self._lock:
            torrents = await self._client.torrents()
            rule = self._matcher.match(torrents)
            rows = np.flatnonzero(torrents.up_limit != UNLIMITED)
            keys = dict(zip(torrents.keys(rows), rows.tolist(), strict=True))
            if originals == "as-is":
                values: Mapping[Key, int] = {}
            elif originals == "unlimited":
                values = dict.fromkeys(keys, UNLIMITED)
            else:
                values = await asyncio.to_thread(_originals_of, originals)
            known = {
                key: (value, int(torrents.up_limit[keys[key]]), self.settings.trackers[rule[keys[key]]].id)
                for key, value in values.items()
                if key in keys and value != torrents.up_limit[keys[key]]
            }
            mode = originals if originals in {"as-is", "unlimited"} else "file"
            await self.ledger.adopt(known, mode=mode, who=who)
        self._log.info(f"originals adopted by {who}: {mode}", torrents=len(known))
        self.wake()
        return AdoptReport("adopted", mode, len(known))

    async def reload(self, *, who: str = "file watch") -> ReloadReport:
        """Take a new configuration, or keep the last good one and raise ConfigError (I8)."""
        try:
            new = await asyncio.to_thread(load, self.loaded.path)
            matcher, allocator = policy.make_matcher(new.settings), policy.make_allocator(new.settings)
        except ConfigError as error:
            words = f"the last good configuration stays in force: {error}"
            self._note("configuration", words)
            raise
        async with self._lock:
            restart = restart_needed(self._started_with, new.settings)
            other_client = new.settings.qbittorrent != self.settings.qbittorrent
            self.loaded, self._matcher, self._allocator = new, matcher, allocator
            self.forwarder.reconfigured()
            redact.redactor = wiring.redactor_for(new.settings)
            if other_client:
                await self._client.close()
                self._client = self._client_factory(new.settings)
                self._memory, self._version = Memory(), ""
        for words in (*new.warnings, *(f"{key} changes only with a restart" for key in restart)):
            self._log.warning(words)
        self._note("configuration", f"restart needed for {', '.join(restart)}" if restart else "")
        self._failures = 0
        with contextlib.suppress(LedgerError):  # the next cycle says so; a reload writes nothing to the client
            await self.ledger.record("reload", (), who=who, reason="configuration file")
        self._log.info("configuration reloaded")
        self.wake()
        g = new.settings.global_
        return ReloadReport("reloaded", g.rollout_percentage, g.allocation_strategy, new.warnings, restart)

    async def override(
        self, tracker: str, rate: float | str | None, *, until: float | None, who: str, reason: str
    ) -> OverrideAnswer:
        """Give a tracker another cap for a while; a rate of None takes it away again.

        Args:
            tracker: its id.
            rate: as the configuration writes rates.
            until: epoch seconds; None until cleared.
            who: decided it.
            reason: in words.
        """
        self._know(tracker)
        now = self._wall_clock()
        value: dict[str, object] | None = None
        if rate is not None:
            try:
                cap = parse_rate(rate)
            except BadValueError as error:
                raise RequestError("bad_rate", f"rate {rate!r} {error}", status=422) from None
            if until is not None and until <= now:
                raise RequestError("bad_time", "`until` lies in the past", "give a later time, or none", 409)
            value = {"rate": NO_CAP if cap is None else cap, "until": until, "reason": redact(reason)}
        words = "cleared" if rate is None else describe_cap(cap)
        async with self._lock:
            await self.ledger.record(
                "override",
                (),
                who=who,
                reason=_because(f"{tracker}: {words}", reason),
                controls={("override", tracker): value},
            )
        self._log.info(f"cap of {tracker} overridden by {who}: {words}")
        self.wake()
        holds = int(self.policy().cap[[rule.id for rule in self.settings.trackers].index(tracker)])
        return OverrideAnswer(
            status="cleared" if rate is None else "set",
            tracker=tracker,
            rate=None if rate is None else cap,
            until=None if rate is None else until,
            cap=describe_cap(None if holds == NO_CAP else holds),
            timestamp=now,
        )

    async def reset_limits(self, *, everything: bool, mark_restored: bool, who: str, reason: str) -> LimitsResetReport:
        """Put the originals back everywhere and pause, as a full rollback does.

        Args:
            everything: also torrents that somebody else changed after qguard.
            mark_restored: what is left alone counts as restored too: the ledger lets go of it.
            who: decided it.
            reason: in words.
        """
        dry_run = self.settings.global_.dry_run
        done = await self.rollback(
            Scope(), who=who, reason=_because("limits reset", reason), force=everything, dry_run=dry_run
        )
        if mark_restored and not dry_run and done.left_alone:
            left = {row.hash for row in done.left_alone}
            async with self._lock:
                await self.ledger.settle((), release=[key for key in self.ledger.claims if key[0] in left])
        return LimitsResetReport(
            status="incomplete" if done.failed else "ok",
            count=done.changes_reversed,
            mode="dry-run" if dry_run else "real",
            left_alone=len(done.left_alone),
            failed=done.failed,
            paused=done.paused,
            cycle=done.cycle,
        )

    async def reset_smoothing(self, tracker: str | None, *, who: str) -> SmoothingResetReport:
        """Let the strategy forget what it remembers of one tracker, or (None) of all."""
        if tracker is not None:
            self._know(tracker)
        async with self._lock:
            state = self._memory.state
            forgotten, count = overview.forget(state.strategy, tracker, [rule.id for rule in self.settings.trackers])
            await self.ledger.record(
                "smoothing reset", (), who=who, reason=f"{tracker or EVERYWHERE}: {count} trackers cleared"
            )
            self._memory = replace(self._memory, state=replace(state, strategy=forgotten))
        strategy = self.settings.global_.allocation_strategy
        return SmoothingResetReport(
            status="ok",
            cleared_count=count,
            tracker=tracker,
            strategy=strategy,
            timestamp=self._wall_clock(),
            message="" if count else f"strategy {strategy} remembers nothing of this",
        )

    # qBittorrent's side of the hooks

    async def hook_lines(self) -> hooks.HookReport:
        """The lines by which qBittorrent calls us, for pasting."""
        return await hooks.lines(self.settings, self._client)

    async def install_hook(self, *, finished: bool, who: str) -> hooks.HookReport:
        """Let qBittorrent call us for each torrent that is added, and with `finished` for each finished one."""
        async with self._lock:
            done = await hooks.install(self.settings, self._client, self.ledger, finished=finished, who=who)
        self._log.info(f"hook install by {who}: {done.status}")
        return done

    async def remove_hook(self, *, who: str) -> hooks.HookReport:
        """Put back what stood there before `install_hook`."""
        async with self._lock:
            done = await hooks.remove(self.settings, self._client, self.ledger)
        self._log.info(f"hook remove by {who}: {done.status}")
        return done

    # What only looks

    async def doctor(self) -> DoctorReport:
        """What is good, what is not, and what to do about it."""
        facts = Facts(
            self._wall_clock(),
            self.policy(),
            cross_seed=self.settings.cross_seed.enabled,
            last_hook=self.last_hook,
            service=self._serving,
            problems=self.health().problems,
        )
        try:
            newest = await self.ledger.actions(limit=1)
            facts = replace(facts, last_action=newest[0].at if newest else None)
            async with self._lock:
                await self.ledger.set_control("doctor", EVERYWHERE, 1, who="doctor", reason="can it be written?")
                await self.ledger.clear_control("doctor", EVERYWHERE)
        except LedgerError as error:
            facts = replace(facts, ledger_error=str(error))
        try:
            version = await self._client.version()
            preferences = await self._client.preferences()
            facts = replace(
                facts,
                version=version,
                preferences=preferences,
                transfer=await self._client.transfer(),
                alternative_speed=await self._client.alternative_speed(),
                decision=await self.decision(),
            )
            added, finished = hooks.present(self.settings, self.ledger, preferences)
            facts = replace(facts, hook_added=added, hook_finished=finished)
        except RequestError as error:
            facts = replace(facts, hook_error=str(error))
        except ClientError as error:
            facts = replace(facts, client_error=str(error))
        return examine(facts)

    async def preview(self, other: str | None = None) -> report.PreviewReport:
        """What the next cycle would do, perhaps under another configuration (its YAML text)."""
        async with self._lock:
            rules = self.policy()
            memory = self._memory
            if other is not None:
                settings = (await asyncio.to_thread(parse_other, other, self.loaded.path)).settings
                rules = policy.make(
                    settings,
                    self.ledger.controls,
                    self._wall_clock(),
                    matcher=policy.make_matcher(settings),
                    allocator=policy.make_allocator(settings),
                )
            decision, _ = await look(self.world, rules, memory, force_full=self._unsure)
            return report.preview(decision)

    async def decision(self) -> Decision:
        """The last cycle's conclusions, or fresh ones when there was none yet."""
        if self.last is not None:
            return self.last.decision
        async with self._lock:
            decision, _ = await look(self.world, self.policy(), self._memory)
            return decision

    async def explain(self, name: str) -> report.Explanation:
        """Why a torrent (by its info-hash, or the first digits of it) has the limit it has."""
        return questions.explain(await self.decision(), self.ledger.claims, name)

    async def trackers(self) -> tuple[AnnounceHost, ...]:
        """The announce hosts of the client's torrents, busiest first."""
        return questions.announce_hosts(await self.decision())

    def stats(self) -> Stats:
        """The service in numbers; cheap."""
        return overview.stats(
            self.totals,
            self._shown,
            self.inbox,
            rollout_percentage=policy.percentage(self.settings, self.ledger.controls, EVERYWHERE),
            strategy=self.settings.global_.allocation_strategy,
            dry_run=self.settings.global_.dry_run,
            memory_mb=wiring.resident_mb(),
        )

    async def tracker_stats(self) -> dict[str, TrackerStats]:
        """Every tracker in numbers."""
        return overview.tracker_stats(await self.decision())

    async def managed(self) -> ManagedReport:
        """The torrents that get their limits from qguard."""
        now = self._wall_clock()
        seen_at = self.last.report.timestamp if self.last else now
        return overview.managed(await self.decision(), self.ledger.claims, seen_at=seen_at, now=now)

    def metrics(self) -> str:
        """The text that Prometheus reads."""
        return metrics.render(metrics.State(self.health(), self.totals, self.inbox, self._shown))

    @property
    def _shown(self) -> tuple[Decision, report.CycleReport] | None:
        return (self.last.decision, self.last.report) if self.last else None

    def config(self) -> ConfigReport:
        """The configuration in force, without secrets."""
        shown = redacted(self.settings)
        return ConfigReport(global_settings=shown["global"], global_=shown.pop("global"), **shown)

    def match(self, url: str, category: str = "", tags: str = "") -> MatchReport:
        """Which rule takes a torrent with this announce URL."""
        return questions.match_url(self.settings, self._matcher, url, category, tags)

    async def history(
        self,
        *,
        infohash: str | None = None,
        tracker: str | None = None,
        cycle: int | None = None,
        before_id: int | None = None,
        limit: int = 100,
        show: Literal["cycles", "changes"] | None = None,
    ) -> HistoryReport:
        """A page of the ledger, newest first.

        Args:
            infohash: only changes of this torrent.
            tracker: only changes of this tracker.
            cycle: only changes of this action.
            before_id: what `next_before` of the page before was.
            limit: rows.
            show: actions or changes; without it changes where a filter says which, else actions.
        """
        filtered = infohash is not None or tracker is not None or cycle is not None
        if show == "cycles" and filtered:
            raise RequestError("bad_filter", "only changes can be filtered", "ask for show=changes", 409)
        if show == "cycles" or (show is None and not filtered):
            actions = tuple(await self.ledger.actions(before_id=before_id, limit=limit))
            return HistoryReport(actions, (), "cycles", actions[-1].id if len(actions) == limit else None)
        changes = tuple(
            await self.ledger.history(hash=infohash, tracker=tracker, action=cycle, before_id=before_id, limit=limit)
        )
        return HistoryReport((), changes, "changes", changes[-1].id if len(changes) == limit else None)

    def health(self) -> Health:
        """How the service is; cheap."""
        idle = self._clock() - self._turned
        stale = idle > max(STALE_AFTER * self.interval(), STALE_SECONDS)
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
            last_hook_time=self.last_hook,
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

    def _know(self, tracker: str) -> str:
        """A tracker id of the configuration, or an error that names those there are."""
        ids = [rule.id for rule in self.settings.trackers]
        if tracker not in ids:
            raise RequestError(
                "unknown_tracker", f"there is no tracker {tracker!r}", f"there are {', '.join(ids)}", 404
            )
        return tracker


def torrent_id(infohash: str) -> str:
    """The name by which qBittorrent goes: a v2 hash is cut to 40 digits.

    Raises:
        RequestError: neither a v1 nor a v2 info-hash.
    """
    name = infohash.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        raise RequestError(
            "bad_hash", "the hash is not an info-hash", "send %K, or %I before qBittorrent 4.4, as hash", 422
        )
    return name[:40]


def _because(what: str, reason: str) -> str:
    """What was decided and why, for the ledger."""
    return redact(f"{what}; {reason}" if reason else what)


def _originals_of(name: str) -> dict[Key, int]:
    """The originals in a plain file.

    Raises:
        RequestError: there is no such file.
    """
    path = Path(name)
    if "\0" in name or not path.is_file():
        raise RequestError(
            "no_such_file",
            f"there is no originals file {name!r}",
            "give as-is, unlimited, or the .originals.jsonl file beside the ledger",
            404,
        )
    return read_originals_file(path)


def parse_other(text: str, path: Path) -> Loaded:
    """Another configuration than the one in force, for a preview."""
    return parse(text, source=path, environ=os.environ)

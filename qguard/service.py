"""Everything a person can ask of the running loop. Commands and endpoints call these methods and nothing below them.

One lock: cycles, rollbacks, rollout changes, pauses and adoptions never overlap. What only looks takes no lock, and a
new configuration waits for nothing.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np

from allocators.base import BadAllocationError
from qguard import hooks, metrics, overview, policy, questions, report, wiring
from qguard.answers import (
    AdoptReport,
    AnnounceHost,
    ConfigReport,
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
    describe_cap,
    load,
    parse_proposed,
    parse_rate,
    redacted,
    restart_needed,
)
from qguard.cycle import GONE, read_limits, run
from qguard.decision import Decision
from qguard.doctor import DoctorReport, Facts, examine
from qguard.ledger import Hold, Key, LedgerError, PrunedError, read_originals_file
from qguard.log import redact
from qguard.loop import Loop, torrent_id
from qguard.policy import EVERYWHERE, NO_CAP
from qguard.previews import Basis
from qguard.qbittorrent.errors import ClientError, UnreachableError
from qguard.rollback import RollbackReport, Scope, rollback
from qguard.snapshot import UNLIMITED

REST_WITHIN: Final = 4.0
"""Seconds that a clean stop takes at most to leave limits within the caps; Docker kills what has not ended after 10."""

START_AGAIN: Final = "start qguard again, or run `qguard rollback`"
"""What to do where limits were left that add up to more than the caps."""


class Service(Loop):
    """The loop of cycles, and what changes or explains what it does."""

    # What changes limits

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
        began = self._clock()
        try:
            if dry_run:
                done = await self.previews.ask(
                    lambda basis: rollback(
                        basis.world, basis.policy, scope, who=who, reason=redact(reason), force=force, dry_run=True
                    )
                )
            else:
                done = await self._roll_back(scope, who=who, reason=reason, force=force)
        except PrunedError as error:
            kept = datetime.fromtimestamp(math.floor(error.at) + 1, UTC).isoformat()
            raise RequestError(
                "history_pruned",
                f"the history that a partial rollback needs was pruned: it is kept from {kept} on",
                "give a later time or cycle, or neither: a full rollback needs no history",
                409,
            ) from None
        return msgspec.structs.replace(
            done, duration_seconds=round(self._clock() - began, 3), timestamp=self._wall_clock()
        )

    async def _roll_back(self, scope: Scope, *, who: str, reason: str, force: bool) -> RollbackReport:
        async with self._lock:
            self._unsure = True
            with contextlib.ExitStack() as changing:
                done = await rollback(
                    self.world,
                    self.policy(),
                    scope,
                    who=who,
                    reason=redact(reason),
                    force=force,
                    before_writing=lambda: changing.enter_context(self._changes.under_way()),
                )
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
            elif self.settings.global_.on_shutdown == "keep":
                await self._come_to_rest(hangs=hangs)
        await self.close()

    async def _come_to_rest(self, *, hangs: bool) -> None:
        """One last cycle, which lowers limits until they fit the caps, where they may add up to more than these.

        Holds `_lock` already; never raises, and never takes longer than `REST_WITHIN`.
        """
        rules = replace(self.policy(), at_rest=True)
        before = self.last.decision.policy.overcommit if self.last else 1.0  # of a strategy changed a moment ago
        if max(rules.overcommit, before) <= 1 or rules.observe_only or not self.ledger.originals():
            return
        if hangs:
            self._log.error(f"limits may add up to more than the caps (a request to qBittorrent hangs); {START_AGAIN}")
            return
        unexpected = False
        try:
            async with asyncio.timeout(REST_WITHIN):
                _, done, _ = await run(
                    self.world, rules, self._memory, who="service", reason="shutdown", force_full=self._unsure
                )
        except (ClientError, LedgerError, BadAllocationError, TimeoutError) as error:
            trouble = str(error) or f"qBittorrent did not answer within {REST_WITHIN:g} s"
        except Exception as error:  # noqa: BLE001 - the service ends, whatever it is
            trouble, unexpected = f"{type(error).__name__}: {error}", True
        else:
            missed = done.lost + done.overridden
            trouble = f"{missed} torrents did not take theirs" if missed else ""
            if done.applied:
                self._log.info(f"{done.applied} limits changed, so that all fit the caps while nobody steers")
        if trouble:
            words = f"limits may add up to more than the caps ({trouble}); {START_AGAIN}"
            self._log.error(words, exc_info=unexpected)

    async def close(self) -> None:
        """Let go of client and ledger."""
        self.hooked.keep()
        await self.forwarder.close()
        await self.previews.close()
        await asyncio.gather(*self._retired, return_exceptions=True)
        async with self._lock:
            await self._client.close()
            await self.ledger.close()

    async def set_rollout(self, percentage: int, *, tracker: str | None, who: str, reason: str) -> RolloutReport:
        """Set the percentage of torrents that are managed; it holds until the file's own value changes."""
        scope = EVERYWHERE if tracker is None else self._know(tracker)
        if type(percentage) is not int or not 0 <= percentage <= 100:
            raise RequestError("bad_percentage", f"{percentage!r} is not a percentage", "give a whole number, 0 to 100")
        async with self._changing():
            value = {"percentage": percentage, "file": policy.file_percentage(self.settings, scope)}
            words = _because(f"{scope}: {percentage} %", reason)
            await self.ledger.record("rollout", (), who=who, reason=words, controls={("rollout", scope): value})
        self._log.info(f"rollout of {scope} set to {percentage} % by {who}")
        self.wake()
        return RolloutReport("updated", percentage, tracker, self._wall_clock())

    async def pause(self, *, tracker: str | None, until: float | None, who: str, reason: str) -> PauseReport:
        """Write nothing any more, for one tracker or for all, until resumed (or until then)."""
        scope = EVERYWHERE if tracker is None else self._know(tracker)
        self._ahead(until)
        async with self._changing():
            await self.ledger.record(
                "pause", (), who=who, reason=_because(scope, reason), controls={("pause", scope): {"until": until}}
            )
        self._log.info(f"paused {scope} by {who}")
        self._tell_health()
        self.wake()  # what is told of trackers follows
        return PauseReport("paused", scope, until)

    async def resume(
        self,
        *,
        tracker: str | None,
        who: str,
        reason: str,
        foreign: bool = False,
        hashes: Collection[str] | None = None,
    ) -> PauseReport:
        """Take up again what was paused or rolled back; with `foreign`, also what was yielded to somebody else.

        Args:
            tracker: its id; None for all.
            who: decided it.
            reason: in words.
            foreign: see above.
            hashes: just these torrents, however they came to be left alone; None for all. None at all is an error: it
                does not mean everything.
        """
        scope = EVERYWHERE if tracker is None else self._know(tracker)
        named = None if hashes is None else self._claimed(hashes)
        async with self._changing():
            scopes = [s for name, s in self.ledger.controls if name == "pause" and scope in {EVERYWHERE, s}]
            kinds = {"rollback", "foreign"} if foreign or named is not None else {"rollback"}
            keys = [
                key
                for key, claim in self.ledger.claims.items()
                if claim.hold in kinds and scope in {EVERYWHERE, claim.tracker} and (named is None or key[0] in named)
            ]
            # What they have now counts as ours from here on: otherwise it would be somebody else's again at once.
            theirs = [key for key in keys if self.ledger.claims[key].hold == "foreign"]
            there = await read_limits(self._client, [infohash for infohash, _ in theirs]) if theirs else {}
            taken = {key: there[key[0]] for key in theirs if there.get(key[0], GONE) != GONE}
            self._unsure = True
            what = scope if named is None else _torrents(len(named), tracker)
            await self.ledger.settle((), reset=taken)
            await self.ledger.record(
                "resume",
                (),
                who=who,
                reason=_because(what, reason),
                holds=dict.fromkeys(keys, Hold("")),
                controls={} if named is not None else {("pause", paused): None for paused in scopes},
            )
        self._log.info(f"resumed {what} by {who}" + (f": {reason!r}" if reason else ""), torrents=len(keys))
        self.wake()
        return PauseReport("resumed", what, None, len(keys))

    def _claimed(self, hashes: Collection[str]) -> frozenset[str]:
        """Torrents by name, all of which the ledger knows: what it does not know is not left alone either."""
        hint = "give the 40 digits that qBittorrent shows as its hash, or leave `hashes` out for all torrents"
        if not hashes:
            raise RequestError("nothing_named", "no torrent is named", hint, 422)
        named = frozenset(torrent_id(name, hint) for name in hashes)
        unknown = sorted(named - {infohash for infohash, _ in self.ledger.claims})
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise RequestError(
                "unknown_torrent", f"qguard has never changed torrent {unknown[0]}{more}; nothing was done", hint, 404
            )
        return named

    def _ahead(self, until: float | None) -> None:
        """An end that is still to come, or none."""
        if until is not None and until <= self._wall_clock():
            raise RequestError("bad_time", "`until` lies in the past", "give a later time, or none", 409)

    async def adopt(self, originals: str, *, who: str, anywhere: bool = True) -> AdoptReport:
        """Say which limits count as originals: `as-is`, `unlimited`, or those of an originals file.

        Args:
            originals: see above.
            who: decided it.
            anywhere: whether the file may be outside of the ledger's folder.
        """
        async with self._lock:
            settings, matcher = self.settings, self._matcher
            torrents = await self._client.torrents()
            rule = matcher.match(torrents)
            rows = np.flatnonzero(torrents.up_limit != UNLIMITED)
            keys = dict(zip(torrents.keys(rows), rows.tolist(), strict=True))
            if originals == "as-is":
                values: Mapping[Key, int] = {}
            elif originals == "unlimited":
                values = dict.fromkeys(keys, UNLIMITED)
            else:
                folder = None if anywhere else self.ledger.path.parent
                values = await asyncio.to_thread(_originals_of, originals, folder)
                if values.keys().isdisjoint(torrents.keys(np.arange(len(torrents)))):
                    raise RequestError(
                        "other_originals",
                        f"qBittorrent has none of the {len(values)} torrents of {originals!r}; nothing was adopted",
                        "give the file that belongs to this client, or as-is, or unlimited",
                        422,
                    )
            known = {
                key: (value, int(torrents.up_limit[keys[key]]), settings.trackers[rule[keys[key]]].id)
                for key, value in values.items()
                if key in keys and value != torrents.up_limit[keys[key]]
            }
            mode = originals if originals in {"as-is", "unlimited"} else "file"
            with self._changes.under_way():
                await self.ledger.adopt(known, mode=mode, who=who)
        self._log.info(f"originals adopted by {who}: {mode}", torrents=len(known))
        self.wake()
        return AdoptReport("adopted", mode, len(known))

    async def reload(self, *, who: str = "file watch") -> ReloadReport:
        """Take a new configuration, or keep the last good one and raise ConfigError (I8)."""
        async with self._reloading:  # of two at once, the one that read later counts
            try:
                new = await asyncio.to_thread(load, self.loaded.path)
                matcher, allocator = policy.make_matcher(new.settings), policy.make_allocator(new.settings)
            except ConfigError as error:
                words = "the last good configuration stays in force: " + " | ".join(map(str, error.problems))
                self.note("configuration", words)
                raise
            # All at once and without waiting: a request to the client may hang for as long as it likes.
            restart = restart_needed(self._started_with, new.settings)
            other_client = new.settings.qbittorrent != self.settings.qbittorrent
            self.loaded, self._matcher, self._allocator = new, matcher, allocator
            self._changes.note()
            self.forwarder.reconfigured()
            redact.redactor = wiring.redactor_for(new.settings, *self.door_keys)
            if other_client:
                self._use(self._client_factory(new.settings))
        for words in (*new.warnings, *(f"{key} changes only with a restart" for key in restart)):
            self._log.warning(words)
        self.note("configuration", f"restart needed for {', '.join(restart)}" if restart else "")
        self._failures = 0
        with contextlib.suppress(LedgerError):  # the next cycle says so; a reload writes nothing to the client
            await self.ledger.record("reload", (), who=who, reason="configuration file")
        self._log.info("configuration reloaded")
        self.wake()
        percentage = policy.percentage(new.settings, self.ledger.controls, EVERYWHERE)  # commands overrule files
        strategy = new.settings.global_.allocation_strategy
        return ReloadReport("reloaded", percentage, strategy, new.warnings, restart)

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
                raise RequestError("bad_rate", f"rate {rate!r}: {error}", status=422) from None
            self._ahead(until)
            value = {"rate": NO_CAP if cap is None else cap, "until": until, "reason": redact(reason)}
        words = "cleared" if rate is None else describe_cap(cap)
        async with self._changing():
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
            async with self._changing():
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
        async with self._changing():
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
        return await hooks.lines(self.settings, await self.previews.client())

    async def install_hook(self, *, finished: bool, who: str, reason: str) -> hooks.HookReport:
        """Let qBittorrent call us for each torrent that is added, and with `finished` for each finished one."""
        async with self._lock:
            done = await hooks.install(
                self.settings, self._client, self.ledger, finished=finished, who=who, reason=redact(reason)
            )
        self._log.info(f"hook install by {who}: {done.status}")
        return done

    async def remove_hook(self, *, who: str, reason: str) -> hooks.HookReport:
        """Put back what stood there before `install_hook`."""
        async with self._lock:
            done = await hooks.remove(self.settings, self._client, self.ledger, who=who, reason=redact(reason))
        self._log.info(f"hook remove by {who}: {done.status}")
        return done

    # What only looks

    async def doctor(self) -> DoctorReport:
        """What is good, what is not, and what to do about it."""
        facts = Facts(
            self._wall_clock(),
            self.policy(),
            cross_seed=self.settings.cross_seed.enabled,
            last_hook=self.hooked.at,
            service=self._serving,
            problems=self.health().problems,
        )
        try:
            newest = await self.ledger.actions(limit=1)
            facts = replace(facts, last_action=newest[0].at if newest else None)
            await self.ledger.set_control("doctor", EVERYWHERE, 1, who="doctor", reason="can it be written?")
            await self.ledger.clear_control("doctor", EVERYWHERE)
        except LedgerError as error:
            facts = replace(facts, ledger_error=str(error))
        try:
            client = await self.previews.client()
            version = await client.version()
            preferences = await client.preferences()
            facts = replace(
                facts,
                version=version,
                preferences=preferences,
                transfer=await client.transfer(),
                alternative_speed=await client.alternative_speed(),
            )
            facts = replace(facts, decision=await self.decision())
            added, finished = hooks.present(self.settings, self.ledger, preferences)
            facts = replace(facts, hook_added=added, hook_finished=finished)
        except RequestError as error:
            facts = replace(facts, hook_error=str(error))
        except ClientError as error:
            facts = replace(facts, client_error=str(error))
        except LedgerError as error:
            facts = replace(facts, ledger_error=str(error))
        except BadAllocationError as error:
            facts = replace(facts, problems={**facts.problems, "strategy": str(error)})
        return examine(facts)

    async def preview(self, other: str | None = None) -> report.PreviewReport:
        """What the next cycle would do, perhaps under another configuration (its YAML text)."""
        if other is None:
            return report.preview(await self.previews.next_cycle())
        proposed = await asyncio.to_thread(parse_proposed, other, source=self.loaded.path, environ=os.environ)
        settings = proposed.settings
        matcher, allocator = policy.make_matcher(settings), policy.make_allocator(settings)

        def rules(_: Basis) -> policy.Policy:
            return policy.make(settings, self.ledger.controls, self._wall_clock(), matcher=matcher, allocator=allocator)

        return report.preview(await self.previews.under(rules))

    async def decision(self) -> Decision:
        """The last cycle's conclusions, or fresh ones when there was none yet."""
        return self.last.decision if self.last is not None else await self.previews.next_cycle()

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
            self.forwarder,
            pace=self.pace(),
            rollout_percentage=policy.percentage(self.settings, self.ledger.controls, EVERYWHERE),
            strategy=self.settings.global_.allocation_strategy,
            dry_run=self.settings.global_.dry_run,
            memory_mb=wiring.resident_mb(),
        )

    async def tracker_stats(self) -> dict[str, TrackerStats]:
        """Every tracker in numbers."""
        decision = await self.decision()
        return overview.tracker_stats(decision, self.doubts() if self.last is not None else {})

    async def managed(self) -> ManagedReport:
        """The torrents that get their limits from qguard."""
        now = self._wall_clock()
        seen_at = self.last.report.timestamp if self.last else now
        return overview.managed(await self.decision(), self.ledger.claims, seen_at=seen_at, now=now)

    def metrics(self) -> str:
        """The text that Prometheus reads."""
        return metrics.render(
            metrics.State(self.health(), self.totals, self.inbox, self.forwarder, self._shown, self.doubts())
        )

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

    def _know(self, tracker: str) -> str:
        """A tracker id of the configuration, or an error that names those there are."""
        ids = [rule.id for rule in self.settings.trackers]
        if tracker not in ids:
            raise RequestError(
                "unknown_tracker", f"there is no tracker {tracker!r}", f"there are {', '.join(ids)}", 404
            )
        return tracker


def _because(what: str, reason: str) -> str:
    """What was decided and why, for the ledger."""
    return redact(f"{what}; {reason}" if reason else what)


def _torrents(count: int, tracker: str | None) -> str:
    """So many torrents, in words."""
    words = f"{count} torrent{'' if count == 1 else 's'}"
    return words if tracker is None else f"{words} of {tracker}"


def _originals_of(name: str, folder: Path | None) -> dict[Key, int]:
    """The originals in a plain file.

    Args:
        name: its path.
        folder: where it has to be; None for anywhere. What is elsewhere counts as not there.

    Raises:
        RequestError: there is no such file, or it is none of ours, or there is nothing in it.
    """
    path = Path(name) if folder is None else folder / name
    try:
        inside = folder is None or path.resolve().is_relative_to(folder.resolve())  # a link there may lead elsewhere
        found = inside and path.is_file()
    except (OSError, RuntimeError, ValueError):  # too long, links in a circle, a NUL
        found = False
    if not found:
        where = "beside the ledger" if folder is None else f"in {folder}"
        raise RequestError(
            "no_such_file",
            f"there is no originals file {name!r}",
            f"give as-is, unlimited, or the .originals.jsonl file {where}",
            404,
        )
    try:
        values = read_originals_file(path)
    except LedgerError as error:
        raise RequestError("bad_originals", str(error), "nothing was adopted", 422) from None
    if not values:
        raise RequestError(
            "bad_originals",
            f"{name!r} holds no originals; nothing was adopted",
            "give the .originals.jsonl file of the lost ledger, or as-is, or unlimited",
            422,
        )
    return values

"""What a decision looks like to people and programs: per tracker, per change, per torrent.

These are the typed answers of commands and endpoints. Limits, caps and rates are bytes/s; a limit of 0 is none.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
import numpy as np

from allocators.adaptive import AdaptiveState
from allocators.base import MAX_LIMIT
from allocators.memory import Memory, recall
from allocators.soft import SoftState
from qguard.cycle import Verdict
from qguard.decision import Decision
from qguard.ledger import Claim
from qguard.plan import KEEP, Why, height
from qguard.policy import NO_CAP, Policy
from qguard.snapshot import UNLIMITED
from qguard.summary import TOP_CHANGES, Caps, Summary, summarise
from qguard.trackers import host_of

WORDS: Final = {
    Why.NONE: "nothing changes",
    Why.SHARE: "its share of the tracker's cap",
    Why.STANDING: "standing limit while it sleeps",
    Why.LEFT_ROLLOUT: "its original back: not in the rollout",
    Why.UNCAPPED: "its original back: the tracker has no cap",
    Why.UNMANAGED: "its original back: the tracker is not managed",
    Why.ROLLBACK: "rollback",
}


class OverrideReport(msgspec.Struct, frozen=True):
    """Another cap that somebody set for a while."""

    rate: int | None
    """bytes/s, None for no cap."""
    until: float | None
    """Epoch seconds; None until it is cleared."""
    who: str
    reason: str


class TrackerReport(msgspec.Struct, frozen=True):
    """One tracker rule in one decision."""

    id: str
    name: str
    configured_cap: int | None
    """What the configuration says; None for no cap."""
    override: OverrideReport | None
    """What holds instead for a while."""
    cap: int | None
    """The one of these two that holds; None for no cap."""
    effective_cap: int | None
    """After lending, and what the link leaves."""
    in_force: bool
    """Whether qguard keeps this cap at present."""
    not_in_force: tuple[str, ...]
    """Why not, one phrase each."""
    torrents: int
    managed: int
    awake: int
    rate: int
    """What all its torrents upload."""
    outside: int
    """Taken off the cap for torrents that qguard may not change."""
    promised: int
    """What the limits of the managed torrents add up to: the awake ones and the K highest sleepers."""
    wakeups: int
    """K: how many sleepers may wake at once within the cap."""
    standing_limit: int
    rollout_percentage: int
    raised: int
    """Awake torrents whose limit rises."""
    lowered: int
    """Awake torrents whose limit falls."""
    standing: int
    """Sleeping torrents that get their standing limit."""
    given_back: int
    """Torrents that get their original back."""
    unchanged: int


class Change(msgspec.Struct, frozen=True):
    """One torrent's limit, before and after."""

    hash: str
    name: str
    tracker: str
    old: int
    new: int
    rate: int
    why: str


class PreviewReport(msgspec.Struct, frozen=True):
    """What the next cycle would do."""

    strategy: str
    would_write: bool
    """False where something keeps qguard from writing at all."""
    observe_only: str
    """What that is."""
    torrents_considered: int
    proposed_count: int
    proposed_changes: dict[str, int]
    """Info-hash -> bytes/s, in the order of the calls."""
    calls: int
    waiting: int
    """Small raises put off for a while."""
    unstaged: int
    """First standing limits left for later cycles."""
    conflicts: dict[str, str]
    trackers: dict[str, Caps]
    """Tracker id -> its caps."""
    summary: Summary
    """The same and the ten largest changes, in the units that people read."""
    tracker_reports: tuple[TrackerReport, ...]
    """One per rule, in file order."""
    changes: tuple[Change, ...]
    """All changes, the largest first."""


class CycleReport(msgspec.Struct, frozen=True):
    """What a cycle did."""

    status: str
    duration_seconds: float
    timestamp: float
    cycle: int | None
    changed: int
    applied: int
    lost: int
    overridden: int
    gone: int
    calls: int
    requests: int
    full: bool
    """Whether all torrents were listed."""
    observe_only: str


class Explanation(msgspec.Struct, frozen=True):
    """Why one torrent has the limit it has."""

    hash: str
    name: str
    tracker: str
    matched_by: str
    announce_hosts: tuple[str, ...]
    limit: int
    wanted: int | None
    """None where qguard leaves it alone."""
    why: str
    awake: bool
    rate: int
    downloading: bool
    cap: int | None
    override: OverrideReport | None
    """Where the cap is not that of the configuration for a while."""
    effective_cap: int | None
    borrowed: int
    """What the effective cap is above the cap."""
    shared_by: int
    """Awake torrents of the tracker."""
    strategy: str
    pressing: bool
    """Whether it uploads nearly all that its limit lets through, or woke too lately to tell: it may want any amount."""
    claim: int | None
    """What it is taken to want while it does not press: its rate and some headroom. None where it presses or sleeps, or
    the strategy does not look."""
    score: float | None
    """How much it weighs within its tracker, 0 to 1; None where the strategy does not weigh."""
    level: int | None
    """The most that any torrent of the tracker gets at present; None where the strategy has no such level, or nobody
    needs to be held."""
    standing_limit: int
    wakeups: int
    rollout_bucket: int
    rollout_percentage: int
    in_rollout: bool
    managed: bool
    held: str
    """foreign or rollback, empty when qguard may write it."""
    foreign_limit: int | None
    original: int | None
    """What a rollback would restore; None where qguard never touched it."""
    last_written: int | None
    last_written_at: float | None
    last_cycle: int | None
    conflict: str


def trackers(decision: Decision) -> tuple[TrackerReport, ...]:
    """One row per rule, in file order."""
    policy, planned, matched = decision.policy, decision.planned, decision.matched
    size = len(policy.ids)

    def count(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> list[int]:
        return [int(n) for n in np.bincount(matched.rule[rows], minlength=size)]

    change, why = planned.plan, planned.plan.why
    up = height(change.new) > height(change.old)
    all_torrents = count(np.arange(len(matched.rule)))
    changed = count(change.rows)
    raised = count(change.rows[(why == Why.SHARE) & up])
    lowered = count(change.rows[(why == Why.SHARE) & ~up])
    standing = count(change.rows[why == Why.STANDING])
    back = count(change.rows[why > Why.STANDING])
    rates = np.bincount(matched.rule, weights=decision.estimated.demand.rate, minlength=size)
    return tuple(
        TrackerReport(
            id=rule.id,
            name=rule.name or rule.id,
            configured_cap=rule.max_upload_speed,
            override=override(policy, r),
            cap=_none(int(policy.cap[r]), NO_CAP),
            effective_cap=_none(int(decision.allocated.effective_cap[r]), NO_CAP),
            in_force=not (reasons := not_in_force(decision, r)) and bool(policy.capped[r]),
            not_in_force=reasons,
            torrents=all_torrents[r],
            managed=int((planned.managed & (matched.rule == r)).sum()),
            awake=int((decision.estimated.demand.awake & (matched.rule == r)).sum()),
            rate=int(rates[r]),
            outside=int(decision.estimated.outside[r]),
            promised=int(planned.promised[r]),
            wakeups=int(decision.estimated.wakeups[r]),
            standing_limit=int(decision.allocated.standing[r]),
            rollout_percentage=int(policy.percentage[r]),
            raised=raised[r],
            lowered=lowered[r],
            standing=standing[r],
            given_back=back[r],
            unchanged=all_torrents[r] - changed[r],
        )
        for r, rule in enumerate(policy.settings.trackers)
    )


def override(policy: Policy, r: int) -> OverrideReport | None:
    """The other cap of a rule, where one holds."""
    found = policy.overrides.get(policy.ids[r])
    return None if found is None else OverrideReport(_none(found.rate, NO_CAP), found.until, found.who, found.reason)


def not_in_force(decision: Decision, r: int) -> tuple[str, ...]:
    """Why the cap of a rule is not kept at present; nothing for rules without a cap."""
    policy, own = decision.policy, decision.matched.own
    if not policy.capped[r]:
        return ()
    mine = decision.matched.rule == r
    reasons = []
    if policy.observe_only:
        reasons.append("observing only")
    if not policy.manage[r]:
        reasons.append("manage: false")
    if policy.paused[r]:
        reasons.append("paused")
    if policy.percentage[r] < 100:
        reasons.append(f"rollout {policy.percentage[r]} %")
    for held, words in ((own.foreign, "changed by somebody else"), (own.rolled_back, "rolled back")):
        if count := int((held & mine).sum()):
            reasons.append(f"{count} {words}")
    first = decision.planned.wanted != KEEP
    waiting = mine & first & ~own.claimed & (decision.reading.torrents.up_limit == UNLIMITED)
    waiting[decision.planned.plan.rows] = False
    if count := int(waiting.sum()):
        reasons.append(f"{count} still without standing limit")
    if conflict := decision.allocated.conflicts.get(policy.ids[r]):
        reasons.append(conflict)
    return tuple(reasons)


def changes(decision: Decision, most: int | None = None) -> tuple[Change, ...]:
    """What changes, the largest differences first (a limit where there was none counts as the largest)."""
    plan, torrents = decision.planned.plan, decision.reading.torrents
    size = np.abs(height(plan.new) - height(plan.old))
    order = np.lexsort((plan.rows, -decision.estimated.demand.rate[plan.rows], -size))[:most]
    return tuple(
        Change(
            hash=torrents.infohash[row].decode(),
            name=torrents.name[row],
            tracker=decision.policy.ids[decision.matched.rule[row]],
            old=int(plan.old[at]),
            new=int(plan.new[at]),
            rate=int(decision.estimated.demand.rate[row]),
            why=WORDS[Why(plan.why[at])],
        )
        for at, row in ((at, plan.rows[at]) for at in order)
    )


def preview(decision: Decision) -> PreviewReport:
    """The whole of what the next cycle would do."""
    plan, policy = decision.planned.plan, decision.policy
    hashes = [h.decode() for h in decision.reading.torrents.infohash[plan.rows].tolist()]
    caps, rows = caps_of(decision), changes(decision)
    return PreviewReport(
        strategy=policy.settings.global_.allocation_strategy,
        would_write=not policy.observe_only,
        observe_only=policy.observe_only,
        torrents_considered=len(decision.reading.torrents),
        proposed_count=len(plan),
        proposed_changes=dict(zip(hashes, plan.new.tolist(), strict=True)),
        calls=len(plan.calls),
        waiting=plan.waiting,
        unstaged=plan.unstaged,
        conflicts=dict(decision.allocated.conflicts),
        trackers=caps,
        summary=summarise(caps, [(row.hash, row.old, row.new) for row in rows[:TOP_CHANGES]]),
        tracker_reports=trackers(decision),
        changes=rows,
    )


def caps_of(decision: Decision) -> dict[str, Caps]:
    """The caps of every tracker, in file order."""
    pairs = zip(decision.policy.cap.tolist(), decision.allocated.effective_cap.tolist(), strict=True)
    both = [(_none(base, NO_CAP), _none(effective, NO_CAP)) for base, effective in pairs]
    return {
        # Without torrents the strategy is not asked: the cap is as it is configured.
        tracker: Caps(base, base if effective is None else effective, max((effective or 0) - base, 0) if base else 0)
        for tracker, (base, effective) in zip(decision.policy.ids, both, strict=True)
    }


def cycle(decision: Decision, verdict: Verdict, *, duration: float, timestamp: float, requests: int) -> CycleReport:
    """What one cycle did."""
    return CycleReport(
        status="completed",
        duration_seconds=round(duration, 3),
        timestamp=timestamp,
        cycle=verdict.action,
        changed=len(decision.planned.plan),
        applied=verdict.applied,
        lost=verdict.lost,
        overridden=verdict.overridden,
        gone=verdict.gone,
        calls=verdict.calls,
        requests=requests,
        full=decision.reading.full,
        observe_only=decision.policy.observe_only,
    )


def explain(decision: Decision, row: int, claim: Claim | None) -> Explanation:
    """Everything that led to one torrent's limit."""
    policy, matched, torrents = decision.policy, decision.matched, decision.reading.torrents
    r = int(matched.rule[row])
    same = matched.rule == r
    reason = policy.matcher.explain(torrents.announce[row], torrents.category[row], torrents.tags[row])
    wanted = int(decision.planned.wanted[row])
    return Explanation(
        hash=torrents.infohash[row].decode(),
        name=torrents.name[row],
        tracker=policy.ids[r],
        matched_by=reason.by,
        announce_hosts=tuple(dict.fromkeys(map(host_of, policy.matcher.urls(torrents.announce[row])))),
        limit=int(torrents.up_limit[row]),
        wanted=_none(wanted, KEEP),
        why=_why(decision, row),
        awake=bool(decision.estimated.demand.awake[row]),
        rate=int(decision.estimated.demand.rate[row]),
        downloading=bool(torrents.downloading[row]),
        cap=_none(int(policy.cap[r]), NO_CAP),
        override=override(policy, r),
        effective_cap=_none(int(decision.allocated.effective_cap[r]), NO_CAP),
        borrowed=caps_of(decision)[policy.ids[r]].borrowed,
        shared_by=int((decision.estimated.demand.awake & same & decision.allocated.takes_part).sum()),
        strategy=policy.settings.global_.allocation_strategy,
        pressing=bool(decision.estimated.demand.pressing[row]),
        claim=_claim(decision, row),
        score=_score(decision, row),
        level=_level(decision, policy.ids[r]),
        standing_limit=int(decision.allocated.standing[r]),
        wakeups=int(decision.estimated.wakeups[r]),
        rollout_bucket=int(matched.bucket[row]),
        rollout_percentage=int(policy.percentage[r]),
        in_rollout=bool(matched.in_rollout[row]),
        managed=bool(decision.planned.managed[row]),
        held=claim.hold if claim else "",
        foreign_limit=claim.hold_value if claim and claim.hold == "foreign" else None,
        original=claim.original if claim else None,
        last_written=claim.written if claim else None,
        last_written_at=(claim.written_at or None) if claim else None,
        last_cycle=claim.last_action if claim else None,
        conflict=decision.allocated.conflicts.get(policy.ids[r], ""),
    )


def remembered(decision: Decision) -> Memory | None:
    """What the strategy noted about the torrents it was asked about, in that order; None where it notes nothing.

    Strategies are found out by their states: one from elsewhere that returns one of these counts like ours.
    """
    match decision.allocated.strategy_state:
        case Memory() as memory:
            return recall(decision.allocated.request, memory)
        case SoftState(torrents=Memory() as memory) | AdaptiveState(torrents=Memory() as memory):
            return recall(decision.allocated.request, memory)
    return None


def scores(decision: Decision) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """(N,) how much each torrent of the reading weighs, 0 to 1, NaN where it takes no part; None without weighing."""
    memory = remembered(decision)
    if memory is None or isinstance(decision.allocated.strategy_state, AdaptiveState):
        return None
    column = np.full(len(decision.matched.rule), np.nan)
    column[decision.allocated.rows] = memory.score
    return column


def _score(decision: Decision, row: int) -> float | None:
    column = scores(decision)
    return None if column is None or np.isnan(column[row]) else round(float(column[row]), 3)


def _claim(decision: Decision, row: int) -> int | None:
    memory, demand = remembered(decision), decision.estimated.demand
    at = np.flatnonzero(decision.allocated.rows == row)
    if memory is None or not len(at) or not demand.awake[row] or demand.pressing[row]:
        return None
    return int(np.ceil(memory.claim[at[0]]))


def _level(decision: Decision, tracker: str) -> int | None:
    state = decision.allocated.strategy_state
    course = state.courses.get(tracker) if isinstance(state, AdaptiveState) else None
    return None if course is None else _none(course.level, MAX_LIMIT)


def _why(decision: Decision, row: int) -> str:
    """One phrase for the limit that a torrent has or gets."""
    policy, matched = decision.policy, decision.matched
    r = int(matched.rule[row])
    if decision.planned.managed[row]:
        return WORDS[Why.SHARE if decision.estimated.demand.awake[row] else Why.STANDING]
    chain: Iterable[tuple[bool, str]] = (
        (bool(matched.own.foreign[row]), "left alone: somebody else changed it after qguard"),
        (bool(matched.own.rolled_back[row]), "left alone since a rollback, until `qguard resume`"),
        (bool(policy.observe_only), f"left alone: {policy.observe_only}"),
        (bool(policy.paused[r]), "left alone: paused"),
        (not policy.manage[r], "left alone: its tracker has `manage: false`"),
        (not policy.capped[r], "left alone: its tracker has no cap"),
        (not matched.in_rollout[row], f"left alone: not in the rollout of {policy.percentage[r]} %"),
    )
    return next((words for applies, words in chain if applies), WORDS[Why.NONE])


def _none(value: int, nothing: int) -> int | None:
    return None if value == nothing else value

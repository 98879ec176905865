"""The pure steps between a reading and the calls: match, estimate, allocate, plan.

Preview and cycle both take them, so that a preview cannot differ from the run. Columns are (N,) for the torrents of the
reading and (R,) for the rules of the configuration, limits and rates in bytes/s.
"""

import pickle
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Final

import numpy as np
import structlog

from allocators.adaptive import within_cap
from allocators.base import MAX_LIMIT, Allocation, BadAllocationError, Request, check, promised_rate
from allocators.standing import DEFAULT_WAKEUPS, standing_limit, wakeups_of
from qguard import plan as planning
from qguard.demand import Demand, DemandState
from qguard.demand import estimate as estimate_demand
from qguard.ledger import Key
from qguard.observe import Reading
from qguard.ownership import Findings, Ownership, reconcile
from qguard.plan import KEEP, Plan, Why
from qguard.policy import NO_CAP, Policy
from qguard.rollout import buckets, inside
from qguard.snapshot import UNLIMITED, Bool, Int64

OUTSIDE_STEPS: Final = 64
"""What held torrents use is taken off the cap in steps of this part of it, or every cycle would rewrite all others."""

OUTSIDE_MEMORY: Final = 30.0
"""Seconds: time constant over which a peak of what held torrents use is forgotten."""

LONG_INTERVAL: Final = 60.0
"""Seconds between two readings above which the wake-ups in between say nothing about one interval."""


NAMED_HEAT: Final = 2**32
"""Puts torrents that a webhook named before all others that wait for their first standing limit."""

LONGEST_FAULT: Final = 300
"""Characters of what a strategy said when it broke down."""


@dataclass(frozen=True, slots=True)
class State:
    """What one decision leaves to the next. Lost with the process; two readings bring it back."""

    demand: DemandState | None = None
    strategy: Any = None
    strategy_name: str = ""
    wakeups: Mapping[str, int] = field(default_factory=dict)
    """Most wake-ups seen in one interval, by tracker id."""
    room: Mapping[str, int] = field(default_factory=dict)
    """K, by tracker id."""
    outside: Mapping[str, float] = field(default_factory=dict)
    """Recent peak of what held torrents use, by tracker id."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Torrents that were held, by tracker id."""
    at: float | None = None
    """When the reading of the previous decision was taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Which rule, whose limit, and who is in the rollout."""

    rule: Int64
    """(N,) index of the torrent's rule."""
    own: Ownership
    findings: Findings
    bucket: Int64
    """(N,) rollout bucket, 0 to 99."""
    in_rollout: Bool
    """(N,)"""


@dataclass(frozen=True, slots=True, eq=False)
class Estimated:
    """Who uploads what."""

    demand: Demand
    demand_state: DemandState
    base_cap: Int64
    """(R,) the configured cap; for an uncapped rule the link, or the largest limit where that is not known."""
    wakeups: Int64
    """(R,) K, for how many sleepers that wake at once there must be room: never more than there are, about."""
    most_wakeups: Int64
    """(R,) the largest K that was needed so far, at least `DEFAULT_WAKEUPS`."""
    outside: Int64
    """(R,) taken off the cap for torrents that qguard may not change."""
    outside_peak: Mapping[str, float]
    held: Mapping[str, int]
    """Torrents that are held, by tracker id."""


@dataclass(frozen=True, slots=True, eq=False)
class Allocated:
    """What the strategy gave, checked."""

    takes_part: Bool
    """(N,) whether the strategy was asked: all torrents of capped, managed rules that nobody else holds."""
    limit: Int64
    """(N,) `KEEP` where it was not."""
    effective_cap: Int64
    """(R,) `NO_CAP` where there is none."""
    standing: Int64
    """(R,) 0 where there is none."""
    conflicts: Mapping[str, str]
    request: Request
    rows: Int64
    """Rows of the reading in the order of the request."""
    rules: Int64
    """Rules in the order of the request."""
    strategy_state: Any


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """What is to be written."""

    managed: Bool
    """(N,) gets its limit from the strategy and may be written."""
    wanted: Int64
    """(N,) the limit to reach, `KEEP` where nothing is to change."""
    promised: Int64
    """(R,) what the limits of the managed torrents add up to, of sleeping ones the K highest."""
    back: Int64
    """Rows that have their original again and are no longer managed: the ledger can let go of them."""
    plan: Plan


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """Everything that was concluded from one reading."""

    reading: Reading
    policy: Policy
    matched: Matched
    estimated: Estimated
    allocated: Allocated
    planned: Planned
    state: State


def match(reading: Reading, policy: Policy, own: Ownership, written_before: Mapping[Key, frozenset[int]]) -> Matched:
    """Find each torrent's rule, settle whose its limit is, and whether it is in the rollout."""
    torrents = reading.torrents
    rule = policy.matcher.match(torrents)
    own, findings = reconcile(
        own, torrents, reading.maybe_reset, written_before=written_before, reassert=policy.reassert[rule]
    )
    bucket = buckets(torrents.infohash)
    return Matched(rule, own, findings, bucket, inside(bucket, policy.percentage[rule]))


def estimate(reading: Reading, policy: Policy, matched: Matched, state: State) -> Estimated:
    """Find rates, who is awake, how many may wake at once, and what is used outside of our control."""
    link = policy.settings.global_.link_upload_speed
    base_cap = np.where(policy.cap == NO_CAP, MAX_LIMIT if link is None else link, policy.cap)
    wakeups = np.array([state.wakeups.get(i, DEFAULT_WAKEUPS) for i in policy.ids], np.int64)
    room = np.array([state.room.get(i, 0) for i in policy.ids], np.int64)
    demand, demand_state = estimate_demand(
        reading.torrents,
        reading.at,
        fresh=reading.fresh,
        threshold=policy.settings.global_.active_threshold,
        standing=standing_limit(base_cap, np.where(room, room, wakeups))[matched.rule],
        state=state.demand,
    )
    elapsed = _elapsed(reading, state)
    if elapsed <= LONG_INTERVAL:
        rose = np.bincount(matched.rule[demand.rose], minlength=len(policy.ids))
        wakeups = np.maximum(wakeups, rose)
    sleepers = np.bincount(matched.rule[~demand.awake], minlength=len(policy.ids))

    held = matched.own.held
    # A limit of its own is the most that a torrent uses in the mean. Its counter moves in lumps, around that, and what
    # the client says of its speed, which is too slow for all else, does not.
    limit = demand_state.limit
    use = np.where(
        np.isfinite(limit), np.minimum(np.maximum(demand.rate, reading.torrents.upspeed), limit), demand.rate
    )
    used = np.bincount(matched.rule[held], weights=use[held], minlength=len(policy.ids))
    count = np.bincount(matched.rule[held], minlength=len(policy.ids))
    # Torrents that were given back are not outside any more: their use must not be counted twice.
    fewer = count < np.array([state.held.get(i, 0) for i in policy.ids])
    before = np.where(fewer, 0.0, [state.outside.get(i, 0.0) for i in policy.ids])
    peak = np.maximum(used, before * np.exp(-elapsed / OUTSIDE_MEMORY))
    step = np.maximum(base_cap // OUTSIDE_STEPS, 1)
    # A hundredth of a step is the end of a decay, not use.
    steps = np.ceil(np.maximum(peak / step - 0.01, 0)).astype(np.int64)
    outside = np.minimum(steps * step, base_cap)
    return Estimated(
        demand=demand,
        demand_state=demand_state,
        base_cap=base_cap,
        wakeups=wakeups_of(wakeups, sleepers, room),
        most_wakeups=wakeups,
        outside=outside,
        outside_peak=dict(zip(policy.ids, peak.tolist(), strict=True)),
        held=dict(zip(policy.ids, count.tolist(), strict=True)),
    )


def allocate(reading: Reading, policy: Policy, matched: Matched, estimated: Estimated, state: State) -> Allocated:
    """Ask the strategy, and check its answer.

    Raises:
        BadAllocationError: the strategy broke a guarantee, or broke down; nothing may be written.
    """
    takes_part = policy.capped[matched.rule] & policy.manage[matched.rule] & ~matched.own.held
    rows = np.argsort(matched.rule, kind="stable")
    rows = rows[takes_part[rows]]
    request, rules = _request(reading, policy, matched, estimated, rows, _elapsed(reading, state))
    name = policy.settings.global_.allocation_strategy
    before = state.strategy if state.strategy_name == name else None
    answer, strategy_state = _ask(name, policy, request, before)
    return Allocated(
        takes_part=takes_part,
        limit=_scatter(len(takes_part), rows, answer.limit, KEEP),
        effective_cap=_scatter(len(policy.ids), rules, answer.effective_cap, NO_CAP),
        standing=_scatter(len(policy.ids), rules, answer.standing, 0),
        conflicts=answer.conflicts,
        request=request,
        rows=rows,
        rules=rules,
        strategy_state=strategy_state,
    )


def _ask(name: str, policy: Policy, request: Request, state: Any) -> tuple[Allocation, Any]:  # noqa: ANN401 - opaque
    """The strategy's checked answer, and its new state. It may be anybody's: whatever it does wrong bears its name."""
    for column in fields(request):
        if isinstance(values := getattr(request, column.name), np.ndarray):
            values.flags.writeable = False  # the answer is checked against what was asked
    before = _print_of(state)
    try:
        answer, after = policy.allocator.allocate(request, state)
    except Exception as error:
        raise _refused(name, f"it raised {_in_a_line(error)}", error) from error
    try:
        check(name, request, answer, overcommit=policy.overcommit)
    except BadAllocationError:
        raise
    except Exception as error:
        raise _refused(name, f"its answer is no Allocation ({_in_a_line(error)})", error) from error
    if _print_of(state) != before:
        raise _refused(name, "it changed its state in place, so that a preview would change what the next cycle does")
    return (_at_rest(name, policy, request, answer) if policy.at_rest else answer), after


def _at_rest(name: str, policy: Policy, request: Request, answer: Allocation) -> Allocation:
    """The answer with limits that add up to no more than the caps: nobody will watch the rates."""
    plain = replace(answer, limit=within_cap(request, answer))
    if not (own := getattr(policy.allocator, "at_rest", None)):
        return plain
    try:
        rest = replace(answer, limit=own(request, answer))
        check(name, request, rest)
    except Exception as error:  # noqa: BLE001 - anybody's code, and the last chance to lower the limits
        structlog.get_logger("qguard").error(f"at_rest of strategy {name!r} is not used: {_in_a_line(error)}")
        return plain
    return rest


def _print_of(state: Any) -> bytes | None:  # noqa: ANN401
    """What a state holds, for comparing; None where it cannot be told."""
    if state is None:
        return None
    try:
        return pickle.dumps(state, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - anybody's objects: then nobody compares
        return None


def _refused(name: str, fault: str, error: Exception | None = None) -> BadAllocationError:
    if error is not None:
        _log_once(name, "".join(traceback.format_exception(error)).rstrip())
    return BadAllocationError(f"strategy {name!r} is refused, nothing was written: {fault}")


def _in_a_line(error: Exception) -> str:
    """Class and words of an error, and no more of them than a line holds."""
    words = " ".join(f"{type(error).__name__}: {error}".split())
    return words if len(words) <= LONGEST_FAULT else f"{words[:LONGEST_FAULT]}..."


@lru_cache(maxsize=16)
def _log_once(name: str, trace: str) -> None:
    """Where a strategy broke down, for whoever wrote it; not again for every cycle and preview."""
    structlog.get_logger("qguard").error(f"strategy {name!r} broke down:\n{trace}")


def plan(reading: Reading, policy: Policy, matched: Matched, estimated: Estimated, allocated: Allocated) -> Planned:
    """Compare what is wanted of the managed torrents with what the client has, and give back what has left."""
    own, rule, awake = matched.own, matched.rule, estimated.demand.awake
    writable = ~policy.paused[rule] & ~own.held & (not policy.observe_only)
    managed = allocated.takes_part & matched.in_rollout & writable
    leaves = own.claimed & writable & ~managed
    why = np.select(
        [
            managed & awake,
            managed,
            leaves & ~policy.capped[rule],
            leaves & ~policy.manage[rule],
            leaves,
        ],
        [Why.SHARE, Why.STANDING, Why.UNCAPPED, Why.UNMANAGED, Why.LEFT_ROLLOUT],
        Why.NONE,
    ).astype(np.int64)
    wanted = np.select([managed, leaves], [allocated.limit, own.original], KEEP)
    settings = policy.settings.global_
    changes = planning.make(
        reading.torrents.up_limit,
        wanted,
        why,
        since_written=own.since_written,
        first_contact=managed & ~own.claimed & ~awake,
        heat=np.where(reading.fresh & (not reading.full) & ~awake, NAMED_HEAT, 0) + reading.torrents.leechers,
        small_raise=policy.small_raise,
        first_contact_batch=settings.first_contact_batch,
    )
    promised = promised_rate(allocated.request, np.where(managed[allocated.rows], allocated.limit[allocated.rows], 0))
    return Planned(
        managed=managed,
        wanted=wanted,
        promised=_scatter(len(policy.ids), allocated.rules, promised, 0),
        back=np.flatnonzero(leaves & (reading.torrents.up_limit == own.original)),
        plan=changes,
    )


def next_state(reading: Reading, policy: Policy, estimated: Estimated, allocated: Allocated) -> State:
    """What the next decision needs of this one."""
    return State(
        demand=estimated.demand_state,
        strategy=allocated.strategy_state,
        strategy_name=policy.settings.global_.allocation_strategy,
        wakeups=dict(zip(policy.ids, estimated.most_wakeups.tolist(), strict=True)),
        room=dict(zip(policy.ids, estimated.wakeups.tolist(), strict=True)),
        outside=estimated.outside_peak,
        held=estimated.held,
        at=reading.at,
    )


def _elapsed(reading: Reading, state: State) -> float:
    return 0.0 if state.at is None else reading.at - state.at


def _request(
    reading: Reading, policy: Policy, matched: Matched, estimated: Estimated, rows: Int64, elapsed: float
) -> tuple[Request, Int64]:
    """What the strategy is asked about the torrents at `rows` (sorted by rule, then info-hash), and their rules."""
    torrents = reading.torrents.take(rows)
    own, rule = matched.own, matched.rule[rows]
    rules, start = np.unique(rule, return_index=True)
    configured = [policy.settings.trackers[r] for r in rules]
    ceiling = policy.ceiling[rule]
    if policy.settings.global_.respect_original_limits:
        original = np.where(own.claimed[rows], own.original[rows], torrents.up_limit)
        ceiling = np.where(original == UNLIMITED, ceiling, np.minimum(ceiling, original))
    floor = np.minimum(policy.settings.global_.downloading_floor, ceiling)
    request = Request(
        tracker=tuple(policy.ids[r] for r in rules),
        start=start.astype(np.int64),
        base_cap=estimated.base_cap[rules],
        outside=estimated.outside[rules],
        wakeups=estimated.wakeups[rules],
        priority=np.array([r.priority for r in configured], np.int64),
        guaranteed=np.array([r.guaranteed_upload_speed for r in configured], np.int64),
        hard=np.array([r.hard for r in configured], np.bool_),
        may_lend=np.array([r.may_lend for r in configured], np.bool_),
        may_borrow=np.array([r.may_borrow for r in configured], np.bool_),
        infohash=torrents.infohash,
        rate=estimated.demand.rate[rows],
        leechers=torrents.leechers,
        awake=estimated.demand.awake[rows],
        pressing=estimated.demand.pressing[rows],
        current=torrents.up_limit,
        floor=np.where(torrents.downloading, floor, 0),
        ceiling=ceiling,
        link=policy.settings.global_.link_upload_speed,
        elapsed=elapsed,
    )
    return request, rules


def _scatter(size: int, at: Int64, values: Int64, default: int) -> Int64:
    column = np.full(size, default, np.int64)
    column[at] = values
    return column

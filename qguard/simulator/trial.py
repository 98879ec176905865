"""A strategy on a scene: the pure steps of a cycle over a simulated client, without HTTP, ledger or waiting."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from allocators.base import Float64, Int64, steers_rates
from qguard import decision as steps
from qguard.config import Settings
from qguard.decision import Decision, Matched, State
from qguard.observe import Reading
from qguard.ownership import NONE, Findings, Ownership
from qguard.pace import usual_interval
from qguard.policy import NO_CAP, Policy, make, make_allocator, make_matcher
from qguard.rollout import buckets
from qguard.simulator.client import SimulatedClient
from qguard.simulator.plant import TICK
from qguard.simulator.scenes import Stage
from qguard.snapshot import Torrents

SAMPLE: float = 10.0
"""Seconds over which the rates of single torrents are kept as one mean."""


@dataclass(slots=True, eq=False)
class Trace:
    """What happened. T ticks, S samples, R rules, N torrents, C cycles; rates in bytes/s."""

    strategy: str
    ids: tuple[str, ...]
    cap: Int64
    """(R,) `NO_CAP` for none."""
    link: int | None
    interval: float
    """Seconds between two cycles."""
    tracker: Int64
    """(N,) index of each torrent's rule."""
    rate: list[Float64] = field(default_factory=list)
    """T of (R,)"""
    demand: list[Float64] = field(default_factory=list)
    """T of (R,)"""
    torrent_rate: list[Float64] = field(default_factory=list)
    """S of (N,)"""
    torrent_demand: list[Float64] = field(default_factory=list)
    """S of (N,)"""
    effective: list[Int64] = field(default_factory=list)
    """C of (R,)"""
    promised: list[Int64] = field(default_factory=list)
    """C of (R,) what limits added up to"""
    changed: list[int] = field(default_factory=list)
    """C: torrents that were written"""
    calls: list[int] = field(default_factory=list)
    """C"""
    cycle_at: list[float] = field(default_factory=list)
    """C: seconds"""
    reversals: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) how often a limit that was raised was lowered next, or the other way round."""


@dataclass(slots=True, eq=False)
class _Loop:
    """What one cycle leaves to the next."""

    state: State
    direction: Int64
    written_at: Float64
    expected: Int64
    torrents: Torrents
    order: Int64
    rule: Int64
    bucket: Int64


def run(
    settings: Settings,
    stage: Stage,
    *,
    strategy: str | None = None,
    seconds: float = 600.0,
    interval: float | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Trace:
    """Let a strategy hold a simulated client for some time.

    Args:
        settings: caps and everything else; the rollout counts as 100 % and nothing as dry run.
        stage: the client and its future; used up.
        strategy: another one than the configured one.
        seconds: simulated.
        interval: seconds between two cycles; the configured one by default, for `auto` the strategy's.
        progress: told the part that is done, 0 to 1.
    """
    section = settings.global_.model_copy(
        update={"allocation_strategy": strategy or settings.global_.allocation_strategy, "dry_run": False}
    )
    settings = settings.model_copy(update={"global_": section})
    rules = make(settings, {}, 0.0, matcher=make_matcher(settings), allocator=make_allocator(settings))
    rules = replace(rules, percentage=np.full(len(rules.ids), 100))
    client, events = stage.client, sorted(stage.events, key=lambda event: event.at)
    every = (
        usual_interval(section.poll_interval, steers=steers_rates(rules.allocator)) if interval is None else interval
    )
    trace = Trace(section.allocation_strategy, rules.ids, rules.cap, section.link_upload_speed, every, stage.tracker)
    trace.reversals = np.zeros(len(client), np.int64)
    loop = _begin(client, stage.tracker)
    next_cycle, next_sample = 0.0, SAMPLE
    moved, wanted = np.zeros(len(client)), np.zeros(len(client))
    while client.now < seconds:
        while events and events[0].at <= client.now:
            events.pop(0).what(client)
        if client.now >= next_cycle:
            next_cycle += every
            _cycle(client, rules, loop, trace)
        client.advance(TICK)
        demand = client.leechers.demand
        trace.rate.append(np.bincount(stage.tracker, weights=client.sent, minlength=len(rules.ids)) / TICK)
        trace.demand.append(np.bincount(stage.tracker, weights=demand, minlength=len(rules.ids)).astype(np.float64))
        moved, wanted = moved + client.sent, wanted + demand * TICK
        if client.now >= next_sample:
            next_sample += SAMPLE
            trace.torrent_rate.append(moved / SAMPLE)
            trace.torrent_demand.append(wanted / SAMPLE)
            moved, wanted = np.zeros(len(client)), np.zeros(len(client))
        progress(client.now / seconds)
    return trace


def _begin(client: SimulatedClient, tracker: Int64) -> _Loop:
    """The columns that stay, sorted by info-hash as a reading has them."""
    infohash = np.array([t.infohash for t in client.torrents], "S40")
    order = np.argsort(infohash)
    n = len(client)

    def things(values: list[object]) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
        return np.fromiter((values[row] for row in order), np.object_, n)

    zero = np.zeros(n, np.int64)
    torrents = Torrents(
        infohash=infohash[order],
        added_on=np.array([client.torrents[row].added_on for row in order], np.int64),
        up_limit=zero,
        upspeed=zero,
        uploaded=zero,
        uploaded_session=zero,
        leechers=zero,
        downloading=np.array([client.torrents[row].downloading for row in order], np.bool_),
        announce=things([t.announce for t in client.torrents]),
        category=things([t.category for t in client.torrents]),
        tags=things([", ".join(t.tags) for t in client.torrents]),
        name=things([t.name for t in client.torrents]),
    )
    return _Loop(
        State(),
        np.zeros(n, np.int64),
        np.full(n, -np.inf),
        np.full(n, NONE, np.int64),
        torrents,
        order,
        tracker[order],
        buckets(torrents.infohash),
    )


def _cycle(client: SimulatedClient, rules: Policy, loop: _Loop, trace: Trace) -> None:
    """Observe, match, estimate, allocate, plan, apply."""
    made = decide(client, rules, loop)
    loop.state = made.state
    plan = made.planned.plan
    for call in plan.calls:
        client.set_limit([h.decode() for h in made.reading.torrents.infohash[call.rows].tolist()], call.limit)
    rows = loop.order[plan.rows]
    # A first limit is no reversal: no limit counts as the highest.
    direction = np.where((plan.old != 0) & (plan.new > plan.old), 1, -1)
    trace.reversals[rows] += (loop.direction[rows] != 0) & (loop.direction[rows] != direction)
    loop.direction[rows] = direction
    loop.written_at[plan.rows], loop.expected[plan.rows] = client.now, plan.new
    trace.changed.append(len(plan))
    trace.calls.append(len(plan.calls))
    trace.cycle_at.append(client.now)
    effective = made.allocated.effective_cap
    trace.effective.append(np.where(effective == NO_CAP, trace.cap, effective))
    trace.promised.append(made.planned.promised)


def decide(client: SimulatedClient, rules: Policy, loop: _Loop) -> Decision:
    """The pure steps on what the client shows; every torrent's original is no limit."""
    seen, order, n = client.seen, loop.order, len(client)
    torrents = replace(
        loop.torrents,
        up_limit=seen.limit[order],
        upspeed=seen.upspeed[order],
        uploaded=seen.uploaded[order],
        uploaded_session=seen.session[order],
        leechers=seen.leechers[order],
    )
    everything, nothing = np.ones(n, np.bool_), np.zeros(n, np.bool_)
    reading = Reading(
        torrents,
        client.now,
        full=True,
        maybe_reset=nothing,
        fresh=everything,
        full_at=client.now,
        full_cost=0.0,
        sessions=1,
    )
    wrote = loop.expected != NONE
    own = Ownership(
        claimed=wrote,
        original=np.where(wrote, 0, NONE),
        expected=np.where(wrote, torrents.up_limit, NONE),
        pending=np.full(n, NONE, np.int64),
        foreign=nothing,
        rolled_back=nothing,
        since_written=client.now - loop.written_at,
    )
    matched = Matched(loop.rule, own, Findings(), loop.bucket, everything)
    estimated = steps.estimate(reading, rules, matched, loop.state)
    allocated = steps.allocate(reading, rules, matched, estimated, loop.state)
    planned = steps.plan(reading, rules, matched, estimated, allocated)
    state = steps.next_state(reading, rules, estimated, allocated)
    return Decision(reading, rules, matched, estimated, allocated, planned, state)

"""One cycle: observe, match, estimate, allocate, plan, record, apply, verify."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from qguard import decision as steps
from qguard.decision import Decision, State
from qguard.first_contact import first_contact
from qguard.ledger import Action, Hold, Intent, Ledger, Outcome
from qguard.observe import Reading
from qguard.observe import observe as read
from qguard.observe import observe_some as read_some
from qguard.ownership import columns, suspects
from qguard.plan import Call, Plan, Why
from qguard.policy import Policy
from qguard.qbittorrent.client import TorrentClient
from qguard.snapshot import UNLIMITED, Counters, Torrents

GONE = -1
"""What the client answers for the limit of a torrent that it does not have."""

RESTORES = frozenset({Why.LEFT_ROLLOUT, Why.UNCAPPED, Why.UNMANAGED, Why.ROLLBACK})
"""Reasons to put an earlier value back."""


@dataclass(frozen=True, slots=True)
class World:
    """The neighbours of a cycle."""

    client: TorrentClient
    ledger: Ledger
    clock: Callable[[], float]
    """Steady seconds."""
    wall_clock: Callable[[], float]
    """Epoch seconds."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one cycle leaves to the next."""

    reading: Reading | None = None
    state: State = field(default_factory=State)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the writes of one action, counted by read-back."""

    action: int | None = None
    """Its number in the ledger, None when nothing was to be written."""
    applied: int = 0
    lost: int = 0
    overridden: int = 0
    gone: int = 0
    calls: int = 0
    there: Mapping[str, int] = field(default_factory=dict)
    """Info-hash -> the limit that was read back, bytes/s."""


async def run(
    world: World,
    policy: Policy,
    memory: Memory,
    *,
    who: str,
    reason: str,
    force_full: bool = False,
    names: Sequence[str] = (),
    before_writing: Callable[[], object] = lambda: None,
) -> tuple[Decision, Verdict, Memory]:
    """Bring the client's limits to where they should be.

    Args:
        world: the neighbours.
        policy: what configuration and commands say.
        memory: what the cycle before left.
        who: caused it, for the ledger.
        reason: in words, for the ledger.
        force_full: list everything even if that is not due.
        names: info-hashes; read only these torrents and take the others as they were.
        before_writing: called when all is read and decided, before anything is stored or sent.

    Raises:
        ClientError: the client did not answer as it should; what was written so far is in the ledger as unknown.
        LedgerError: nothing was written, because it could not be recorded.
        BadAllocationError: nothing was written, because the strategy broke a guarantee.
    """
    decision, after = await look(world, policy, memory, force_full=force_full, names=names)
    before_writing()
    action = await record(world, decision, who=who, reason=reason)
    await apply(world.client, decision.reading.torrents, decision.planned.plan)
    verdict = await verify(world, action, calls=len(decision.planned.plan.calls), policy=policy)
    return decision, verdict, remember(after, verdict.there)


async def look(
    world: World, policy: Policy, memory: Memory, *, force_full: bool = False, names: Sequence[str] = ()
) -> tuple[Decision, Memory]:
    """Read the client and decide, and change nothing: the whole of a preview, the first half of a cycle."""
    reading = await observe(world, memory, force_full=force_full, names=names)
    policy = replace(policy, observe_only=policy.observe_only or first_contact(world.ledger, reading.torrents))
    own = columns(world.ledger.claims, reading.torrents, world.wall_clock())
    odd = reading.torrents.keys(suspects(own, reading.torrents, reading.maybe_reset))
    written_before = await world.ledger.ever_written(odd) if odd else {}

    matched = steps.match(reading, policy, own, written_before)
    estimated = steps.estimate(reading, policy, matched, memory.state)
    allocated = steps.allocate(reading, policy, matched, estimated, memory.state)
    planned = steps.plan(reading, policy, matched, estimated, allocated)

    state = steps.next_state(reading, policy, estimated, allocated)
    return Decision(reading, policy, matched, estimated, allocated, planned, state), Memory(reading, state)


async def observe(world: World, memory: Memory, *, force_full: bool, names: Sequence[str]) -> Reading:
    """One reading of the client."""
    if names and memory.reading is not None and not force_full:
        return await read_some(world.client, memory.reading, names, clock=world.clock)
    written_under = world.ledger.controls.get(("session", "*"))
    return await read(
        world.client,
        memory.reading,
        clock=world.clock,
        written_under=Counters.from_rows(written_under.value) if written_under else None,
        claimed=np.array([infohash for infohash, _ in world.ledger.claims], "S40"),
        force_full=force_full,
    )


async def record(world: World, decision: Decision, *, who: str, reason: str) -> Action | None:
    """Note what was found and what is about to be written; nothing is written unless this returns (I4)."""
    ledger, torrents = world.ledger, decision.reading.torrents
    findings, planned = decision.matched.findings, decision.planned
    await ledger.settle(
        findings.outcomes,
        release=torrents.keys(planned.back),
        holds={key: Hold("foreign", value) for key, value in findings.foreign.items()},
        reset=findings.reset,
    )
    if not len(planned.plan):
        return None
    trackers = [decision.policy.ids[r] for r in decision.matched.rule[planned.plan.rows]]
    return await ledger.record(
        "cycle",
        intents(torrents, planned.plan, trackers),
        who=who,
        reason=reason,
        controls={("session", "*"): session_mark(torrents)},
    )


def intents(torrents: Torrents, plan: Plan, trackers: Sequence[str]) -> list[Intent]:
    """The plan in the ledger's words, in the order of its calls. `trackers`: (M,) ids."""
    columns_ = (torrents.keys(plan.rows), trackers, plan.old.tolist(), plan.new.tolist(), plan.why.tolist())
    return [
        Intent(infohash, added_on, tracker, old, new, Why(why).name.lower(), original=old)
        for (infohash, added_on), tracker, old, new, why in zip(*columns_, strict=True)
    ]


def session_mark(torrents: Torrents) -> list[list[object]]:
    """By what the next process can tell whether the client was restarted since this write."""
    return Counters.of(torrents, most=16).to_rows()


async def apply(client: TorrentClient, torrents: Torrents, plan: Plan) -> None:
    """Send the calls one after the other, decreases first; stop at the first that fails."""
    for call in plan.calls:
        await send(client, torrents, call)


async def send(client: TorrentClient, torrents: Torrents, call: Call) -> None:
    """One request. Only a plan that puts an original back ever takes a limit off (I2)."""
    hashes = [h.decode() for h in torrents.infohash[call.rows].tolist()]
    if call.limit == UNLIMITED:
        await client.remove_limit(hashes)
    else:
        await client.set_limit(hashes, call.limit)


async def verify(world: World, action: Action | None, *, calls: int, policy: Policy) -> Verdict:
    """Read back what was written and note for each torrent what became of it."""
    if action is None:
        return Verdict()
    written = {(i.hash, i.added_on): i for _, i in action.changes}
    there = await read_limits(world.client, [key[0] for key in written])
    outcomes = [
        (key, judge(intent, there.get(key[0], GONE)), there.get(key[0], GONE)) for key, intent in written.items()
    ]
    restored = [key for key, outcome, _ in outcomes if outcome == "applied" and gives_back(world.ledger, written[key])]
    overridden = {
        key: Hold("foreign", value)
        for key, outcome, value in outcomes
        if outcome == "overridden" and not policy.reasserts(written[key].tracker)
    }
    await world.ledger.settle(outcomes, release=restored, holds=overridden)
    counts = [outcome for _, outcome, _ in outcomes]
    return Verdict(
        action.id,
        applied=counts.count("applied"),
        lost=counts.count("lost"),
        overridden=counts.count("overridden"),
        gone=counts.count("gone"),
        calls=calls,
        there=there,
    )


def remember(memory: Memory, there: Mapping[str, int]) -> Memory:
    """Put the limits that were read back into what is remembered of the client.

    A reading of the active torrents alone takes the limits of all others from memory: without this they would look as
    they were before we wrote, which is somebody else's doing by all appearances.
    """
    known = {infohash: limit for infohash, limit in there.items() if limit != GONE}
    if memory.reading is None or not known:
        return memory
    torrents = memory.reading.torrents
    rows = torrents.rows_of(list(known))
    up_limit = torrents.up_limit.copy()
    up_limit[rows[rows >= 0]] = np.array(list(known.values()), np.int64)[rows >= 0]
    return replace(memory, reading=replace(memory.reading, torrents=replace(torrents, up_limit=up_limit)))


def gives_back(ledger: Ledger, intent: Intent) -> bool:
    """Whether a write puts the torrent's original back, so that the torrent is no longer ours once it is applied."""
    claim = ledger.claims.get((intent.hash, intent.added_on))
    return Why[intent.why.upper()] in RESTORES and claim is not None and claim.original == intent.new


async def read_limits(client: TorrentClient, hashes: Sequence[str]) -> dict[str, int]:
    """Limits of these torrents now, in requests of bounded size."""
    step = 5000
    there: dict[str, int] = {}
    for at in range(0, len(hashes), step):
        there |= await client.limits(hashes[at : at + step])
    return there


def judge(intent: Intent, value: int) -> Outcome:
    """What became of one write, by the value that is there now."""
    if value == intent.new:
        return "applied"
    if value == GONE:
        return "gone"
    return "lost" if value == intent.old else "overridden"

"""Putting back what was there before."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from qguard import plan as planning
from qguard.cycle import Verdict, World, apply, intents, session_mark, verify
from qguard.ledger import Action, Claim, Hold, Key
from qguard.plan import KEEP, Plan, Why
from qguard.policy import EVERYWHERE, Policy
from qguard.snapshot import Torrents


@dataclass(frozen=True, slots=True)
class Scope:
    """What to roll back: everything, or one tracker, one action and all after it on its torrents, or since a time."""

    tracker: str | None = None
    action: int | None = None
    since: float | None = None
    """Epoch seconds."""

    @property
    def pauses(self) -> str | None:
        """The scope that is paused with it, None when only the torrents touched are."""
        return None if self.action is not None or self.since is not None else self.tracker or EVERYWHERE


class LeftAlone(msgspec.Struct, frozen=True):
    """A torrent whose limit somebody changed after us."""

    hash: str
    limit: int
    """bytes/s now, 0 for none."""
    original: int
    """bytes/s that a forced rollback would set, 0 for none."""


class RollbackReport(msgspec.Struct, frozen=True):
    """What a rollback did, or would do."""

    status: str
    """completed, incomplete or dry-run."""
    changes_reversed: int
    """Torrents whose limit was put back, counted by read-back (in a dry run: would be)."""
    already: int
    """Torrents that had the value already."""
    left_alone: tuple[LeftAlone, ...]
    gone: int
    """Torrents that the client no longer has."""
    failed: int
    """Torrents that did not take the value."""
    paused: str
    """`*`, a tracker id, or `torrents` when only those touched are paused; empty in a dry run."""
    reason: str
    cycle: int | None
    """The number of this rollback in the ledger."""
    duration_seconds: float = 0.0
    timestamp: float = 0.0
    """Epoch seconds of its end."""


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """What a rollback finds to do."""

    plan: Plan
    trackers: list[str]
    """(M,) for the plan's rows."""
    settled: list[Key]
    """Torrents that have the value already."""
    left_alone: tuple[LeftAlone, ...]
    gone: int
    touched: list[Key]


async def rollback(
    world: World,
    policy: Policy,
    scope: Scope,
    *,
    who: str,
    reason: str,
    force: bool = False,
    dry_run: bool = False,
    hold: bool = True,
    before_writing: Callable[[], object] = lambda: None,
) -> RollbackReport:
    """Put earlier limits back and keep qguard off these torrents until resumed.

    The pause is stored in the same transaction as the intent, so that a crash in between leaves it paused. Without
    `hold` nothing is paused (for a service that ends and is to begin again later). `before_writing` is
    called when all is read, before anything is stored or sent.

    Raises:
        ClientError: the client did not answer; run it again to finish.
        PrunedError: nothing was written; the history does not reach back that far any more.
        LedgerError: nothing was written.
    """
    torrents = await world.client.torrents()
    work = await _prepare(world, scope, torrents, force=force)
    if dry_run:
        return _report(work, Verdict(applied=len(work.plan)), "dry-run", "", reason)
    before_writing()
    pauses = scope.pauses if hold else None
    action: Action = await world.ledger.record(
        "rollback",
        intents(torrents, work.plan, work.trackers),
        who=who,
        reason=reason,
        holds=dict.fromkeys(work.touched, Hold("rollback")) if hold else {},
        controls={("session", "*"): session_mark(torrents)}
        | ({("pause", pauses): {"until": None}} if pauses is not None else {}),
    )
    await apply(world.client, torrents, work.plan)
    verdict = await verify(world, action, calls=len(work.plan.calls), policy=policy)
    originals = {key: world.ledger.claims[key].original for key in work.settled if key in world.ledger.claims}
    values = dict(zip(torrents.keys(np.arange(len(torrents))), torrents.up_limit.tolist(), strict=True))
    await world.ledger.settle((), release=[key for key, original in originals.items() if values[key] == original])
    done = verdict.applied == len(work.plan)
    return _report(
        work, verdict, "completed" if done else "incomplete", "torrents" if pauses is None else pauses, reason
    )


async def _prepare(world: World, scope: Scope, torrents: Torrents, *, force: bool) -> _Work:
    claims = world.ledger.claims
    targets = await _targets(world, scope)
    rows = {key: row for row, key in enumerate(torrents.keys(np.arange(len(torrents)))) if key in targets}
    odd = [key for key, row in rows.items() if not _is_ours(claims.get(key), int(torrents.up_limit[row]), targets[key])]
    written_before = await world.ledger.ever_written(odd)

    wanted = np.full(len(torrents), KEEP, np.int64)
    settled, left_alone = [], []
    for key, row in rows.items():
        value, target = int(torrents.up_limit[row]), targets[key]
        if value == target:
            settled.append(key)
        elif not force and key in written_before and not _was_ours(claims.get(key), value, written_before[key]):
            left_alone.append(LeftAlone(key[0], value, target))
        else:
            wanted[row] = target
    plan = planning.ordered(torrents.up_limit, wanted, np.full(len(torrents), Why.ROLLBACK, np.int64))
    planned = torrents.keys(plan.rows)
    return _Work(
        plan=plan,
        trackers=[claims[key].tracker if key in claims else "" for key in planned],
        settled=settled,
        left_alone=tuple(left_alone),
        gone=len(targets) - len(rows),
        touched=planned + settled,
    )


async def _targets(world: World, scope: Scope) -> Mapping[Key, int]:
    """The value to put back for each torrent in scope."""
    if scope.action is None and scope.since is None:
        originals = world.ledger.originals(scope.tracker)
        return {(c.hash, c.added_on): c.original for c in originals if c.original is not None}
    before = await world.ledger.first_old_since(action=scope.action, since=scope.since)
    if scope.tracker is None:
        return before
    claims = world.ledger.claims
    return {key: old for key, old in before.items() if key in claims and claims[key].tracker == scope.tracker}


def _is_ours(claim: Claim | None, value: int, target: int) -> bool:
    """Whether a value can be put back without asking the history."""
    if value == target:
        return True
    return claim is not None and claim.hold != "foreign" and value in {claim.written, claim.pending}


def _was_ours(claim: Claim | None, value: int, written: frozenset[int]) -> bool:
    """Whether an unexpected value is an earlier one of ours that came back, and not somebody's who was yielded to."""
    return (claim is None or claim.hold != "foreign") and value in written


def _report(work: _Work, verdict: Verdict, status: str, paused: str, reason: str) -> RollbackReport:
    return RollbackReport(
        status=status,
        changes_reversed=verdict.applied,
        already=len(work.settled),
        left_alone=work.left_alone,
        gone=work.gone + verdict.gone,
        failed=verdict.lost + verdict.overridden,
        paused=paused,
        reason=reason,
        cycle=verdict.action,
    )

"""What the history answers, and how it is kept short."""

from collections.abc import Collection, Iterable
from typing import Final

import aiosqlite
import msgspec

from qguard.ledger.errors import LedgerError, PrunedError
from qguard.ledger.model import ActionSummary, Change, Key

PRUNE_BATCH: Final = 2000
"""Changes deleted in one transaction: some tens of milliseconds, so that a cycle never waits long."""

_KEYS_AT_ONCE: Final = 20_000

_CHANGES: Final = """
    SELECT c.id, c.action, a.kind, a.at, c.hash, c.added_on, c.tracker, c.old, c.new, c.why,
           c.outcome, c.observed, c.settled_at
    FROM changes c CROSS JOIN actions a ON a.id = c.action
    WHERE c.id < ?
"""
# The unary plus keeps SQLite off the less selective index.
_OF_HASH: Final = " AND c.hash = ?"
_OF_ACTION: Final = (" AND c.action = ?", " AND +c.action = ?")
_OF_TRACKER: Final = (" AND c.tracker = ?", " AND +c.tracker = ?")
_NEWEST: Final = " ORDER BY c.id DESC LIMIT ?"
_NO_BOUND: Final = 2**63 - 1

# min() makes SQLite take the other columns from the row with the minimum.
_FIRST_OLD_OF_ACTION: Final = """
    SELECT hash, added_on, old, min(id) FROM changes
    WHERE action = ? AND outcome IN ('recorded', 'applied', 'overridden')
    GROUP BY hash, added_on
"""
_FIRST_OLD_SINCE: Final = """
    SELECT hash, added_on, old, min(id) FROM changes
    WHERE action IN (SELECT id FROM actions WHERE at >= ?) AND outcome IN ('recorded', 'applied', 'overridden')
    GROUP BY hash, added_on
"""


def changes_query(
    *,
    hash: str | None,  # noqa: A002 - the word of qBittorrent's and our API
    tracker: str | None,
    action: int | None,
    before_id: int | None,
    limit: int,
) -> tuple[str, list[object]]:
    """SQL and parameters for one page of the history, newest first."""
    sql: list[str] = [_CHANGES]
    values: list[object] = [_NO_BOUND if before_id is None else before_id]
    if hash is not None:
        sql.append(_OF_HASH)
        values.append(hash)
    if action is not None:
        sql.append(_OF_ACTION[hash is not None])
        values.append(action)
    if tracker is not None:
        sql.append(_OF_TRACKER[hash is not None or action is not None])
        values.append(tracker)
    return "".join([*sql, _NEWEST]), [*values, limit]


async def changes(db: aiosqlite.Connection, query: tuple[str, list[object]]) -> list[Change]:
    """The page that `changes_query` asks for."""
    return [Change(*row) for row in await db.execute_fetchall(*query)]


async def actions(db: aiosqlite.Connection, *, before_id: int | None, limit: int) -> list[ActionSummary]:
    """One page of actions, newest first."""
    rows = list(
        await db.execute_fetchall(
            "SELECT id, kind, at, who, reason FROM actions WHERE id < ? ORDER BY id DESC LIMIT ?",
            (_NO_BOUND if before_id is None else before_id, limit),
        )
    )
    if not rows:
        return []
    counts: dict[int, dict[str, int]] = {}
    for action, outcome, count in await db.execute_fetchall(
        "SELECT action, outcome, count(*) FROM changes WHERE action BETWEEN ? AND ? GROUP BY action, outcome",
        (rows[-1][0], rows[0][0]),
    ):
        counts.setdefault(action, {})[outcome] = count
    return [
        ActionSummary(id=id_, kind=kind, at=at, who=who, reason=reason, outcomes=counts.get(id_, {}))
        for id_, kind, at, who, reason in rows
    ]


async def first_old_of_action(db: aiosqlite.Connection, action: int) -> dict[Key, int]:
    """What the torrents changed by an action had before it.

    Raises:
        LedgerError: there is no such action, or not all of it is left.
    """
    pruned_action, pruned_at = await _pruned(db)
    if action <= pruned_action:
        raise PrunedError(
            f"action {action} was pruned from the ledger's history: roll back to a later one, or fully", pruned_at
        )
    if not list(await db.execute_fetchall("SELECT 1 FROM actions WHERE id = ?", (action,))):
        raise LedgerError(f"there is no action {action} in the ledger: `qguard ledger` lists them")
    return _by_key(await db.execute_fetchall(_FIRST_OLD_OF_ACTION, (action,)))


async def first_old_since(db: aiosqlite.Connection, since: float) -> dict[Key, int]:
    """What the torrents changed at or after a time (epoch seconds) had before it.

    Raises:
        PrunedError: the history does not reach back that far any more.
    """
    pruned_action, pruned_at = await _pruned(db)
    if pruned_action and since <= pruned_at:
        raise PrunedError(
            f"the ledger's history up to action {pruned_action} was pruned: roll back to a later time, or fully",
            pruned_at,
        )
    return _by_key(await db.execute_fetchall(_FIRST_OLD_SINCE, (since,)))


def _by_key(rows: Iterable[aiosqlite.Row]) -> dict[Key, int]:
    return {(row[0], row[1]): row[2] for row in rows}


async def _pruned(db: aiosqlite.Connection) -> tuple[int, float]:
    for action, at in await db.execute_fetchall("SELECT action, at FROM pruned"):
        return action, at
    return 0, 0.0


async def values_written(db: aiosqlite.Connection, keys: Collection[Key]) -> dict[Key, set[int]]:
    """Every value that was ever to be written to each of these torrents."""
    found: dict[Key, set[int]] = {key: set() for key in keys}
    hashes = sorted({key[0] for key in keys})
    for start in range(0, len(hashes), _KEYS_AT_ONCE):
        # One JSON parameter instead of thousands of variables, of which SQLite takes only so many.
        chunk = msgspec.json.encode(hashes[start : start + _KEYS_AT_ONCE]).decode()
        for name, added_on, new in await db.execute_fetchall(
            "SELECT DISTINCT c.hash, c.added_on, c.new FROM json_each(?) k CROSS JOIN changes c ON c.hash = k.value",
            (chunk,),
        ):
            if (name, added_on) in found:
                found[name, added_on].add(new)
    return found


async def prune_boundary(db: aiosqlite.Connection, *, before: float, max_rows: int) -> int:
    """The id of the newest change that is too old (epoch seconds) or one too many, 0 for none."""
    newest = await _one(db, "SELECT max(id) FROM changes")
    first_kept = await _one(db, "SELECT id FROM actions WHERE at >= ? ORDER BY at, id LIMIT 1", before)
    if first_kept is None:
        too_old = newest or 0
    else:
        oldest_young = await _one(
            db,
            "SELECT min(id) FROM changes WHERE action = (SELECT min(action) FROM changes WHERE action >= ?)",
            first_kept,
        )
        too_old = (newest or 0) if oldest_young is None else oldest_young - 1
    # Ids are handed out without gaps and deleted from the old end, so this keeps at most max_rows.
    return max(too_old, (newest or 0) - max_rows)


async def prune_batch(db: aiosqlite.Connection, *, after: int, boundary: int) -> tuple[int, int]:
    """Delete some of the changes in (after, boundary], except those that claims wait for.

    Returns:
        How many were deleted, and the id up to which everything is done: `boundary` when finished.
    """
    last = await _one(
        db,
        "SELECT max(id) FROM (SELECT id FROM changes WHERE id > ? AND id <= ? ORDER BY id LIMIT ?)",
        after,
        boundary,
        PRUNE_BATCH,
    )
    if last is None:
        return 0, boundary
    ((action, at),) = await db.execute_fetchall(
        "SELECT a.id, a.at FROM changes c JOIN actions a ON a.id = c.action WHERE c.id = ?", (last,)
    )
    cursor = await db.execute(
        """DELETE FROM changes WHERE id > ? AND id <= ?
           AND NOT EXISTS (SELECT 1 FROM claims WHERE pending_change = changes.id)""",
        (after, last),
    )
    if cursor.rowcount:
        await db.execute(
            """INSERT INTO pruned (id, action, at) VALUES (1, ?, ?)
               ON CONFLICT (id) DO UPDATE SET action = max(action, excluded.action), at = max(at, excluded.at)""",
            (action, at),
        )
        await db.execute(
            "DELETE FROM actions WHERE id <= ? AND NOT EXISTS (SELECT 1 FROM changes WHERE action = actions.id)",
            (action,),
        )
    return cursor.rowcount, last


async def _one(db: aiosqlite.Connection, sql: str, *values: float) -> int | None:
    for row in await db.execute_fetchall(sql, values):
        return None if row[0] is None else int(row[0])
    return None

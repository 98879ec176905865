"""What the history answers, and what pruning leaves."""

import sqlite3
from pathlib import Path

import pytest

from qguard.ledger import Intent, Key, Ledger, LedgerError, history

DAY = 86400.0
START = 1_700_000_000.0


class Clock:
    """Time that passes only when told to."""

    now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: Clock):
    async with await Ledger.open(tmp_path / "ledger.db", clock=clock) as opened:
        yield opened


def key(number: int, added_on: int = 1) -> Key:
    return f"{number:040x}", added_on


async def change(
    ledger: Ledger, changes: dict[int, tuple[int, int]], outcome: str = "applied", tracker: str = "red"
) -> int:
    """Record (old, new) by torrent and settle it; the id of the action."""
    intents = [Intent(*key(n), tracker, old, new, "cap", old) for n, (old, new) in changes.items()]
    action = await ledger.record("cycle", intents, who="cycle", reason="")
    if outcome != "recorded":
        await ledger.settle([(i.key, outcome, i.new) for i in intents])  # type: ignore[misc]  # any of the outcomes
    return action.id


async def test_pages_follow_each_other_without_gap_or_overlap(ledger: Ledger):
    for n in range(7):
        await change(ledger, {1: (n, n + 1)})
    seen: list[int] = []
    while page := await ledger.history(limit=3, before_id=seen[-1] if seen else None):
        seen += [line.id for line in page]
    assert seen == [7, 6, 5, 4, 3, 2, 1]


async def test_history_can_be_narrowed_to_a_torrent_a_tracker_and_an_action(ledger: Ledger):
    first = await change(ledger, {1: (0, 10), 2: (0, 20)}, tracker="red")
    second = await change(ledger, {1: (10, 11), 3: (0, 30)}, tracker="ops")
    assert [line.new for line in await ledger.history(hash=key(1)[0])] == [11, 10]
    assert [line.new for line in await ledger.history(tracker="ops")] == [30, 11]
    assert [line.new for line in await ledger.history(action=first)] == [20, 10]
    assert [line.new for line in await ledger.history(hash=key(1)[0], tracker="red", action=first)] == [10]
    assert [line.new for line in await ledger.history(hash=key(1)[0], tracker="red", action=second)] == []


async def test_a_line_of_history_tells_everything_about_a_change(ledger: Ledger, clock: Clock):
    action = await change(ledger, {1: (5, 10)})
    (line,) = await ledger.history()
    assert (line.action, line.kind, line.at, line.hash, line.added_on) == (action, "cycle", START, *key(1))
    assert (line.tracker, line.old, line.new, line.why, line.outcome) == ("red", 5, 10, "cap", "applied")


@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"hash": key(1)[0]},
        {"tracker": "red"},
        {"action": 1},
        {"hash": key(1)[0], "tracker": "red"},
        {"tracker": "red", "action": 1},
        {"hash": key(1)[0], "tracker": "red", "action": 1},
    ],
)
async def test_no_page_of_history_reads_or_sorts_the_whole_table(ledger: Ledger, filters: dict[str, object]):
    every = {"hash": None, "tracker": None, "action": None, "before_id": 100, "limit": 10}
    sql, values = history.changes_query(**(every | filters))  # type: ignore[arg-type]  # one of each
    with sqlite3.connect(f"{ledger.path.as_uri()}?mode=ro", uri=True) as db:
        steps = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, values)]
    db.close()
    assert steps
    assert [step for step in steps if "SCAN" in step or "TEMP" in step] == []


async def test_actions_are_counted_by_outcome(ledger: Ledger):
    await change(ledger, {1: (0, 10), 2: (0, 20)})
    await change(ledger, {1: (10, 11)}, outcome="lost")
    await ledger.record("pause", [], who="api", reason="lunch")
    summaries = await ledger.actions()
    assert [(s.id, s.kind, s.outcomes) for s in summaries] == [
        (3, "pause", {}),
        (2, "cycle", {"lost": 1}),
        (1, "cycle", {"applied": 2}),
    ]
    assert (summaries[0].who, summaries[0].reason) == ("api", "lunch")
    assert [s.id for s in await ledger.actions(before_id=3, limit=1)] == [2]


async def test_i5_undoing_an_action_gives_what_its_torrents_had_before_it(ledger: Ledger):
    await change(ledger, {1: (0, 10)})
    second = await change(ledger, {1: (10, 11), 2: (0, 20)})
    await change(ledger, {1: (11, 12), 3: (0, 30)})
    assert await ledger.first_old_since(action=second) == {key(1): 10, key(2): 0}


async def test_i5_undoing_since_a_time_gives_what_torrents_had_before_their_first_change(ledger: Ledger, clock: Clock):
    await change(ledger, {1: (0, 10)})
    clock.now += 60
    await change(ledger, {1: (10, 11), 2: (5, 20)})
    clock.now += 60
    await change(ledger, {1: (11, 12), 3: (7, 30)})
    assert await ledger.first_old_since(since=START + 30) == {key(1): 10, key(2): 5, key(3): 7}
    assert await ledger.first_old_since(since=START + 60) == {key(1): 10, key(2): 5, key(3): 7}
    assert await ledger.first_old_since(since=START + 61) == {key(1): 11, key(3): 7}
    assert await ledger.first_old_since(since=START + 121) == {}


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [("recorded", True), ("applied", True), ("overridden", True), ("lost", False), ("gone", False)],
)
async def test_only_changes_that_may_have_been_applied_are_undone(ledger: Ledger, outcome: str, counts: bool):
    action = await change(ledger, {1: (5, 10)}, outcome=outcome)
    assert (await ledger.first_old_since(action=action) == {key(1): 5}) is counts
    assert (await ledger.first_old_since(since=START) == {key(1): 5}) is counts


async def test_undoing_an_action_that_never_was_is_an_error(ledger: Ledger):
    with pytest.raises(LedgerError, match="no action 7"):
        await ledger.first_old_since(action=7)
    with pytest.raises(ValueError, match="either an action or a time"):
        await ledger.first_old_since()


async def test_values_of_our_own_are_recognised(ledger: Ledger):
    await change(ledger, {1: (900, 10), 2: (0, 20)})
    await change(ledger, {1: (10, 11)}, outcome="lost")
    assert await ledger.ever_written([key(1), key(2), key(1, added_on=2), key(9)]) == {
        key(1): {900, 10, 11},
        key(2): {0, 20},
        key(1, added_on=2): frozenset(),
        key(9): frozenset(),
    }


async def test_more_torrents_than_sqlite_takes_variables_can_be_asked_about(ledger: Ledger):
    await change(ledger, {1: (900, 10)})
    found = await ledger.ever_written([key(n) for n in range(300_000)])
    assert len(found) == 300_000
    assert {k: v for k, v in found.items() if v} == {key(1): {900, 10}}


async def test_pruning_by_age_deletes_only_old_changes(ledger: Ledger, clock: Clock):
    await change(ledger, {1: (0, 10), 2: (0, 20)})
    clock.now += 10 * DAY
    await change(ledger, {1: (10, 11)})
    clock.now += 10 * DAY
    assert await ledger.prune(keep_days=15, max_rows=1000) == 2
    assert [line.new for line in await ledger.history()] == [11]
    assert [summary.id for summary in await ledger.actions()] == [2]
    assert await ledger.prune(keep_days=15, max_rows=1000) == 0


async def test_pruning_everything_keeps_claims_and_originals(ledger: Ledger, clock: Clock):
    await change(ledger, {1: (900, 10)})
    clock.now += DAY
    before = dict(ledger.claims)
    assert await ledger.prune(keep_days=0, max_rows=0) == 1
    async with await Ledger.open(ledger.path, readonly=True) as again:
        assert dict(again.claims) == dict(ledger.claims) == before
        assert not again.is_new
    assert await ledger.ever_written([key(1)]) == {key(1): {900, 10}}


async def test_ids_are_not_used_again_after_pruning(ledger: Ledger, clock: Clock):
    await change(ledger, {1: (0, 10)})
    clock.now += DAY
    await ledger.prune(keep_days=0, max_rows=0)
    action = await ledger.record("cycle", [Intent(*key(1), "red", 10, 11, "cap", 0)], who="", reason="")
    assert (action.id, action.changes[0][0]) == (2, 2)


async def test_pruning_by_number_keeps_the_newest(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(history, "PRUNE_BATCH", 2)
    for n in range(9):
        await change(ledger, {1: (n, n + 1)})
    assert await ledger.prune(keep_days=1, max_rows=3) == 6
    assert [line.new for line in await ledger.history()] == [9, 8, 7]


async def test_pruning_keeps_changes_whose_outcome_is_awaited(ledger: Ledger, clock: Clock):
    await change(ledger, {1: (0, 10)}, outcome="recorded")
    await change(ledger, {2: (0, 20)})
    clock.now += DAY
    assert await ledger.prune(keep_days=0, max_rows=0) == 1
    await ledger.settle([(key(1), "applied", 10)])
    assert [(line.new, line.outcome) for line in await ledger.history()] == [(10, "applied")]


async def test_i5_undoing_what_was_pruned_is_refused_rather_than_half_done(ledger: Ledger, clock: Clock):
    first = await change(ledger, {1: (0, 10)})
    clock.now += 10 * DAY
    second = await change(ledger, {1: (10, 11)})
    clock.now += DAY
    await ledger.prune(keep_days=5, max_rows=1000)
    with pytest.raises(LedgerError, match="was pruned"):
        await ledger.first_old_since(action=first)
    with pytest.raises(LedgerError, match="was pruned"):
        await ledger.first_old_since(since=START)
    assert await ledger.first_old_since(action=second) == {key(1): 10}
    assert await ledger.first_old_since(since=START + DAY) == {key(1): 10}
    await ledger.prune(keep_days=0, max_rows=1000)
    with pytest.raises(LedgerError, match=f"action {second} was pruned"):
        await ledger.first_old_since(action=second)
    with pytest.raises(LedgerError, match="was pruned"):
        await ledger.first_old_since(since=START + 10 * DAY)

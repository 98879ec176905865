"""What the ledger stores, keeps and gives back."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

import asyncio
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from qguard.ledger import Hold, Intent, Key, Ledger, LedgerError, originals, read_originals_file


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def ledger(path: Path, clock: Clock):
    async with await Ledger.open(path, clock=clock) as opened:
        yield opened


def key(number: int, added_on: int = 1) -> Key:
    return f"{number:040x}", added_on


def intent(
    number: int, new: int, *, old: int = 0, original: int = 0, tracker: str = "red", added_on: int = 1
) -> Intent:
    return Intent(f"{number:040x}", added_on, tracker, old, new, "cap", original)


async def record(ledger: Ledger, *intents: Intent, kind: str = "cycle") -> int:
    return (await ledger.record(kind, intents, who="cycle", reason="test")).id


async def reopened(path: Path) -> Ledger:
    async with await Ledger.open(path, readonly=True) as again:
        return again


async def test_i5_the_original_stays_what_it_was_before_the_first_change(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500, old=900, original=900))
    await ledger.settle([(key(1), "applied", 500)])
    await record(ledger, intent(1, 400, old=500, original=500))
    assert ledger.claims[key(1)].original == 900
    assert (await reopened(path)).claims[key(1)].original == 900
    assert read_originals_file(ledger.originals_path) == {key(1): 900}


async def test_i5_a_torrent_added_again_is_another_torrent(ledger: Ledger):
    await record(ledger, intent(1, 500, original=900, added_on=1), intent(1, 500, original=70, added_on=2))
    assert [ledger.claims[key(1, n)].original for n in (1, 2)] == [900, 70]


async def test_an_intent_is_pending_until_its_outcome_is_known(ledger: Ledger, clock: Clock):
    action = await ledger.record("cycle", [intent(n, 500) for n in range(4)], who="cycle", reason="")
    assert [change for change, _ in action.changes] == [ledger.claims[key(n)].pending_change for n in range(4)]
    assert {ledger.claims[key(n)].pending for n in range(4)} == {500}
    clock.now += 5
    await ledger.settle(
        [(key(0), "applied", 500), (key(1), "lost", 0), (key(2), "overridden", 7), (key(3), "gone", None)],
        holds={key(2): Hold("foreign", 7)},
    )
    assert [ledger.claims[key(n)].written for n in range(4)] == [500, None, None, None]
    assert {ledger.claims[key(n)].pending for n in range(4)} == {None}
    assert ledger.claims[key(0)].written_at == clock.now
    assert (ledger.claims[key(2)].hold, ledger.claims[key(2)].hold_value) == ("foreign", 7)
    outcomes = [(change.outcome, change.observed, change.settled_at) for change in await ledger.history()]
    assert outcomes == [
        ("gone", None, clock.now),
        ("overridden", 7, clock.now),
        ("lost", 0, clock.now),
        ("applied", 500, clock.now),
    ]


async def test_settling_twice_changes_nothing(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500))
    await ledger.settle([(key(1), "applied", 500)])
    before = dict(ledger.claims)
    await ledger.settle([(key(1), "lost", 0), (key(2), "lost", 0)], release=[key(3)])
    assert dict(ledger.claims) == before == dict((await reopened(path)).claims)
    assert [change.outcome for change in await ledger.history()] == ["applied"]


async def test_a_restored_torrent_is_dropped(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500, original=900))
    await record(ledger, intent(1, 900, old=500), kind="rollback")
    await ledger.settle([(key(1), "applied", 900)], release=[key(1)])
    assert not ledger.claims
    assert not (await reopened(path)).claims
    assert read_originals_file(ledger.originals_path) == {}


async def test_i5_a_restored_torrent_on_hold_is_remembered_until_the_hold_is_lifted(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500, original=900))
    await ledger.settle([(key(1), "applied", 500)])
    await ledger.record(
        "rollback", [intent(1, 900, old=500)], who="api", reason="undo", holds={key(1): Hold("rollback", 900)}
    )
    await ledger.settle([(key(1), "applied", 900)], release=[key(1)])
    claim = (await reopened(path)).claims[key(1)]
    assert (claim.original, claim.written, claim.hold, claim.hold_value) == (None, None, "rollback", 900)
    assert ledger.originals() == []
    await ledger.unhold([key(1)])
    assert not ledger.claims
    assert not (await reopened(path)).claims


async def test_a_torrent_claimed_again_after_its_release_has_a_new_original(ledger: Ledger):
    await record(ledger, intent(1, 500, original=900))
    await ledger.settle([(key(1), "applied", 500)], release=[key(1)])
    await record(ledger, intent(1, 300, original=70))
    assert ledger.claims[key(1)].original == 70
    assert read_originals_file(ledger.originals_path) == {key(1): 70}


async def test_holds_stay_over_a_restart_and_need_no_claim(ledger: Ledger, path: Path):
    await ledger.hold([key(1), key(2)], "foreign", 12)
    await ledger.unhold([key(2)])
    claims = (await reopened(path)).claims
    assert {k: (c.hold, c.hold_value, c.original) for k, c in claims.items()} == {key(1): ("foreign", 12, None)}


async def test_controls_stay_over_a_restart_until_cleared(ledger: Ledger, path: Path, clock: Clock):
    await ledger.set_control("rollout", "*", {"percentage": 10}, "api", "first tenth")
    await ledger.set_control("pause", "red", until := 1.5, "command", "")
    await ledger.record(
        "rollback", [], who="api", reason="undo", controls={("pause", "*"): True, ("pause", "red"): None}
    )
    controls = (await reopened(path)).controls
    assert controls == ledger.controls
    assert {name: control.value for name, control in controls.items()} == {
        ("rollout", "*"): {"percentage": 10},
        ("pause", "*"): True,
    }
    assert controls["rollout", "*"].at == clock.now
    assert controls["rollout", "*"].who == "api"
    assert until not in [control.value for control in controls.values()]
    await ledger.clear_control("rollout", "*")
    assert set((await reopened(path)).controls) == {("pause", "*")}


async def test_a_control_that_json_cannot_hold_is_refused(ledger: Ledger):
    with pytest.raises(LedgerError, match=r"control rollout \(\*\): JSON cannot hold"):
        await ledger.set_control("rollout", "*", object(), "api", "")
    assert not ledger.controls


async def test_originals_can_be_listed_by_tracker(ledger: Ledger):
    await record(ledger, intent(1, 500, tracker="red"), intent(2, 500, tracker="ops"))
    await ledger.hold([key(3)], "foreign", 1)
    assert {claim.key for claim in ledger.originals()} == {key(1), key(2)}
    assert {claim.key for claim in ledger.originals("ops")} == {key(2)}


async def test_a_ledger_is_new_until_a_change_is_recorded(ledger: Ledger, path: Path):
    assert ledger.is_new
    await ledger.record("pause", [], who="api", reason="", controls={("pause", "*"): True})
    assert ledger.is_new
    await record(ledger, intent(1, 500))
    assert not ledger.is_new
    await ledger.settle([(key(1), "applied", 500)], release=[key(1)])
    assert not (await reopened(path)).is_new


async def test_adopting_claims_what_is_there_and_keeps_originals_that_are_known(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500, original=900))
    await ledger.hold([key(2)], "foreign", 12)
    adopted = {key(1): (0, 500, "red"), key(2): (0, 12, "red"), key(3): (70, 70, "ops")}
    await ledger.adopt(adopted, mode="unlimited", who="command")
    again = await reopened(path)
    assert dict(again.claims) == dict(ledger.claims)
    assert {k: c.original for k, c in again.claims.items()} == {key(1): 900, key(2): 0, key(3): 70}
    assert [again.claims[key(n)].written for n in (2, 3)] == [12, 70]
    assert again.controls["adopted", "*"].value == {"mode": "unlimited", "torrents": 3}
    assert read_originals_file(ledger.originals_path) == {key(1): 900, key(2): 0, key(3): 70}


async def test_adopting_nothing_ends_the_first_contact(ledger: Ledger, path: Path):
    await ledger.adopt({}, mode="as-is", who="command")
    assert not ledger.is_new
    assert not (await reopened(path)).is_new


async def test_forgotten_torrents_leave_only_their_history(ledger: Ledger, path: Path):
    await record(ledger, *(intent(n, 500, original=n) for n in range(5)))
    await ledger.forget([key(0), key(3), key(99)])
    assert set(ledger.claims) == set((await reopened(path)).claims) == {key(1), key(2), key(4)}
    assert read_originals_file(ledger.originals_path) == {key(1): 1, key(2): 2, key(4): 4}
    assert len(ledger.originals_path.read_text().splitlines()) == 3
    assert len(await ledger.history()) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        Intent("A" * 40, 1, "red", 0, 1, "", 0),
        Intent("a" * 39, 1, "red", 0, 1, "", 0),
        intent(1, -1),
        intent(1, 2147483647),
        intent(1, 1.5),  # type: ignore[arg-type]  # what a careless caller may pass
        intent(1, 1, original=-1),
        intent(1, 1, old=2**63),
        intent(1, 1, added_on=2**64),
        intent(1, 1, tracker="\ud800"),
    ],
)
async def test_i2_what_must_never_be_sent_is_not_recorded(ledger: Ledger, path: Path, wrong: Intent):
    with pytest.raises(LedgerError):
        await record(ledger, intent(2, 500), wrong)
    assert not ledger.claims
    assert not (await reopened(path)).claims
    assert await ledger.actions() == []


async def test_two_changes_of_a_torrent_in_one_action_are_refused(ledger: Ledger):
    with pytest.raises(LedgerError, match="two changes"):
        await record(ledger, intent(1, 500), intent(1, 600))


async def test_three_thousand_intents_are_stored(ledger: Ledger, path: Path):
    wanted = [intent(n, n + 1, original=n) for n in range(3000)]
    action = await ledger.record("cycle", wanted, who="cycle", reason="")
    await ledger.settle([(i.key, "applied", i.new) for i in wanted])
    again = await reopened(path)
    assert len(action.changes) == 3000
    assert {k: (c.original, c.written) for k, c in again.claims.items()} == {i.key: (i.original, i.new) for i in wanted}


async def test_a_cancelled_caller_does_not_leave_half_an_action(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
):
    reached, may_go_on = threading.Event(), threading.Event()

    def append_slowly(*args: object) -> None:
        reached.set()
        assert may_go_on.wait(30)
        append(*args)

    append = originals.append
    monkeypatch.setattr(originals, "append", append_slowly)
    task = asyncio.create_task(record(ledger, intent(1, 500, original=9)))
    assert await asyncio.to_thread(reached.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    may_go_on.set()
    await ledger.close()
    assert dict(ledger.claims) == dict((await reopened(path)).claims)
    assert ledger.claims[key(1)].original == 9


async def test_concurrent_callers_take_turns(ledger: Ledger, path: Path):
    await asyncio.gather(*(record(ledger, intent(n, n + 1)) for n in range(20)), *(ledger.history() for _ in range(20)))
    assert len((await reopened(path)).claims) == 20
    assert [change.new for change in await ledger.history()] == list(range(20, 0, -1))


async def test_the_mirror_cannot_be_changed_from_outside(ledger: Ledger):
    with pytest.raises(TypeError):
        ledger.claims[key(1)] = None  # type: ignore[index]
    with pytest.raises(TypeError):
        ledger.controls["a", "b"] = None  # type: ignore[index]


async def test_files_are_for_their_owner_only(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500))
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    assert set(modes) >= {"ledger.db", "ledger.db-wal", "ledger.originals.jsonl"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_an_older_file_with_wider_modes_is_closed_to_others(path: Path):
    path.parent.mkdir()
    path.touch()
    path.chmod(0o644)
    async with await Ledger.open(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_writes_are_durable_before_they_are_reported(ledger: Ledger):
    """FULL is 2; in WAL mode it means one fsync per transaction."""
    assert ledger._db is not None
    pragmas = [
        next(iter(await ledger._db.execute_fetchall(f"PRAGMA {name}")))[0]
        for name in ("journal_mode", "synchronous", "foreign_keys")
    ]
    assert pragmas == ["wal", 2, 1]


async def test_a_reader_beside_the_service_sees_what_is_stored_and_may_not_write(ledger: Ledger, path: Path):
    await record(ledger, intent(1, 500))
    async with await Ledger.open(path, readonly=True) as reader:
        await record(ledger, intent(2, 500))
        assert set(reader.claims) == {key(1)}
        assert [change.hash for change in await reader.history()] == [key(2)[0], key(1)[0]]
        for write in (
            record(reader, intent(3, 500)),
            reader.settle([(key(1), "applied", 500)]),
            reader.hold([key(1)], "foreign", 1),
            reader.set_control("pause", "*", True, "x", ""),
            reader.adopt({}, mode="as-is", who="x"),
            reader.forget([key(1)]),
            reader.prune(0, 0),
        ):
            with pytest.raises(LedgerError, match="open for reading only"):
                await write
        assert reader._db is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reader._db.execute("DELETE FROM claims")
    assert set(ledger.claims) == {key(1), key(2)}


async def test_a_closed_ledger_says_so_and_may_be_closed_again(path: Path):
    ledger = await Ledger.open(path)
    await ledger.close()
    await ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        await record(ledger, intent(1, 500))
    with pytest.raises(LedgerError, match="is closed"):
        await ledger.history()

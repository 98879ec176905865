"""The ledger against a dictionary, through any order of events, failures and crashes."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qguard.ledger import Claim, Hold, Intent, Key, Ledger, LedgerError, read_originals_file, store

KEYS = [(f"{n:040x}", added_on) for n in range(3) for added_on in (1, 2)]
LIMITS = st.integers(0, 5)
SUBSETS = st.lists(st.sampled_from(KEYS), unique=True)
OUTCOMES = st.sampled_from(["applied", "lost", "overridden", "gone"])
HOLDS = st.builds(Hold, st.sampled_from(["foreign", "rollback"]), LIMITS)
MAYBE_APPLIED = {"recorded", "applied", "overridden"}


class Expected:
    """One torrent as the model sees it."""

    def __init__(self) -> None:
        self.original: int | None = None
        self.written: int | None = None
        self.pending: int | None = None
        self.hold = Hold("")

    def shown(self) -> tuple[object, ...]:
        return self.original, self.written, self.pending, self.hold.kind, self.hold.value


def shown(claim: Claim) -> tuple[object, ...]:
    return claim.original, claim.written, claim.pending, claim.hold, claim.hold_value


class LedgerMachine(RuleBasedStateMachine):
    """Limits stand in a dictionary; the ledger must say the same at every step, in memory and on disk."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.expected: dict[Key, Expected] = {}
        self.changes: list[tuple[int, Key, int, int]] = []
        """action, key, old, new of each change, by id"""
        self.outcomes: dict[int, str] = {}
        self.pending_change: dict[Key, int] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    @property
    def path(self) -> Path:
        return self.folder / f"life{self.lives}" / "ledger.db"

    @initialize()
    def start(self) -> None:
        self.ledger: Ledger = self.run(Ledger.open(self.path))

    def teardown(self) -> None:
        self.run(self.ledger.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule(data=st.data(), keys=SUBSETS, hold=st.none() | HOLDS)
    def record(self, data: st.DataObject, keys: list[Key], hold: Hold | None) -> None:
        intents = [
            Intent(*key, "red", data.draw(LIMITS), data.draw(LIMITS), "cap", original=data.draw(LIMITS)) for key in keys
        ]
        holds = dict.fromkeys(keys[:1], hold) if hold else {}
        action = self.run(self.ledger.record("cycle", intents, who="", reason="", holds=holds))
        for change, intent in action.changes:
            torrent = self.expected.setdefault(intent.key, Expected())
            torrent.original = intent.original if torrent.original is None else torrent.original
            torrent.pending = intent.new
            self.pending_change[intent.key] = change
            self.changes.append((action.id, intent.key, intent.old, intent.new))
            self.outcomes[change] = "recorded"
        for key in holds:
            self.expected[key].hold = holds[key]

    @rule(data=st.data(), keys=SUBSETS, release=SUBSETS)
    def settle(self, data: st.DataObject, keys: list[Key], release: list[Key]) -> None:
        outcomes = {key: data.draw(OUTCOMES) for key in keys}
        self.run(self.ledger.settle([(k, o, None) for k, o in outcomes.items()], release=release))
        for key, outcome in outcomes.items():
            torrent = self.expected.get(key)
            if torrent is None or torrent.pending is None:
                continue
            if outcome == "applied":
                torrent.written = torrent.pending
            torrent.pending = None
            self.outcomes[self.pending_change.pop(key)] = outcome
        for key in release:
            self.restored(key)

    @rule(keys=SUBSETS)
    def roll_back(self, keys: list[Key]) -> None:
        """Back to the originals and on hold until resumed, as the service does it."""
        touched = [key for key in keys if self.expected.get(key) and self.expected[key].original is not None]
        intents = [Intent(*key, "red", 1, self.expected[key].original or 0, "undo", original=0) for key in touched]
        holds = {intent.key: Hold("rollback", intent.new) for intent in intents}
        action = self.run(self.ledger.record("rollback", intents, who="", reason="", holds=holds))
        self.run(self.ledger.settle([(i.key, "applied", i.new) for i in intents], release=touched))
        for change, intent in action.changes:
            self.expected[intent.key].hold = holds[intent.key]
            self.changes.append((action.id, intent.key, intent.old, intent.new))
            self.outcomes[change] = "applied"
            self.restored(intent.key)

    def restored(self, key: Key) -> None:
        torrent = self.expected.get(key)
        if torrent is not None and torrent.original is not None:
            torrent.original = torrent.written = torrent.pending = None
            self.pending_change.pop(key, None)
            self.drop_if_idle(key)

    def drop_if_idle(self, key: Key) -> None:
        if self.expected[key].original is None and not self.expected[key].hold.kind:
            del self.expected[key]

    @rule(keys=SUBSETS, hold=HOLDS)
    def hold(self, keys: list[Key], hold: Hold) -> None:
        self.run(self.ledger.hold(keys, hold.kind, hold.value))
        for key in keys:
            self.expected.setdefault(key, Expected()).hold = hold

    @rule(keys=SUBSETS)
    def unhold(self, keys: list[Key]) -> None:
        self.run(self.ledger.unhold(keys))
        for key in self.expected.keys() & set(keys):
            self.expected[key].hold = Hold("")
            self.drop_if_idle(key)

    @rule(keys=SUBSETS)
    def forget(self, keys: list[Key]) -> None:
        self.run(self.ledger.forget(keys))
        for key in keys:
            self.expected.pop(key, None)
            self.pending_change.pop(key, None)

    @rule(keys=SUBSETS, original=LIMITS)
    def fail_to_record(self, keys: list[Key], original: int) -> None:
        """The disk gives out once the plain file is written, before the database is."""

        async def give_out(*args: object) -> None:
            raise sqlite3.OperationalError("disk I/O error")

        intents = [Intent(*key, "red", 9, 9, "cap", original) for key in keys]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store, "_store_claims", give_out)
            with pytest.raises(LedgerError):
                self.run(self.ledger.record("cycle", intents, who="", reason=""))

    @rule()
    def crash(self) -> None:
        """What a killed process leaves on the disk is all that the next one finds."""
        left_behind = self.path.parent
        self.lives += 1
        self.path.parent.mkdir()
        for name in ("ledger.db", "ledger.db-wal", "ledger.originals.jsonl"):
            if (left_behind / name).exists():
                shutil.copy(left_behind / name, self.path.parent / name)
        self.run(self.ledger.close())
        self.ledger = self.run(Ledger.open(self.path))

    @rule()
    def restart(self) -> None:
        self.run(self.ledger.close())
        self.ledger = self.run(Ledger.open(self.path))

    @precondition(lambda self: self.changes)
    @rule(data=st.data())
    def ask_what_was_before_an_action(self, data: st.DataObject) -> None:
        action = data.draw(st.sampled_from([change[0] for change in self.changes]))
        expected = {
            key: old
            for number, (of, key, old, _) in enumerate(self.changes, 1)
            if of == action and self.outcomes[number] in MAYBE_APPLIED
        }
        assert self.run(self.ledger.first_old_since(action=action)) == expected

    @rule()
    def ask_what_was_before_everything(self) -> None:
        expected: dict[Key, int] = {}
        for number, (_, key, old, _) in enumerate(self.changes, 1):
            if self.outcomes[number] in MAYBE_APPLIED:
                expected.setdefault(key, old)
        assert self.run(self.ledger.first_old_since(since=0.0)) == expected

    @rule()
    def ask_which_values_are_ours(self) -> None:
        found = self.run(self.ledger.ever_written(KEYS))
        for key in KEYS:
            values = {new for _, of, _, new in self.changes if of == key}
            torrent = self.expected.get(key)
            assert found[key] == values | ({torrent.original} if torrent and torrent.original is not None else set())

    @invariant()
    def the_mirror_is_the_model(self) -> None:
        claims = self.ledger.claims
        assert {key: shown(claim) for key, claim in claims.items()} == {
            key: torrent.shown() for key, torrent in self.expected.items()
        }
        assert {key: claim.pending_change for key, claim in claims.items() if claim.pending_change} == (
            self.pending_change
        )

    @invariant()
    def the_disk_is_the_mirror(self) -> None:
        again = self.run(Ledger.open(self.path, readonly=True))
        self.run(again.close())
        assert dict(again.claims) == dict(self.ledger.claims)

    @invariant()
    def i5_the_plain_file_has_every_original(self) -> None:
        wanted = {key: torrent.original for key, torrent in self.expected.items() if torrent.original is not None}
        if wanted:
            plain = read_originals_file(self.ledger.originals_path)
            assert {key: plain[key] for key in wanted} == wanted


LedgerMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLedger = LedgerMachine.TestCase

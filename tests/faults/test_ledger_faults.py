"""The ledger when things break: kills, full disks, other programs' files."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

import os
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qguard.ledger import Intent, Key, Ledger, LedgerError, originals, read_originals_file
from qguard.ledger.schema import APPLICATION_ID, VERSION

KILLS = 15
SEED = 20240229

RECORD_FOREVER = """
import asyncio, random, sys
from qguard.ledger import Intent, Ledger

async def main(path, seed):
    pick = random.Random(seed)
    ledger = await Ledger.open(path)
    while True:
        keys = [(f"{n:040x}", 1) for n in pick.sample(range(2000), pick.randint(1, 200))]
        intents = [Intent(*key, "red", 0, pick.randint(1, 10**6), "cap", pick.randint(0, 10**6)) for key in keys]
        action = await ledger.record("cycle", intents, who="cycle", reason="")
        print(action.id, flush=True)
        outcomes = [(i.key, pick.choice(["applied", "lost", "gone"]), i.new) for i in intents if pick.random() < 0.9]
        await ledger.settle(outcomes, release=[key for key in keys if pick.random() < 0.3])
        if pick.random() < 0.2:
            await ledger.forget(keys[:10])

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
async def ledger(path: Path):
    async with await Ledger.open(path) as opened:
        yield opened


def key(number: int) -> Key:
    return f"{number:040x}", 1


async def try_to_open(path: Path, *, readonly: bool = False) -> None:
    """Close what opens against expectation: a connection left open would keep the test run from ending."""
    await (await Ledger.open(path, readonly=readonly)).close()


def intents(count: int, first: int = 0) -> list[Intent]:
    return [Intent(*key(n), "red", n, n + 1, "cap", n) for n in range(first, first + count)]


async def record(ledger: Ledger, wanted: list[Intent]) -> int:
    return (await ledger.record("cycle", wanted, who="cycle", reason="")).id


async def assert_stored_is_mirrored(ledger: Ledger) -> None:
    async with await Ledger.open(ledger.path, readonly=True) as again:
        assert dict(again.claims) == dict(ledger.claims)
        assert dict(again.controls) == dict(ledger.controls)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Writes past `size` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_i4_i5_a_kill_at_any_moment_loses_nothing_that_was_reported(path: Path):
    pick = random.Random(SEED)
    for kill in range(KILLS):
        reported = kill_while_recording(path, seed=kill, after_actions=pick.randint(1, 12), delay=pick.uniform(0, 0.02))
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        db.close()
        plain = originals.load(originals.originals_path(path))
        assert plain.damaged == []
        async with await Ledger.open(path, readonly=True) as ledger:
            stored = {claim.key: claim.original for claim in ledger.originals()}
            assert {k: plain.entries[k].limit for k in stored} == stored
            assert (await ledger.actions(limit=1))[0].id >= reported
    assert stored


def kill_while_recording(path: Path, *, seed: int, after_actions: int, delay: float) -> int:
    """The last action that the process reported as stored before it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", RECORD_FOREVER, str(path), str(seed)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after_actions)]
        killer = threading.Timer(delay, process.kill)
        killer.start()
        lines += process.stdout.readlines()
        killer.join()
    return int(lines[-1])


async def test_i4_a_full_database_stores_nothing_and_says_so(ledger: Ledger):
    await record(ledger, intents(3))
    before = dict(ledger.claims)
    assert ledger._db is not None
    await ledger._db.execute("PRAGMA max_page_count = 1")  # no more pages than there are
    with pytest.raises(LedgerError, match=rf"ledger {ledger.path}: the disk is full: free some space"):
        await record(ledger, intents(2000))
    assert dict(ledger.claims) == before
    await assert_stored_is_mirrored(ledger)
    await ledger._db.execute("PRAGMA max_page_count = 1000000")
    await record(ledger, intents(2000))
    assert len(ledger.claims) == 2000
    await assert_stored_is_mirrored(ledger)


async def test_a_log_that_cannot_grow_stores_nothing_and_says_so(ledger: Ledger):
    await record(ledger, intents(3))
    before = dict(ledger.claims)
    size = ledger.path.with_name("ledger.db-wal").stat().st_size
    with file_size_limit(size + 4096), pytest.raises(LedgerError, match="check free space"):
        await ledger.hold([key(n) for n in range(1000)], "foreign", 1)
    assert dict(ledger.claims) == before
    await assert_stored_is_mirrored(ledger)
    await ledger.hold([key(n) for n in range(1000)], "foreign", 1)
    assert len(ledger.claims) == 1000
    await assert_stored_is_mirrored(ledger)


async def test_i4_a_plain_file_that_cannot_grow_stores_nothing_and_says_so(ledger: Ledger):
    await record(ledger, intents(3))
    before = dict(ledger.claims)
    size = ledger.originals_path.stat().st_size
    with file_size_limit(size + 250), pytest.raises(LedgerError, match=r"originals\.jsonl: the file may not grow"):
        await record(ledger, intents(100))
    assert dict(ledger.claims) == before
    assert await ledger.history(limit=1, action=2) == []
    await assert_stored_is_mirrored(ledger)
    await record(ledger, intents(100))
    assert read_originals_file(ledger.originals_path) == {key(n): n for n in range(100)}


async def test_i4_a_database_without_its_tables_stores_nothing_and_says_so(ledger: Ledger, path: Path):
    await record(ledger, intents(3))
    before = dict(ledger.claims)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE claims")
    db.close()
    with pytest.raises(LedgerError, match=r"is damaged \(no such table: .*claims\): stop qguard, move the file away"):
        await record(ledger, intents(3, first=3))
    assert dict(ledger.claims) == before
    assert [action.id for action in await ledger.actions()] == [1]
    await ledger.close()
    with pytest.raises(LedgerError, match=rf"run `qguard adopt --originals {ledger.originals_path}`"):
        await try_to_open(path)


async def test_i4_a_database_locked_by_another_program_stores_nothing_and_says_so(ledger: Ledger, path: Path):
    assert ledger._db is not None
    await ledger._db.execute("PRAGMA busy_timeout = 1")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="another program keeps it locked"):
        await record(ledger, intents(3))
    assert not ledger.claims
    other.execute("ROLLBACK")
    other.close()
    await record(ledger, intents(3))
    await assert_stored_is_mirrored(ledger)


@pytest.mark.parametrize("call", ["settle", "hold", "set_control", "forget", "adopt"])
async def test_no_failed_write_changes_the_mirror(ledger: Ledger, call: str):
    await record(ledger, intents(3))
    await ledger.set_control("rollout", "*", 10, "api", "")
    claims, controls = dict(ledger.claims), dict(ledger.controls)
    assert ledger._db is not None
    await ledger._db.execute("PRAGMA query_only = ON")
    work = {
        "settle": lambda: ledger.settle([(key(1), "applied", 2)], release=[key(2)]),
        "hold": lambda: ledger.hold([key(1), key(7)], "foreign", 3),
        "set_control": lambda: ledger.set_control("rollout", "*", 20, "api", ""),
        "forget": lambda: ledger.forget([key(1)]),
        "adopt": lambda: ledger.adopt({key(9): (1, 1, "red")}, mode="as-is", who="x"),
    }
    with pytest.raises(LedgerError, match="cannot be written"):
        await work[call]()
    assert (dict(ledger.claims), dict(ledger.controls)) == (claims, controls)
    await assert_stored_is_mirrored(ledger)
    stored = read_originals_file(ledger.originals_path)
    assert {k: stored[k] for k in claims} == {key(n): n for n in range(3)}


async def test_a_release_is_stored_even_when_the_plain_file_cannot_be_tidied(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object) -> None:
        raise LedgerError("no")

    await record(ledger, intents(1))
    monkeypatch.setattr(originals, "append", refuse)
    await ledger.settle([(key(0), "applied", 1)], release=[key(0)])
    assert not ledger.claims
    await assert_stored_is_mirrored(ledger)


async def test_compacting_that_fails_leaves_the_plain_file_whole(ledger: Ledger):
    await record(ledger, intents(50))
    before = read_originals_file(ledger.originals_path)
    new = ledger.originals_path.with_name(ledger.originals_path.name + ".new")
    new.mkdir()
    await ledger.forget([key(1)])
    assert read_originals_file(ledger.originals_path) == before
    new.rmdir()
    await ledger.forget([key(2)])
    assert read_originals_file(ledger.originals_path).keys() == before.keys() - {key(2)}


async def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(path: Path):
    async with await Ledger.open(path) as ledger:
        await record(ledger, intents(1))
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(LedgerError, match=rf"ledger {path} was written by a newer qguard .* start that version"):
            await try_to_open(path, readonly=readonly)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE bookmarks (url)", "PRAGMA user_version = 3", "PRAGMA application_id = 42"],
)
async def test_the_database_of_another_program_is_refused_and_left_alone(path: Path, statement: str):
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(LedgerError, match=rf"^{path} is the database of another program, .* set database_path to"):
            await try_to_open(path, readonly=readonly)
    assert path.read_bytes() == before
    assert set(path.parent.iterdir()) == {path}


async def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path):
    path.write_text("trackers:\n" * 500)
    for readonly in (False, True):
        with pytest.raises(LedgerError, match=rf"^{path} is not an SQLite database, .* set database_path to"):
            await try_to_open(path, readonly=readonly)
    assert path.read_text() == "trackers:\n" * 500


async def test_a_ledger_cut_in_half_is_refused(path: Path):
    async with await Ledger.open(path) as ledger:
        await record(ledger, intents(500))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(LedgerError, match="is damaged"):
        await try_to_open(path)


async def test_a_ledger_emptied_of_tables_is_refused(path: Path):
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.close()
    with pytest.raises(LedgerError, match="is damaged"):
        await try_to_open(path)


async def test_an_empty_file_becomes_a_ledger(path: Path):
    path.touch()
    async with await Ledger.open(path) as ledger:
        assert ledger.is_new


async def test_reading_needs_a_ledger_that_is_there_and_prepared(path: Path):
    with pytest.raises(LedgerError, match=f"there is no ledger at {path}"):
        await try_to_open(path, readonly=True)
    assert not path.exists()
    path.touch()
    with pytest.raises(LedgerError, match="start the service once"):
        await try_to_open(path, readonly=True)


async def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path):
    with pytest.raises(LedgerError, match="this is a folder: database_path must name a file in it"):
        await try_to_open(tmp_path)


async def test_a_file_instead_of_its_folder_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "ledger.db", tmp_path / "file" / "deeper" / "ledger.db"):
        with pytest.raises(LedgerError, match="correct database_path"):
            await try_to_open(path)


@pytest.fixture
def someone_elses_folder() -> Iterator[Path]:
    """A folder that the tests may read and not write; root gives up its rights for that."""
    folder = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if not is_root:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
    else:
        folder.chmod(0o755)
        os.seteuid(65534)
        yield folder
        os.seteuid(0)
    shutil.rmtree(folder)


async def test_a_folder_that_may_not_be_written_is_refused_with_a_remedy(someone_elses_folder: Path):
    for path in (someone_elses_folder / "ledger.db", someone_elses_folder / "new" / "ledger.db"):
        with pytest.raises(LedgerError, match="not permitted: give the user that runs qguard write access"):
            await try_to_open(path)

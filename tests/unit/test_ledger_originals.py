"""The plain file with the originals."""

# ruff: noqa: ASYNC240 - a test may wait for the disk

import json
from pathlib import Path

import pytest

from qguard.ledger import Intent, Key, Ledger, LedgerError, originals_path, read_originals_file
from qguard.ledger.originals import Original, append, original_lines, release_lines, rewrite


def key(number: int, added_on: int = 1) -> Key:
    return f"{number:040x}", added_on


def line(number: int, limit: int, tracker: str = "red") -> bytes:
    return original_lines([(key(number), Original(limit, tracker))])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ledger.originals.jsonl"


def test_it_is_named_after_the_database():
    assert originals_path(Path("/data/qguard.db")) == Path("/data/qguard.originals.jsonl")


def test_lines_have_the_form_that_scripts_rely_on():
    name = "a" * 40
    assert original_lines([((name, 1700000000), Original(0, "id"))]) == (
        b'{"hash":"' + name.encode() + b'","added_on":1700000000,"limit":0,"tracker":"id"}\n'
    )
    assert release_lines([(name, 17)]) == b'{"hash":"' + name.encode() + b'","added_on":17,"released":true}\n'


def test_a_tracker_name_cannot_break_a_line(file: Path):
    name = 'x"},\n{"limit":1,"ü'
    append(file, line(1, 5, name))
    (only,) = file.read_bytes().splitlines()
    assert json.loads(only)["tracker"] == name
    assert read_originals_file(file) == {key(1): 5}


def test_later_lines_win_and_releases_remove(file: Path):
    append(file, line(1, 5) + line(2, 6) + line(3, 7))
    append(file, line(1, 8) + release_lines([key(2), key(3)]))
    append(file, line(3, 9))
    assert read_originals_file(file) == {key(1): 8, key(3): 9}


@pytest.mark.parametrize("cut", [1, 2, 20, 60, 80])
def test_a_torn_last_line_is_passed_over_and_does_not_spoil_the_next(file: Path, cut: int):
    append(file, line(1, 5) + line(2, 123))
    file.write_bytes(file.read_bytes()[:-cut])
    complete = {key(1): 5} if cut > 1 else {key(1): 5, key(2): 123}
    assert read_originals_file(file) == complete
    append(file, line(3, 7))
    assert read_originals_file(file) == complete | {key(3): 7}


def test_a_torn_line_longer_than_what_is_read_at_once_is_cut_off(file: Path):
    append(file, line(1, 5))
    with file.open("ab") as torn:
        torn.write(b"x" * 200_000)
    append(file, line(3, 7))
    assert file.read_bytes() == line(1, 5) + line(3, 7)


def test_a_line_without_sense_is_named(file: Path):
    file.write_bytes(line(1, 5) + b'{"hash":"1234","added_on":1,"limit":3}\n' + line(2, 6))
    with pytest.raises(LedgerError, match=r"ledger\.originals\.jsonl, line 2: not an original"):
        read_originals_file(file)


def test_a_missing_file_is_named(file: Path):
    with pytest.raises(LedgerError, match=r"there is no file .*ledger\.originals\.jsonl"):
        read_originals_file(file)


def test_rewriting_leaves_one_line_for_each(file: Path):
    append(file, line(1, 5) * 3)
    rewrite(file, [(key(2), Original(6, "ops"))])
    assert file.read_bytes() == line(2, 6, "ops")
    assert list(file.parent.iterdir()) == [file]


async def claim(database: Path, *limits: int) -> None:
    async with await Ledger.open(database) as ledger:
        intents = [Intent(*key(n), "red", limit, 1, "cap", limit) for n, limit in enumerate(limits)]
        await ledger.record("cycle", intents, who="cycle", reason="")


async def test_i5_a_lost_plain_file_is_written_again(tmp_path: Path, file: Path):
    await claim(tmp_path / "ledger.db", 5, 6)
    file.unlink()
    await (await Ledger.open(tmp_path / "ledger.db")).close()
    assert read_originals_file(file) == {key(0): 5, key(1): 6}


async def test_i5_the_plain_file_of_a_lost_database_stays(tmp_path: Path, file: Path):
    await claim(tmp_path / "ledger.db", 5, 6)
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    async with await Ledger.open(tmp_path / "ledger.db") as ledger:
        assert ledger.is_new
    assert read_originals_file(file) == {key(0): 5, key(1): 6}


async def test_a_damaged_plain_file_is_kept_aside_and_written_anew(tmp_path: Path, file: Path):
    await claim(tmp_path / "ledger.db", 5, 6)
    damaged = file.read_bytes().replace(line(0, 5), b"garbage\n" + line(9, 7))
    file.write_bytes(damaged)
    async with await Ledger.open(tmp_path / "ledger.db", clock=lambda: 17.0):
        pass
    assert (tmp_path / "ledger.originals.jsonl.damaged-17").read_bytes() == damaged
    assert read_originals_file(file) == {key(0): 5, key(1): 6, key(9): 7}


async def test_reading_does_not_touch_the_plain_file(tmp_path: Path, file: Path):
    await claim(tmp_path / "ledger.db", 5)
    file.unlink()
    await (await Ledger.open(tmp_path / "ledger.db", readonly=True)).close()
    assert not file.exists()


async def test_a_plain_file_of_mostly_superfluous_lines_is_compacted(tmp_path: Path, file: Path):
    await claim(tmp_path / "ledger.db", 5)
    append(file, line(0, 5) * 1100)
    await (await Ledger.open(tmp_path / "ledger.db")).close()
    assert file.read_bytes() == line(0, 5)

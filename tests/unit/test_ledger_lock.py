"""One service per ledger."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qguard.ledger import Holder, LedgerError, LockedError, ServiceLock, read_holder

HOLD = """
import sys
from qguard.ledger import ServiceLock
lock = ServiceLock(sys.argv[1])
lock.acquire()
lock.publish("http://127.0.0.1:8089", "sesame")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(database: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "data" / "ledger.db"


def test_a_second_process_is_kept_out_and_told_by_whom(database: Path):
    with another_process(database) as process:
        with pytest.raises(LockedError, match=f"in use by process {process.pid} at http://127.0.0.1:8089") as refused:
            ServiceLock(database).acquire()
        holder = refused.value.holder
        assert (holder.pid, holder.url, holder.token) == (process.pid, "http://127.0.0.1:8089", "sesame")
        assert read_holder(database) == holder


def test_i9_the_token_is_in_no_message(database: Path):
    with another_process(database):
        with pytest.raises(LockedError) as refused:
            ServiceLock(database).acquire()
        assert "sesame" not in f"{refused.value} {refused.value!r} {refused.value.holder!r}"


def test_a_killed_holder_holds_nothing(database: Path):
    with another_process(database) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert read_holder(database) is None
        with ServiceLock(database):
            assert read_holder(database) == Holder(os.getpid(), "", "", pytest.approx(0, abs=2e10))


def test_nobody_holds_what_was_never_locked_or_was_released(database: Path):
    assert read_holder(database) is None
    lock = ServiceLock(database)
    lock.acquire()
    assert read_holder(database) is not None
    lock.release()
    lock.release()
    assert read_holder(database) is None


def test_a_second_lock_in_the_same_process_is_kept_out(database: Path):
    with ServiceLock(database), pytest.raises(LockedError):
        ServiceLock(database).acquire()


def test_what_is_published_replaces_what_was(database: Path):
    with ServiceLock(database) as lock:
        lock.publish("http://127.0.0.1:8089/with/a/long/path", "a long token")
        lock.publish("http://127.0.0.1:1", "t")
        holder = read_holder(database)
        assert holder is not None
        assert (holder.url, holder.token) == ("http://127.0.0.1:1", "t")
        assert json.loads(lock.path.read_bytes()).keys() == {"pid", "url", "token", "started"}


def test_publishing_needs_the_lock(database: Path):
    with pytest.raises(LedgerError, match="not locked by this process"):
        ServiceLock(database).publish("http://127.0.0.1:1", "t")


def test_the_lock_is_for_its_owner_only(database: Path):
    with ServiceLock(database) as lock:
        assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(lock.path.parent.stat().st_mode) == 0o700


def test_those_who_only_look_keep_nobody_out(database: Path):
    with ServiceLock(database):
        pass  # so that there is a file to look at
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            read_holder(database)

    lookers = [threading.Thread(target=look) for _ in range(3)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(100):
            with ServiceLock(database):
                pass
    finally:
        done.set()
        for looker in lookers:
            looker.join()


def test_a_lock_that_cannot_be_written_says_what_to_do(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(LedgerError, match="correct database_path"):
        ServiceLock(tmp_path / "file" / "ledger.db").acquire()

"""The inbox of hooks: each torrent once, bounded, over restarts, looked for again and then given up."""

from pathlib import Path

import pytest

from qguard import inbox as module
from qguard.inbox import GIVE_UP_AFTER, Inbox, InboxFullError, Latest

A, B = "a" * 40, "b" * 40


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.hooks"


@pytest.fixture
def inbox(path: Path, clock: Clock) -> Inbox:
    return Inbox(path, clock=clock)


def test_a_torrent_is_due_at_once_and_once_however_often_it_is_named(inbox: Inbox) -> None:
    for name in (A, B, A):
        inbox.put(name)
    assert inbox.due() == [A, B]
    assert inbox.accepted == 3


def test_what_waits_survives_the_process(inbox: Inbox, path: Path, clock: Clock) -> None:
    inbox.put(A)
    inbox.put(B)
    assert Inbox(path, clock=clock).due() == [A, B]


def test_what_was_acted_on_does_not_come_back(inbox: Inbox, path: Path, clock: Clock) -> None:
    inbox.put(A)
    inbox.found([A])
    assert len(Inbox(path, clock=clock)) == 0
    assert not path.exists()


def test_a_torn_last_line_costs_that_line_alone(inbox: Inbox, path: Path, clock: Clock) -> None:
    inbox.put(A)
    inbox.put(B)
    path.write_bytes(path.read_bytes()[:-5])
    assert Inbox(path, clock=clock).due() == [A]


def test_an_unknown_torrent_is_looked_for_at_growing_intervals_and_then_given_up(inbox: Inbox, clock: Clock) -> None:
    inbox.put(A)
    pauses = []
    while len(inbox):
        inbox.missing([A])
        due = inbox.next_due()
        if due is not None:
            pauses.append(due - clock.now)
            clock.now = due
    assert pauses[:6] == [0.25, 0.5, 1, 2, 4, 8]
    assert max(pauses) == 8
    assert clock.now - 1000 >= GIVE_UP_AFTER
    assert inbox.given_up == 1


def test_another_hook_brings_an_unknown_torrent_forward(inbox: Inbox, clock: Clock) -> None:
    inbox.put(A)
    for _ in range(5):
        inbox.missing([A])
    assert inbox.due() == []
    clock.now += 0.01
    inbox.put(A)
    assert inbox.due() == [A]


def test_a_hash_is_doubted_once_and_again_where_the_doubt_could_not_be_settled(inbox: Inbox) -> None:
    inbox.put(A)
    assert [inbox.missing([A]) for _ in range(5)] == [[], [], [A], [], []]
    inbox.doubt_again([A])
    assert [inbox.missing([A]) for _ in range(2)] == [[A], []]


def test_more_than_can_be_kept_are_refused_and_counted(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    inbox.put(A)
    inbox.put(B)
    with pytest.raises(InboxFullError, match="2 torrents wait"):
        inbox.put("c" * 40)
    inbox.put(A)  # one that waits already takes no room
    assert (len(inbox), inbox.refused) == (2, 1)


def test_the_file_stays_small_whatever_is_sent_and_holds_the_newest(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST", 10)
    inbox, sizes = Inbox(path, clock=clock), []
    for number in range(500):  # one always waits, so that the file is never simply deleted
        inbox.put(f"{number:040x}")
        if number >= 5:
            inbox.found([f"{number - 5:040x}"])
        sizes.append(len(path.read_bytes().splitlines()))
    assert max(sizes) == module.LINES_PER_TORRENT * 10
    restarted = Inbox(path, clock=clock)
    assert restarted.names()[-5:] == inbox.names()
    assert len(restarted) <= 10
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_a_file_with_more_than_may_wait_the_newest_count(
    inbox: Inbox, path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3, 4):
        inbox.put(f"{number:040x}")
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[1])
    monkeypatch.setattr(module, "MOST", 2)
    assert Inbox(path, clock=clock).names() == [f"{4:040x}", f"{2:040x}"]


def test_a_line_after_a_torn_one_is_not_lost(inbox: Inbox, path: Path, clock: Clock) -> None:
    inbox.put(A)
    inbox.put(B)
    path.write_bytes(path.read_bytes()[:-5])
    Inbox(path, clock=clock).put("c" * 40)
    assert Inbox(path, clock=clock).names() == [A, "c" * 40]


def test_what_cannot_be_written_down_is_refused(tmp_path: Path, clock: Clock) -> None:
    inbox = Inbox(tmp_path / "no-such-folder" / "ledger.hooks", clock=clock)
    with pytest.raises(InboxFullError, match="cannot be written"):
        inbox.put(A)
    assert inbox.due() == []


# When the last hook came


def test_the_time_of_the_last_hook_survives_and_a_burst_writes_it_once(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.last-hook"
    latest = Latest(path, clock=clock)
    assert latest.at is None
    latest.note()
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    for _ in range(100):
        clock.now += 0.5
        latest.note()
    assert not path.exists(), "written again within a burst"
    latest.keep()
    assert Latest(path, clock=clock).at == latest.at == 1050.0


def test_a_later_hook_writes_what_an_earlier_one_did_not(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.last-hook"
    latest = Latest(path, clock=clock)
    for _ in range(4):
        latest.note()
        clock.now += Latest.EVERY / 2
    assert Latest(path, clock=clock).at == 1000.0 + Latest.EVERY


def test_who_heard_no_hook_leaves_the_time_alone(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ledger.last-hook"
    service, command = Latest(path, clock=clock), Latest(path, clock=clock)
    service.note()
    command.keep()
    assert Latest(path, clock=clock).at == 1000.0
    beside = Latest(path, clock=clock)
    clock.now += 7
    service.note()
    service.keep()
    beside.keep()
    assert Latest(path, clock=clock).at == 1007.0


def test_a_time_that_cannot_be_written_holds_nothing_up(tmp_path: Path, clock: Clock) -> None:
    latest = Latest(tmp_path / "no-such-folder" / "x", clock=clock)
    latest.note()
    assert latest.at == 1000.0

"""The inbox of hooks: each torrent once, bounded, over restarts, looked for again and then given up."""

from pathlib import Path

import pytest

from qguard import inbox as module
from qguard.inbox import GIVE_UP_AFTER, Inbox, InboxFullError

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


def test_what_cannot_be_written_down_is_refused(tmp_path: Path, clock: Clock) -> None:
    inbox = Inbox(tmp_path / "no-such-folder" / "ledger.hooks", clock=clock)
    with pytest.raises(InboxFullError, match="cannot be written"):
        inbox.put(A)
    assert inbox.due() == []

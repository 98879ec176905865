"""I4: nothing is sent to qBittorrent that could not be stored before."""

import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.process import ALPHA_CAP, BETA_CAP, Seeds, Service, Setup, sown

pytestmark = pytest.mark.qbittorrent


@pytest.fixture(scope="module")
def planted(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon) as seeds:
        yield seeds


@pytest.fixture
def seeds(planted: Seeds) -> Seeds:
    planted.reset()
    return planted


@pytest.fixture
def observing(seeds: Seeds, tmp_path: Path) -> Iterator[Service]:
    """A service that has written nothing so far."""
    setup = Setup.of(tmp_path, seeds)
    setup.edit(rollout_percentage=0)
    with setup.start() as service:
        yield service


@contextmanager
def a_table_is_missing(service: Service) -> Iterator[None]:
    with closing(sqlite3.connect(service.setup.database)) as db:
        db.execute("ALTER TABLE changes RENAME TO hidden")
        yield
        db.execute("ALTER TABLE hidden RENAME TO changes")


@contextmanager
def the_database_refuses(service: Service) -> Iterator[None]:
    with closing(sqlite3.connect(service.setup.database)) as db:
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON changes BEGIN SELECT RAISE(ABORT, 'refused'); END")
        yield
        db.execute("DROP TRIGGER refuse")


@contextmanager
def another_program_keeps_it_locked(service: Service) -> Iterator[None]:
    with closing(sqlite3.connect(service.setup.database, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


@contextmanager
def the_disk_is_full(service: Service) -> Iterator[None]:
    """No file of the service may grow beyond the size of the write-ahead log; its own log is smaller."""
    log = service.setup.database.with_name("ledger.db-wal")
    before = resource.prlimit(service.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, (log.stat().st_size, before[1]))
    yield
    resource.prlimit(service.pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def the_originals_file_cannot_be_written(service: Service) -> Iterator[None]:
    service.setup.originals.mkdir()
    yield
    service.setup.originals.rmdir()


Cause = Callable[[Service], AbstractContextManager[None]]

CAUSES: list[tuple[Cause, str]] = [
    (a_table_is_missing, "ledger.db is damaged (no such table: changes)"),
    (the_database_refuses, "SQLite refused: refused"),
    (another_program_keeps_it_locked, "another program keeps it locked"),
    (the_disk_is_full, "the disk did not read or write"),
    (the_originals_file_cannot_be_written, "ledger.originals.jsonl: this is a folder"),
]


@pytest.mark.parametrize(("cause", "reason"), CAUSES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_stored_is_not_sent(seeds: Seeds, observing: Service, cause: Cause, reason: str) -> None:
    setup = observing.setup
    with cause(observing):
        setup.edit(rollout_percentage=100)
        assert reason in observing.wait_degraded("ledger", timeout=30)
        assert seeds.proxy.limits_sent() == []
        assert seeds.api.limits() == seeds.originals
    seeds.wait_limits(seeds.limited, timeout=30)
    observing.wait_healthy()
    assert len(observing.logged(reason)) == 1


def test_what_is_asked_for_and_cannot_be_stored_is_refused_and_can_be_asked_for_again(
    seeds: Seeds, tmp_path: Path
) -> None:
    setup = Setup.of(tmp_path, seeds)
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        sent = seeds.proxy.limits_sent()
        with the_database_refuses(service):
            setup.caps(ALPHA_CAP * 8, BETA_CAP * 8)
            service.wait_degraded("ledger")
            answer = service.post("/cycle/force")
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "ledger")
            refused = setup.command("rollback", "--yes").expect(1)
            assert "SQLite refused" in refused.err
            assert "nothing was written to the client" in refused.err
            assert seeds.proxy.limits_sent() == sent
            assert service.health()["paused"] == []
        setup.command("rollback", "--yes").expect(0)
        assert seeds.api.limits() == seeds.originals


def test_a_ledger_that_cannot_be_opened_ends_the_start_before_anything_is_asked_of_the_client(
    seeds: Seeds, tmp_path: Path
) -> None:
    setup = Setup.of(tmp_path, seeds)
    setup.database.mkdir()
    ended = setup.command("run").expect(1)
    assert ended.err.count("\n") == 1
    assert f"ledger {setup.database}: this is a folder: database_path must name a file in it" in ended.err
    assert seeds.proxy.requests() == []

"""What a clean stop leaves behind: limits that hold by themselves, also after a strategy that steered rates."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from allocators.base import Allocation, Options, Request, load_strategy
from qguard import service as services
from qguard.config import load
from qguard.ledger import Ledger, LedgerError
from qguard.qbittorrent.errors import UnreachableError
from qguard.service import Service
from qguard.snapshot import Torrents
from tests.support.columns import infohash, torrents
from tests.support.fake_client import FakeClient
from tests.support.running import configuration

CAP = 1_000_000
TURN = 1.5
ALL = 10_000_000
"""More bytes/s than there are."""
BUSY = [ALL] * 5
ONE_HOT = [ALL, *[20_000] * 4]
RULES: list[dict[str, Any]] = [
    {"id": "alpha", "match": ["alpha.example"], "max_upload_speed": CAP},
    {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
]
OPEN = "limits may add up to more than the caps"


class Client(FakeClient):
    """Torrents of alpha that upload what they want and their limits allow.

    Attributes:
        now: seconds.
        written: every limit that was ever sent, and to whom.
        trouble: raised by every listing, where there is one.
        hangs: whether listings never answer.
    """

    def __init__(self, count: int = 5) -> None:
        super().__init__(torrents([{}] * count))
        self.now = 0.0
        self.written: list[tuple[tuple[str, ...], int]] = []
        self.trouble: Exception | None = None
        self.hangs = self.deaf = False

    def pass_time(self, wants: Sequence[int], seconds: float = TURN) -> None:
        limit = np.where(self.there.up_limit == 0, np.inf, self.there.up_limit)
        rate = np.minimum(np.array(wants), limit).astype(np.int64)
        uploaded = self.there.uploaded + (rate * seconds).astype(np.int64)
        self.there = replace(self.there, upspeed=rate, uploaded=uploaded)
        self.now += seconds

    async def torrents(self) -> Torrents:
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        return await super().torrents()

    async def active_torrents(self) -> Torrents:
        await self.torrents()
        return await super().active_torrents()

    async def set_limit(self, infohash: Sequence[str], limit: int) -> None:
        self.written.append((tuple(infohash), limit))
        if not self.deaf:
            await super().set_limit(infohash, limit)

    @property
    def held(self) -> list[int]:
        return [int(limit) for limit in self.there.up_limit]


@pytest.fixture
def client() -> Client:
    return Client()


Make = Callable[..., Awaitable[Service]]


@pytest.fixture
async def make(tmp_path: Path, client: Client) -> AsyncIterator[Make]:
    """Make a service on the client; keys go into the section `global`."""
    async with contextlib.AsyncExitStack() as made:

        async def one(client: Client = client, **keys: Any) -> Service:
            service = await begin(tmp_path, client, **keys)
            made.push_async_callback(service.close)
            return service

        yield one


async def begin(folder: Path, client: Client, **keys: Any) -> Service:
    path = folder / "qguard.yaml"
    keys = {"rollout_percentage": 100, "allocation_strategy": "adaptive"} | keys
    path.write_text(configuration(folder / "ledger.db", "http://127.0.0.1:1", trackers=RULES, login=None, keys=keys))
    ledger = await Ledger.open(folder / "ledger.db")
    return Service(
        load(path),
        ledger,
        client_factory=lambda _: client,
        clock=lambda: client.now,
        wall_clock=lambda: 1_800_000_000 + client.now,
    )


async def live(service: Service, client: Client, wants: Sequence[int], turns: int) -> None:
    for _ in range(turns):
        client.pass_time(wants)
        await service.cycle(who="test", reason="")


async def above_the_cap(service: Service, client: Client) -> list[int]:
    """Limits that add up to more than the cap: four torrents hold on to what they want no longer, and one got more."""
    await live(service, client, BUSY, 10)
    for _ in range(40):
        await live(service, client, ONE_HOT, 1)
        if sum(client.held) > CAP:
            return client.held
    raise AssertionError(f"the limits never added up to more than the cap: {client.held}")


async def stop(service: Service) -> list[str]:
    """End it cleanly; what it logged meanwhile."""
    with capture_logs() as lines:
        await service.shut_down()
    return [str(line["event"]) for line in lines]


async def test_limits_are_lowered_to_the_cap_the_highest_first(make: Make, client: Client) -> None:
    service = await make()
    before = await above_the_cap(service, client)
    client.pass_time(ONE_HOT)
    (told,) = await stop(service)
    after = client.held
    assert 0.9 * CAP < sum(after) <= CAP
    assert after != before
    assert after[0] == max(after)
    assert told.endswith("limits changed, so that all fit the caps while nobody steers")


async def test_it_is_recorded_before_and_judged_after_and_the_originals_stay_known(
    make: Make, client: Client, tmp_path: Path
) -> None:
    service = await make()
    await above_the_cap(service, client)
    await stop(service)
    async with await Ledger.open(tmp_path / "ledger.db", readonly=True) as ledger:
        (action, *_) = await ledger.actions(limit=1)
        assert (action.kind, action.who, action.reason) == ("cycle", "service", "shutdown")
        changes = await ledger.history(action=action.id, limit=100)
        assert {change.outcome for change in changes} == {"applied"}
        assert {claim.original for claim in ledger.claims.values()} == {0}
        assert [ledger.claims[infohash(n), claim[1]].written for n, claim in enumerate(sorted(ledger.claims))] == (
            client.held
        )
    again = await make()
    await again.cycle(who="test", reason="")
    assert again.last is not None
    assert not again.last.decision.matched.own.foreign.any(), "its own limits look like somebody else's"
    await again.close()


async def test_nothing_is_sent_when_it_cannot_be_recorded(
    make: Make, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await make()
    before, sent = await above_the_cap(service, client), len(client.written)

    async def full(*_: Any, **__: Any) -> Any:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(service.ledger, "record", full)
    (told,) = await stop(service)
    assert (client.held, len(client.written)) == (before, sent)
    assert told == f"{OPEN} (the disk is full); start qguard again, or run `qguard rollback`"


@pytest.mark.parametrize("strategy", ["equal", "weighted", "soft"])
async def test_limits_that_fit_the_caps_anyway_need_no_last_cycle(make: Make, client: Client, strategy: str) -> None:
    service = await make(allocation_strategy=strategy)
    await live(service, client, BUSY, 3)
    client.pass_time(ONE_HOT)
    before, requests = client.held, client.requests
    assert await stop(service) == []
    assert (client.held, client.requests) == (before, requests)


async def test_limits_of_the_strategy_before_a_reload_are_lowered_too(make: Make, client: Client) -> None:
    service = await make()
    await above_the_cap(service, client)
    service.loaded.path.write_text(service.loaded.path.read_text().replace('"adaptive"', '"equal"'))
    await service.reload()
    await stop(service)
    assert sum(client.held) <= CAP


@pytest.mark.parametrize("tracker", [None, "alpha"])
async def test_what_is_paused_is_left_as_it_is(make: Make, client: Client, tracker: str | None) -> None:
    service = await make()
    before = await above_the_cap(service, client)
    await service.pause(tracker=tracker, until=None, who="test", reason="")
    sent = len(client.written)
    assert await stop(service) == []
    assert (client.held, len(client.written)) == (before, sent)


async def test_what_was_rolled_back_stays_as_it_was(make: Make, client: Client) -> None:
    service = await make()
    await above_the_cap(service, client)
    await service.rollback(services.Scope(), who="test", reason="")
    sent = len(client.written)
    assert await stop(service) == []
    assert (client.held, len(client.written)) == ([0] * 5, sent)


async def test_a_dry_run_writes_nothing_at_the_end_either(make: Make, client: Client) -> None:
    service = await make()
    before = await above_the_cap(service, client)
    service.loaded.path.write_text(service.loaded.path.read_text().replace('"rollout', '"dry_run": true, "rollout'))
    await service.reload()
    sent, requests = len(client.written), client.requests
    await stop(service)
    assert (client.held, len(client.written), client.requests) == (before, sent, requests)


async def test_a_rollout_of_nothing_writes_nothing(make: Make, client: Client) -> None:
    service = await make(rollout_percentage=0)
    await live(service, client, BUSY, 3)
    assert await stop(service) == []
    assert client.written == []


async def test_torrents_outside_of_the_rollout_are_not_written(make: Make) -> None:
    client = Client(40)
    service = await make(client, rollout_percentage=50)
    await live(service, client, [ALL] * 40, 10)
    await live(service, client, [ALL, *[5_000] * 39], 20)
    inside = {name for names, _ in client.written for name in names}
    assert 0 < len(inside) < 40
    await stop(service)
    assert {name for names, _ in client.written for name in names} == inside
    assert sum(client.held) <= CAP


@pytest.mark.parametrize(
    "trouble", [UnreachableError("qBittorrent does not answer"), ArithmeticError("a fault of ours")]
)
async def test_a_client_that_is_away_is_told_in_a_line_and_holds_nothing_up(
    make: Make, client: Client, trouble: Exception
) -> None:
    service = await make()
    before = await above_the_cap(service, client)
    client.trouble = trouble
    (told,) = await stop(service)
    assert told.startswith(OPEN)
    assert str(trouble) in told
    assert "\n" not in told
    assert client.held == before
    with pytest.raises(LedgerError):  # it was closed
        await service.ledger.record("test", (), who="test", reason="")


async def test_a_client_that_hangs_is_not_waited_for(
    make: Make, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert services.REST_WITHIN <= 4  # with 4 s for all the rest, and 10 s in all until Docker kills
    monkeypatch.setattr(services, "REST_WITHIN", 0.2)
    service = await make()
    await above_the_cap(service, client)
    client.hangs = True
    began = time.monotonic()
    (told,) = await stop(service)
    assert time.monotonic() - began < 5.0  # far more than 0.2, far less than for ever
    assert told == f"{OPEN} (qBittorrent did not answer within 0.2 s); start qguard again, or run `qguard rollback`"


async def test_a_client_that_takes_nothing_is_told(make: Make, client: Client) -> None:
    service = await make()
    await above_the_cap(service, client)
    client.deaf = True
    told = await stop(service)
    assert told[-1].startswith(OPEN)
    assert "did not take theirs" in told[-1]


async def test_restoring_at_the_end_is_as_ever(make: Make, client: Client) -> None:
    service = await make(on_shutdown="restore")
    await above_the_cap(service, client)
    assert await stop(service) == ["put 5 limits back as they were"]
    assert client.held == [0] * 5


async def test_a_client_that_was_never_written_to_is_not_written_to_at_the_end(make: Make, client: Client) -> None:
    client.pass_time(BUSY)
    service = await make()
    assert await stop(service) == []
    assert (client.written, client.requests) == ([], 0)


# What strategies may say to it


class Steers:
    """A strategy that promises rates: twice an equal share, and what it would leave at rest."""

    overcommit = 1.5

    def __init__(self, rest: Any = None) -> None:
        self._equal = load_strategy("equal", Options())
        if rest is not None:
            self.at_rest = rest

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, None]:
        answer, _ = self._equal.allocate(request, None)
        return replace(answer, limit=np.where(request.awake, answer.limit * 3 // 2 - 1, answer.limit)), None


async def with_strategy(make: Make, client: Client, strategy: Steers) -> Service:
    service = await make()
    service._allocator = strategy
    await live(service, client, BUSY, 2)
    assert sum(client.held) > 1.4 * CAP
    return service


async def test_a_strategy_that_says_nothing_of_rest_is_lowered_to_the_cap(make: Make, client: Client) -> None:
    service = await with_strategy(make, client, Steers())
    await stop(service)
    assert sum(client.held) == CAP


async def test_a_strategy_may_know_better_what_to_leave(make: Make, client: Client) -> None:
    def tenth(request: Request, given: Allocation) -> np.ndarray:
        assert (given.limit > 0).all()
        return np.full_like(given.limit, CAP // 10)

    service = await with_strategy(make, client, Steers(tenth))
    await stop(service)
    assert client.held == [CAP // 10] * 5


def above(request: Request, given: Allocation) -> Any:
    return given.limit


def zero(request: Request, given: Allocation) -> Any:
    return np.zeros_like(given.limit)


def breaks(request: Request, given: Allocation) -> Any:
    raise KeyError("what is this")


@pytest.mark.parametrize(
    ("rest", "words"),
    [(above, "limits that add up to"), (zero, "limits from 0 to 0"), (breaks, "KeyError")],
)
async def test_what_a_strategy_leaves_is_checked_and_else_its_limits_are_lowered_to_the_cap(
    make: Make, client: Client, rest: Any, words: str
) -> None:
    service = await with_strategy(make, client, Steers(rest))
    told = await stop(service)
    assert sum(client.held) == CAP
    (line,) = [line for line in told if "at_rest of strategy 'adaptive' is not used: " in line]
    assert words in line

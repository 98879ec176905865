"""How often a cycle runs: as often as is of use, and as seldom as the client needs it; and what is told of it."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from qguard.config import load
from qguard.ledger import Ledger
from qguard.observe import LISTINGS_JUDGED, MAIN_THREAD_SHARE, Reading
from qguard.pace import LONGEST_BACKOFF, REFRESH, SHORTEST, USUAL, paced, usual_interval
from qguard.qbittorrent.client import ClientVersion
from qguard.qbittorrent.errors import UnreachableError
from qguard.service import Service
from qguard.snapshot import Torrents
from tests.support.columns import torrents
from tests.support.fake_client import FakeClient
from tests.support.running import configuration

ASKED = {"steers": False, "refresh": 1.5, "cost": 0.0}
RULES: list[dict[str, Any]] = [
    {"id": "alpha", "match": ["alpha.example"], "max_upload_speed": 1_000_000},
    {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
]


def seconds(configured: float | str, **asked: Any) -> float:
    return paced(configured, **ASKED | asked).seconds


# The rule


@pytest.mark.parametrize("steers", [False, True])
@pytest.mark.parametrize("configured", [1.5, 5.0, 300.0])
def test_a_number_means_the_same_with_every_strategy(configured: float, steers: bool) -> None:
    assert paced(configured, steers=steers, refresh=1.5, cost=0.01) == (configured, "poll_interval")


def test_auto_is_the_refresh_interval_for_who_steers_rates_and_the_usual_one_for_others() -> None:
    assert (seconds("auto", steers=True), seconds("auto", steers=False)) == (1.5, USUAL) == (1.5, 5.0)
    assert seconds("auto", steers=True, refresh=3.0) == 3.0


@pytest.mark.parametrize("refresh", [0.0, 0.1, 0.5, 1.0])
def test_auto_is_never_shorter_than_a_number_may_be(refresh: float) -> None:
    assert seconds("auto", steers=True, refresh=refresh) == (SHORTEST if refresh else REFRESH)


@pytest.mark.parametrize("configured", ["auto", 1.0, 5.0])
@pytest.mark.parametrize("steers", [False, True])
def test_nothing_is_asked_more_often_than_the_client_refreshes(configured: float | str, steers: bool) -> None:
    found = paced(configured, steers=steers, refresh=8.0, cost=0.01)
    assert found == (8.0, "qBittorrent's own refresh interval")


@pytest.mark.parametrize("configured", ["auto", 1.0, 5.0])
@pytest.mark.parametrize("steers", [False, True])
@pytest.mark.parametrize("cost", [0.06, 0.3, 2.0])
def test_listings_stay_within_their_share_of_the_clients_main_thread(
    configured: float | str, steers: bool, cost: float
) -> None:
    found = paced(configured, steers=steers, refresh=1.5, cost=cost)
    assert cost / found.seconds <= MAIN_THREAD_SHARE / 2 * (1 + 1e-9)
    assert found.seconds == pytest.approx(cost * 100)
    assert found.why == f"a listing takes {cost * 1000:.0f} ms, which is 1% of that"


def test_it_doubles_with_each_failure_up_to_a_minute_and_never_shrinks() -> None:
    assert [seconds("auto", steers=True, failures=n) for n in range(4)] == [1.5, 3.0, 6.0, 12.0]
    assert [seconds("auto", steers=True, refresh=0.0, failures=n) for n in (1, 100)] == [2 * REFRESH, LONGEST_BACKOFF]
    assert seconds(300.0, failures=3) == 300.0
    assert paced("auto", **ASKED, failures=1).why == "1 turn in a row failed"


@pytest.mark.parametrize(
    ("configured", "steers", "refresh", "words"),
    [
        (5.0, True, 1.5, "poll_interval"),
        (5.0, True, 5.0, "poll_interval"),
        ("auto", True, 1.5, "qBittorrent's own refresh interval"),
        ("auto", True, 0.0, "auto: qBittorrent's usual refresh interval"),
        ("auto", True, 0.5, "auto: the shortest there is"),
        ("auto", False, 1.5, "auto: the strategy keeps limits within the caps, not rates"),
    ],
)
def test_it_says_what_it_comes_from(configured: float | str, steers: bool, refresh: float, words: str) -> None:
    assert paced(configured, steers=steers, refresh=refresh, cost=0.001).why == words


def test_simulations_compare_strategies_at_one_interval() -> None:
    assert (usual_interval("auto"), usual_interval(30.0)) == (USUAL, 30.0)


# In the loop


class Slow(FakeClient):
    """A client that takes its time, on a clock of its own.

    Attributes:
        now: seconds.
        took: seconds that each listing of the active torrents takes; the last value goes on.
        refresh: its refresh interval, seconds.
        away: whether it does not answer.
    """

    def __init__(self, *took: float, refresh: float = 1.5) -> None:
        super().__init__(torrents([{"upspeed": 50_000}] * 3))
        self.now, self.took, self.refresh, self.away = 0.0, list(took), refresh, False

    async def version(self) -> ClientVersion:
        return ClientVersion("v5.1.0", "2.11.4", self.refresh)

    async def torrents(self) -> Torrents:
        self._answer()
        self.now += 1.0  # dear enough for one full listing in a hundred seconds
        return await super().torrents()

    async def active_torrents(self) -> Torrents:
        self._answer()
        self.now += self.took.pop(0) if len(self.took) > 1 else self.took[0]
        return await super().active_torrents()

    def _answer(self) -> None:
        if self.away:
            raise UnreachableError("qBittorrent does not answer")


Make = Callable[..., Awaitable[Service]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """Make a service on a client, with a strategy."""
    async with contextlib.AsyncExitStack() as made:

        async def one(client: Slow, strategy: str = "adaptive") -> Service:
            path = tmp_path / "qguard.yaml"
            keys = {"rollout_percentage": 100, "allocation_strategy": strategy}
            text = configuration(tmp_path / "ledger.db", "http://127.0.0.1:1", trackers=RULES, login=None, keys=keys)
            path.write_text(text)
            ledger = await Ledger.open(tmp_path / "ledger.db")
            service = Service(load(path), ledger, client_factory=lambda _: client, clock=lambda: client.now)
            made.push_async_callback(service.close)
            return service

        yield one


async def intervals(service: Service, client: Slow, turns: int) -> list[float]:
    """What the loop waits after each of so many turns, a full listing first."""
    found = []
    for _ in range(turns):
        await service.turn()
        assert service.problems.keys() <= {"client"}
        found.append(service.interval())
        client.now += 0.1  # far less than until the next full listing
    return found


async def test_a_small_client_is_polled_as_often_as_it_refreshes(make: Make) -> None:
    client = Slow(0.002)
    service = await make(client)
    assert await intervals(service, client, 4) == [1.5] * 4


@pytest.mark.parametrize("strategy", ["equal", "weighted", "soft"])
async def test_strategies_that_keep_limits_within_the_caps_look_as_often_as_before(make: Make, strategy: str) -> None:
    client = Slow(0.002)
    service = await make(client, strategy)
    assert await intervals(service, client, 3) == [5.0] * 3


async def test_a_client_whose_listing_is_dear_is_left_alone_for_longer(make: Make) -> None:
    client = Slow(0.25)
    service = await make(client)
    assert await intervals(service, client, 3) == pytest.approx([1.5, 25.0, 25.0])
    stats = service.stats()
    assert (stats.update_interval, stats.update_interval_reason) == (
        25.0,
        "a listing takes 250 ms, which is 1% of that",
    )
    assert service.health().update_interval == 25.0


async def test_a_client_that_was_busy_for_a_moment_is_not_left_alone_for_a_minute(make: Make) -> None:
    client = Slow(0.002, 0.002, 3.0, 0.002)
    service = await make(client)
    assert await intervals(service, client, 6) == [1.5] * 6


async def test_a_client_that_has_become_slow_for_good_is_soon_believed(make: Make) -> None:
    client = Slow(*[0.002] * LISTINGS_JUDGED, 0.25)
    service = await make(client)
    found = await intervals(service, client, 1 + 2 * LISTINGS_JUDGED)
    assert found[: 1 + LISTINGS_JUDGED] == [1.5] * (1 + LISTINGS_JUDGED)
    assert found[1 + LISTINGS_JUDGED + LISTINGS_JUDGED // 2 :] == pytest.approx([25.0] * (1 + LISTINGS_JUDGED // 2))
    reading = service._memory.reading
    assert isinstance(reading, Reading)
    assert len(reading.active_costs) == LISTINGS_JUDGED


async def test_the_refresh_interval_is_asked_again_when_the_client_was_away(make: Make) -> None:
    client = Slow(0.002)
    service = await make(client)
    assert await intervals(service, client, 2) == [1.5] * 2
    client.away = True
    assert await intervals(service, client, 2) == [3.0, 6.0]
    assert service.stats().update_interval_reason == "2 turns in a row failed"
    client.away, client.refresh = False, 4.0
    assert await intervals(service, client, 1) == [4.0]


async def test_another_strategy_or_interval_counts_at_once(make: Make) -> None:
    client = Slow(0.002)
    service = await make(client, "equal")
    await service.turn()
    text = service.loaded.path.read_text()
    service.loaded.path.write_text(text.replace('"equal"', '"adaptive"'))
    await service.reload()
    assert service.interval() == 1.5
    service.loaded.path.write_text(text.replace('"equal"', '"adaptive", "poll_interval": 5'))
    await service.reload()
    assert service.stats().update_interval_reason == "poll_interval"
    assert service.interval() == 5.0

"""Previews never disturb the loop, and what they say is true at the moment they say it; a reload waits for nobody."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from qguard import previews
from qguard.answers import RequestError
from qguard.config import ConfigError
from qguard.previews import Changes, Previews
from qguard.qbittorrent.errors import LoginRefusedError, UnreachableError
from qguard.rollback import Scope
from qguard.service import Service
from tests.support import inside
from tests.support.daemon import Daemon
from tests.support.proxy import Fault, Proxy
from tests.support.running import login
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.webapi import WebApi

pytestmark = pytest.mark.qbittorrent

COUNT = 40
HOST = "127.0.0.2"
LISTING, WRITING = "torrents/info", "torrents/setUploadLimit"
PROMPT = 5.0
"""Seconds that anything here may take which waits for nothing; on a busy machine it takes some tenths of one."""

RULES: list[dict[str, object]] = [
    {"id": "alpha", "match": [HOST], "max_upload_speed": 1_000_000},
    {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
]


@dataclass
class Scene:
    daemon: Daemon
    api: WebApi
    proxy: Proxy
    service: Service
    configuration: Path
    torrents: list[Torrent]

    async def cycle(self) -> int:
        """Run one; how many limits it changed."""
        return (await self.service.cycle(who="test", reason="")).changed

    async def preview(self) -> dict[str, int]:
        return dict((await self.service.preview()).proposed_changes)

    async def roll_out(self, percentage: int) -> None:
        await self.service.set_rollout(percentage, tracker=None, who="test", reason="")

    def sent(self) -> dict[str, int]:
        """Info-hash -> limit, of all that was ever sent; the last counts."""
        return {name: int(limit) for hashes, limit in self.proxy.limits_sent() for name in hashes}

    def edit(self, **qbittorrent: object) -> None:
        """Another cap, and perhaps other settings of the client, into the configuration file."""
        document = yaml.safe_load(self.configuration.read_text())
        document["trackers"][0]["max_upload_speed"] = 2_000_000
        document["qbittorrent"] |= qbittorrent
        self.configuration.write_text(yaml.safe_dump(document))


@pytest.fixture
async def scene(
    daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], tmp_path: Path
) -> AsyncIterator[Scene]:
    """All limits are set, and nothing uploads: from here on only what a test does changes anything."""
    running = daemon()
    with running.api() as api:
        torrents = make_torrents(COUNT, running.data, tiers=[[f"http://{HOST}:9/announce"]])
        seed(running, api, torrents)
        between = proxy(running)
        async with inside.service(
            tmp_path, between.url, login=login(running), trackers=RULES, rollout_percentage=100
        ) as service:
            found = Scene(running, api, between, service, tmp_path / "qguard.yaml", torrents)
            assert await found.cycle() == COUNT
            yield found


@contextmanager
def held(scene: Scene, suffix: str) -> Iterator[Fault]:
    """Keep the next such request back until the end of the block."""
    fault = scene.proxy.hold(suffix)
    try:
        yield fault
    finally:
        fault.release()


async def met(fault: Fault) -> None:
    await asyncio.to_thread(fault.wait)


async def test_hooks_cycles_and_commands_go_on_while_a_preview_hangs(scene: Scene) -> None:
    service = scene.service
    with held(scene, LISTING) as fault:
        asked = asyncio.create_task(scene.preview())
        await met(fault)
        loop = asyncio.create_task(service.serve())
        try:
            async with asyncio.timeout(PROMPT):
                await scene.cycle()
                await service.pause(tracker=None, until=None, who="test", reason="")
                await service.resume(tracker=None, who="test", reason="")
                await service.rollback(Scope(tracker="alpha"), who="test", reason="")
                assert set(scene.api.limits().values()) == {0}
                await service.resume(tracker=None, who="test", reason="")
                (new,) = make_torrents(1, scene.daemon.data, prefix="new", tiers=[[f"http://{HOST}:9/announce"]])
                seed(scene.daemon, scene.api, [new])
                service.announce(new.infohash)
                while not scene.api.limits([new.infohash])[new.infohash]:  # noqa: ASYNC110 # qBittorrent tells nobody
                    await asyncio.sleep(0.05)
        finally:
            service.stop()
            await loop
        assert not asked.done()
    await asked


async def test_a_preview_that_saw_a_change_looks_again(scene: Scene) -> None:
    with held(scene, LISTING) as fault:
        asked = asyncio.create_task(scene.preview())
        await met(fault)
        await scene.roll_out(30)
    proposed = await asked
    assert set(proposed.values()) == {0}
    before = len(scene.proxy.limits_sent())
    assert await scene.cycle() == len(proposed)
    assert {name for hashes, _ in scene.proxy.limits_sent()[before:] for name in hashes} == proposed.keys()


async def test_a_preview_while_limits_are_written_says_what_comes_after_that(scene: Scene) -> None:
    await scene.roll_out(30)
    with held(scene, WRITING) as fault:
        writing = asyncio.create_task(scene.cycle())
        await met(fault)
        asked = asyncio.create_task(scene.preview())
        await asyncio.wait([asked], timeout=0.5)
        assert not asked.done()
    assert await writing > 0
    assert await asked == {}


async def test_while_the_loop_hangs_a_preview_says_what_it_is_about_to_send(scene: Scene) -> None:
    await scene.roll_out(30)
    with held(scene, LISTING) as fault:
        hanging = asyncio.create_task(scene.cycle())
        await met(fault)
        async with asyncio.timeout(PROMPT):
            proposed = await scene.preview()
            rehearsed = await scene.service.rollback(Scope(), who="test", reason="", dry_run=True)
            assert (await scene.service.doctor()).checks
            await scene.service.hook_lines()
        assert rehearsed.changes_reversed == COUNT
        assert not hanging.done()
    assert await hanging == len(proposed) > 0
    assert proposed.items() <= scene.sent().items()


async def test_previews_are_no_part_of_what_a_cycle_cost(scene: Scene) -> None:
    quiet = await scene.service.cycle(who="test", reason="")
    with held(scene, LISTING) as fault:
        hanging = asyncio.create_task(scene.service.cycle(who="test", reason=""))
        await met(fault)
        for _ in range(3):
            await scene.preview()
        await scene.service.doctor()
    assert (await hanging).requests == quiet.requests == 1


async def test_a_preview_costs_what_the_reading_of_a_cycle_costs_and_shares_one_session(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qguard.observe.pause_between", lambda _cost: 3600.0)
    await scene.preview()
    before = len(scene.proxy.requests())
    await scene.preview()
    await scene.cycle()
    await scene.preview()
    asked = [(request.path.rpartition("/api/v2/")[2], request.form()) for request in scene.proxy.requests()[before:]]
    assert asked == [(LISTING, {"filter": "active"})] * 3
    assert len(scene.proxy.requests("auth/login")) == 2


@pytest.mark.parametrize(
    ("looked_before", "restarted", "seen_by_the_loop"),
    [(True, False, False), (False, False, False), (True, True, True), (False, True, True), (True, True, False)],
)
async def test_a_preview_tells_a_restart_from_a_hand_as_the_cycle_does(
    scene: Scene, *, looked_before: bool, restarted: bool, seen_by_the_loop: bool
) -> None:
    if looked_before:
        await scene.preview()
    if restarted:
        scene.daemon.stop()
        scene.daemon.start()
    if seen_by_the_loop:
        await scene.service.turn()
    lost = restarted and not seen_by_the_loop
    names = [torrent.infohash for torrent in scene.torrents[:5]]
    with scene.daemon.api() as api:
        api.set_limit(names, 0)  # what they had before qguard, and have after a restart before it was saved
    for _ in range(2):
        assert (await scene.preview()).keys() == (set(names) if lost else set())
    assert await scene.cycle() == (5 if lost else 0)
    assert await scene.preview() == {}


async def test_those_who_ask_together_share_one_answer(scene: Scene) -> None:
    await scene.preview()
    before = len(scene.proxy.requests(LISTING))
    with held(scene, LISTING) as fault:
        asked = [asyncio.create_task(scene.preview()) for _ in range(20)]
        await met(fault)
    answers = await asyncio.gather(*asked)
    assert len(scene.proxy.requests(LISTING)) == before + 1
    assert all(answer == answers[0] for answer in answers)


async def test_who_gives_up_does_not_take_the_answer_from_others(scene: Scene) -> None:
    with held(scene, LISTING) as fault:
        first, second = asyncio.create_task(scene.preview()), asyncio.create_task(scene.preview())
        await met(fault)
        first.cancel()
    assert await second == {}


async def test_a_preview_that_can_come_to_no_end_is_refused_in_time(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(previews, "PATIENCE", 0.2)
    with held(scene, WRITING) as fault:
        await scene.roll_out(30)
        writing = asyncio.create_task(scene.cycle())
        await met(fault)
        with pytest.raises(RequestError, match=r"being changed at this moment; ask again") as refused:
            await scene.preview()
    assert (refused.value.code, refused.value.status) == ("busy", 503)
    await writing

    with held(scene, LISTING) as fault:
        other = scene.configuration.read_text()
        first = asyncio.create_task(scene.service.preview(other))
        await met(fault)
        with pytest.raises(RequestError, match="others look at this moment"):
            await scene.service.preview(other)
    await first


async def test_changes_without_end_end_a_preview() -> None:
    changes, looks = Changes(), 0

    class Fake:
        sessions = 0

        async def version(self) -> None:
            pass

    class World:
        client, ledger, clock, wall_clock = Fake(), None, time.monotonic, time.time

    class Basis:
        world, memory, policy, force_full, refused = World(), type("", (), {"reading": None}), None, False, None

    async def look(_: object) -> None:
        nonlocal looks
        looks += 1
        with changes.under_way():
            pass

    made = Previews(Fake, Basis, time.monotonic, changes)  # type: ignore[arg-type] # stand-ins
    with pytest.raises(RequestError, match="changed each time"):
        await made.ask(look)
    assert looks == previews.TRIES


async def test_a_refused_login_is_not_tried_again_by_previews(scene: Scene) -> None:
    scene.edit(password="wrong")
    await scene.service.reload()
    await scene.service.turn()
    tried = len(scene.proxy.requests("auth/login"))
    for _ in range(3):
        with pytest.raises(LoginRefusedError):
            await scene.preview()
    assert len(scene.proxy.requests("auth/login")) == tried


async def test_a_preview_cannot_write(scene: Scene) -> None:
    async def write(basis: previews.Basis) -> None:
        await basis.world.client.set_limit([scene.torrents[0].infohash], 1)

    with pytest.raises(AttributeError, match="may not use set_limit"):
        await scene.service.previews.ask(write)


# A reload


async def test_a_reload_does_not_wait_for_a_listing_that_hangs(scene: Scene) -> None:
    before = scene.sent()
    with held(scene, LISTING) as fault:
        hanging = asyncio.create_task(scene.cycle())
        await met(fault)
        scene.edit()
        async with asyncio.timeout(PROMPT):
            await scene.service.reload()
        assert scene.service.settings.trackers[0].max_upload_speed == 2_000_000
        assert not hanging.done()
    assert await hanging == 0  # it ended with the caps that it began with
    assert await scene.cycle() == COUNT
    assert all(limit > before[name] for name, limit in scene.api.limits().items())


async def test_a_cycle_under_way_leaves_nothing_to_the_client_of_a_new_configuration(scene: Scene) -> None:
    service = scene.service
    with held(scene, LISTING) as fault:
        hanging = asyncio.create_task(scene.cycle())
        await met(fault)
        scene.edit(timeout=29)
        async with asyncio.timeout(PROMPT):
            await service.reload()
            await scene.preview()  # on a new connection, while the old one hangs
    await hanging
    assert service._memory.reading is None
    await asyncio.to_thread(scene.proxy.wait_for, "auth/logout", 1)
    assert await scene.cycle() == COUNT
    assert service._memory.reading is not None


async def test_a_preview_goes_on_with_the_client_of_a_new_configuration(scene: Scene) -> None:
    with held(scene, LISTING) as fault:
        asked = asyncio.create_task(scene.preview())
        await met(fault)
        scene.edit(timeout=29)
        await scene.service.reload()
        fault.release(forward=False)
    assert len(await asked) == COUNT


async def test_a_connection_that_was_closed_says_so_instead_of_waiting(scene: Scene) -> None:
    client = await scene.service.previews.client()
    scene.edit(timeout=29)
    await scene.service.reload()
    await asyncio.gather(*scene.service.previews._closing)
    async with asyncio.timeout(PROMPT):
        with pytest.raises(UnreachableError, match="was closed, by a new configuration or at the end: try again"):
            await client.torrents()


async def test_a_hanging_cycle_of_the_former_client_is_no_problem_of_the_new_one(scene: Scene) -> None:
    fault = scene.proxy.hang(LISTING)
    hanging = asyncio.create_task(scene.service.turn())
    await met(fault)
    scene.edit(timeout=29)
    await scene.service.reload()
    fault.release()
    await hanging
    assert scene.service.problems == {}
    await scene.service.turn()
    assert scene.service.problems == {}


async def test_a_bad_configuration_beside_a_hanging_listing_changes_nothing(scene: Scene) -> None:
    with held(scene, LISTING) as fault:
        hanging = asyncio.create_task(scene.cycle())
        await met(fault)
        scene.configuration.write_text("trackers: ]")
        async with asyncio.timeout(PROMPT):
            with pytest.raises(ConfigError):
                await scene.service.reload()
    assert await hanging == 0
    assert await scene.cycle() == 0


# What is gone from the history


async def test_a_rollback_to_before_the_history_says_from_when_on_it_is_kept(scene: Scene) -> None:
    service = scene.service
    await scene.roll_out(30)
    await scene.cycle()
    with sqlite3.connect(service.ledger.path) as database:
        (pruned_at,) = database.execute("SELECT max(at) FROM actions").fetchone()
    assert await service.ledger.prune(0, 0) > COUNT
    for dry_run in (True, False):
        with pytest.raises(RequestError) as refused:
            await service.rollback(Scope(since=pruned_at - 60), who="test", reason="", dry_run=dry_run)
        error = refused.value
        assert (error.code, error.status) == ("history_pruned", 409)
        kept = error.message.split("kept from ")[1].split(" on")[0]
        assert 0 < datetime.fromisoformat(kept).timestamp() - pruned_at <= 1
        assert "a full rollback needs no history" in error.hint
    assert service.health().paused == ()
    done = await service.rollback(Scope(), who="test", reason="")
    assert done.status == "completed"
    assert set(scene.api.limits().values()) == {0}

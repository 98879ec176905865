"""I7: what a preview proposes is what the next cycle sends, judged by the setUploadLimit bodies seen at a proxy."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from qguard.report import PreviewReport
from qguard.service import Service
from tests.support import inside
from tests.support.daemon import Daemon
from tests.support.proxy import Proxy
from tests.support.running import login
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.webapi import WebApi

EACH = 350
TRACKERS = ("alpha", "beta")
HOSTS = dict(zip(TRACKERS, ("127.0.0.2", "127.0.0.3"), strict=True))
AWAKE = 40
DEMAND = 40_000
AWAKE_FROM = 10_240
"""The activity threshold by default, bytes/s."""
CAP = 600_000
BATCH = 500
OWNERS = 7_777
"""Set by the owner on a few torrents, less than an equal share and more than a standing limit."""

pytestmark = pytest.mark.qbittorrent


class Clock:
    """Seconds that pass when the test says so: with the listings held, nothing differs between preview and cycle."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@dataclass
class Scene:
    proxy: Proxy
    service: Service
    clock: Clock
    configuration: Path
    torrents: list[Torrent]

    def sent(self) -> list[tuple[str, int]]:
        """(info-hash, limit) in the order in which they were sent, ever since the start."""
        forms = [request.form() for request in self.proxy.requests("torrents/setUploadLimit")]
        return [(name, int(form["limit"])) for form in forms for name in form["hashes"].split("|")]

    async def recorded(self) -> tuple[object, ...]:
        """Everything the ledger knows."""
        ledger = self.service.ledger
        files = {path.name: path.read_bytes() for path in [ledger.originals_path] if path.exists()}
        return dict(ledger.claims), dict(ledger.controls), await ledger.actions(), files

    @contextmanager
    def same_snapshot(self) -> Iterator[None]:
        """Answer every listing in here with the first one."""
        held: list[bytes] = []

        def first(body: bytes) -> bytes:
            held.append(body)
            return held[0]

        fault = self.proxy.rewrite("torrents/info", first)
        try:
            yield
        finally:
            fault.release()

    async def assert_preview_is_what_is_sent(self) -> PreviewReport:
        """Preview twice, run one cycle on the same snapshot, and compare; return the preview."""
        self.clock.now += 2
        before, recorded = self.sent(), await self.recorded()
        with self.same_snapshot():
            proposed = await self.service.preview()
            again = await self.service.preview()
            assert self.sent() == before, "a preview wrote"
            assert await self.recorded() == recorded, "a preview changed the ledger"
            done = await self.service.cycle(who="test", reason="")
        assert list(again.proposed_changes.items()) == list(proposed.proposed_changes.items())
        assert self.sent()[len(before) :] == list(proposed.proposed_changes.items())
        assert done.changed == done.applied == proposed.proposed_count == len(proposed.proposed_changes)
        assert done.calls == proposed.calls
        return proposed

    async def change_cap(self, **caps: int) -> None:
        """Write other caps into the configuration file and have it read again."""
        document = yaml.safe_load(self.configuration.read_text())
        for rule in document["trackers"]:
            rule["max_upload_speed"] = caps.get(rule["id"], rule["max_upload_speed"])
        self.configuration.write_text(yaml.safe_dump(document))
        await self.service.reload()


@pytest.fixture
def seeded(daemon_version: str, daemon: Callable[..., Daemon]) -> Iterator[tuple[Daemon, WebApi, list[Torrent]]]:
    running = daemon()
    with running.api() as api:
        groups = [
            make_torrents(EACH, running.data, prefix=name, tiers=[[f"http://{HOSTS[name]}:9/announce?key=0123"]])
            for name in TRACKERS
        ]
        torrents = [torrent for row in zip(*groups, strict=True) for torrent in row]
        seed(running, api, torrents)
        owners = [torrent.infohash for torrent in [*torrents[:3], *torrents[-3:]]]
        api.set_limit(owners, OWNERS)
        yield running, api, torrents


@pytest.fixture
async def scene(
    seeded: tuple[Daemon, WebApi, list[Torrent]], proxy: Callable[[Daemon], Proxy], tmp_path: Path
) -> AsyncIterator[Scene]:
    running, api, torrents = seeded
    between, clock = proxy(running), Clock()
    rules: list[dict[str, object]] = [
        *({"id": name, "match": [HOSTS[name]], "max_upload_speed": CAP} for name in TRACKERS),
        {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
    ]
    with Swarm(running.bt_port) as swarm:
        for torrent in torrents[3 : 3 + AWAKE]:
            swarm.add(torrent, DEMAND)
        swarm.wait_ready()
        await wait_seen(api, [torrent.infohash for torrent in torrents[3 : 3 + AWAKE]])
        async with inside.service(
            tmp_path,
            between.url,
            login=login(running),
            clock=clock,
            wall_clock=clock,
            trackers=rules,
            rollout_percentage=100,
            first_contact_batch=BATCH,
        ) as service:
            yield Scene(between, service, clock, tmp_path / "qguard.yaml", torrents)


async def wait_seen(api: WebApi, hashes: list[str], patience: float = 30.0) -> None:
    """Wait until the client itself says that these upload."""
    deadline = time.monotonic() + patience
    while any(row["upspeed"] < AWAKE_FROM for row in api.torrents(hashes).values()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not all of {len(hashes)} torrents upload {AWAKE_FROM} B/s after {patience:g} s")
        await asyncio.sleep(0.2)  # it measures once a second and tells nobody


async def test_a_cycle_sends_what_the_preview_before_it_proposed(scene: Scene) -> None:
    count = len(scene.torrents)

    first = await scene.assert_preview_is_what_is_sent()
    assert (first.proposed_count, first.unstaged) == (AWAKE + BATCH, count - AWAKE - BATCH)
    rest = await scene.assert_preview_is_what_is_sent()
    assert (rest.proposed_count, rest.unstaged) == (first.unstaged, 0)
    assert (await scene.assert_preview_is_what_is_sent()).proposed_count == 0

    await scene.change_cap(alpha=2 * CAP, beta=CAP // 4)
    moved = await scene.assert_preview_is_what_is_sent()
    alpha, beta, _ = moved.tracker_reports
    assert (alpha.raised, alpha.lowered, beta.raised, beta.lowered) == (AWAKE // 2, 0, 0, AWAKE // 2)

    await scene.service.set_rollout(30, tracker=None, who="test", reason="")
    left = await scene.assert_preview_is_what_is_sent()
    assert {change.why for change in left.changes} == {"its original back: not in the rollout"}
    assert set(left.proposed_changes.values()) == {0, OWNERS}
    assert count // 2 < left.proposed_count < count

    await scene.service.set_rollout(100, tracker="beta", who="test", reason="")
    back = await scene.assert_preview_is_what_is_sent()
    assert {change.tracker for change in back.changes} == {"beta"}
    assert back.proposed_count == sum(change.tracker == "beta" for change in left.changes)

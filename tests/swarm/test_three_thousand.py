"""Three thousand torrents, a hundred and ten of them uploading: how many requests a cycle makes of the client."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qguard.plan import HASHES_PER_CALL
from qguard.service import Service
from tests.support import inside
from tests.support.daemon import Daemon
from tests.support.proxy import Proxy
from tests.support.running import login
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.webapi import WebApi

TRACKERS = 3
EACH = 1_000
AWAKE = 110
DEMAND = 20_000
AWAKE_FROM = 10_240
"""The activity threshold by default, bytes/s."""
CAP = 450_000

pytestmark = pytest.mark.qbittorrent


@dataclass
class Scene:
    api: WebApi
    proxy: Proxy
    swarm: Swarm
    torrents: list[Torrent]
    service: Service

    @property
    def hashes(self) -> list[str]:
        return [torrent.infohash for torrent in self.torrents]

    def limits(self) -> dict[str, int]:
        """Limits now; torrents/info lags behind by a refresh."""
        answer: dict[str, int] = self.api.post("torrents/uploadLimit", hashes="|".join(self.hashes)).json()
        return answer

    async def wait_seen(self, torrents: list[Torrent], rate: int, patience: float = 30.0) -> None:
        """Wait until the client itself says that these upload at least so much."""
        hashes = [torrent.infohash for torrent in torrents]
        deadline = time.monotonic() + patience
        while True:
            slow = [name for name, row in self.api.torrents(hashes).items() if row["upspeed"] < rate]
            if not slow:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(slow)} of {len(hashes)} torrents below {rate} B/s after {patience:g} s")
            await asyncio.sleep(0.2)  # it measures once a second and tells nobody


@pytest.fixture
def seeded(daemon: Callable[..., Daemon]) -> Iterator[tuple[Daemon, WebApi, list[Torrent]]]:
    """Three trackers with a thousand torrents each; the announce URLs lead nowhere and still say whose they are."""
    running = daemon("4.5")
    with running.api() as api:
        groups = [
            make_torrents(EACH, running.data, prefix=f"t{n}", tiers=[[f"http://127.0.0.{n + 2}:9/announce?key=0123"]])
            for n in range(TRACKERS)
        ]
        torrents = [torrent for row in zip(*groups, strict=True) for torrent in row]
        seed(running, api, torrents)
        yield running, api, torrents


@pytest.fixture
async def scene(
    seeded: tuple[Daemon, WebApi, list[Torrent]], proxy: Callable[[Daemon], Proxy], tmp_path: Path
) -> AsyncIterator[Scene]:
    running, api, torrents = seeded
    between = proxy(running)
    rules: list[dict[str, object]] = [
        *({"id": f"t{n}", "match": [f"127.0.0.{n + 2}"], "max_upload_speed": CAP} for n in range(TRACKERS)),
        {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
    ]
    with Swarm(running.bt_port) as swarm:
        for torrent in torrents[:AWAKE]:
            swarm.add(torrent, DEMAND)
        async with inside.service(
            tmp_path,
            between.url,
            login=login(running),
            trackers=rules,
            poll_interval=3600,
            rollout_percentage=100,
            first_contact_batch=5_000,
        ) as service:
            yield Scene(api, between, swarm, torrents, service)


def names(proxy: Proxy, since: int = 0) -> Counter[str]:
    """Requests by the last part of their path."""
    return Counter(request.path.rpartition("/")[2] for request in proxy.log[since:])


async def test_a_cycle_makes_few_requests_whatever_the_number_of_torrents(scene: Scene) -> None:
    scene.swarm.wait_ready()
    await scene.wait_seen(scene.torrents[:AWAKE], AWAKE_FROM)

    first = await scene.service.cycle(who="test", reason="")
    assert (first.changed, first.applied, first.lost, first.overridden) == (len(scene.torrents), first.changed, 0, 0)
    limits = scene.limits()
    assert min(limits.values()) > 0
    sent = {limit for _, limit in scene.proxy.limits_sent()}
    assert sent == {str(limit) for limit in limits.values()}
    writes = sum(math.ceil(count / HASHES_PER_CALL) for count in Counter(limits.values()).values())
    asked = names(scene.proxy)
    assert asked["setUploadLimit"] <= writes
    assert asked["info"] == 1
    assert asked["uploadLimit"] == 1  # the read-back
    assert asked.keys() <= {"login", "version", "webapiVersion", "preferences", "info", "setUploadLimit", "uploadLimit"}
    assert max(asked[name] for name in ("login", "version", "webapiVersion", "preferences")) == 1

    for _ in range(2):
        before = len(scene.proxy.log)
        quiet = await scene.service.cycle(who="test", reason="")
        assert quiet.changed == 0
        assert names(scene.proxy, before) == {"info": 1}
    assert scene.limits() == limits

    woken = scene.torrents[AWAKE]
    scene.swarm.add(woken, DEMAND)
    await scene.wait_seen([woken], max(limits[woken.infohash] // 2, 1))
    before = len(scene.proxy.log)
    third = await scene.service.cycle(who="test", reason="")
    after = scene.limits()
    asked = names(scene.proxy, before)
    assert third.applied == third.changed == sum(after[name] != limits[name] for name in after)
    assert after[woken.infohash] > limits[woken.infohash]
    same_tracker = [torrent.infohash for torrent in scene.torrents[AWAKE % TRACKERS : AWAKE : TRACKERS]]
    assert all(after[name] < limits[name] for name in same_tracker)
    assert asked["info"] + asked["setUploadLimit"] + asked["uploadLimit"] == sum(asked.values())
    assert asked["setUploadLimit"] <= len({after[name] for name in [*same_tracker, woken.infohash]}) + 1

"""qguard as a process between a real qBittorrent and a swarm that wants more than the caps: counted at the leechers."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.proxy import Proxy
from tests.support.running import Qguard, login
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.tracker import Tracker
from tests.support.webapi import WebApi

PER_TRACKER = 4
DEMAND = 500_000
WANTED = PER_TRACKER * DEMAND
CAP = WANTED // 3
CAPPED, UNCAPPED = ("a", "b"), "c"

OWNERS = 123_456
"""Set by hand before qguard came, on tracker a: below an equal share of its cap."""
HANDS = 200_000
"""Set by hand while qguard runs, on tracker b: above an equal share of its cap, so that the torrent goes on using all
of it and the others have to make room."""
assert OWNERS < CAP // PER_TRACKER < HANDS < DEMAND

WARM_UP = 15.0
"""Seconds: a limit that falls to a third overshoots for 2 s and then stalls for up to 10 s (libtorrent's queues)."""
WINDOW = 10.0
"""Seconds: over less, a limited torrent's rate swings between half and twice its limit, since quota comes in lumps."""
IN_A_WINDOW, OVER_ALL, USED = 1.15, 1.04, 0.90
OVER_SHORT = 1.08
"""Over 20 s instead of 45: the same lumps on half of the time."""
UNHINDERED = 0.95

pytestmark = pytest.mark.qbittorrent


@dataclass
class Scene:
    """A seed with twelve torrents on three trackers, a leecher for each, and a proxy that sees every write."""

    daemon: Daemon
    api: WebApi
    proxy: Proxy
    swarm: Swarm
    torrents: dict[str, list[Torrent]]
    rules: list[dict[str, object]]

    def hashes(self, tracker: str) -> list[str]:
        return [torrent.infohash for torrent in self.torrents[tracker]]

    def limits(self) -> dict[str, int]:
        """Limits now; torrents/info lags behind by a refresh."""
        every = [name for tracker in self.torrents for name in self.hashes(tracker)]
        answer: dict[str, int] = self.api.post("torrents/uploadLimit", hashes="|".join(every)).json()
        return answer

    def written(self) -> set[str]:
        """Every torrent that was ever named in a write through the proxy."""
        return {name for hashes, _ in self.proxy.limits_sent() for name in hashes}


@pytest.fixture
def scene(
    daemon_version: str,
    daemon: Callable[..., Daemon],
    proxy: Callable[[Daemon], Proxy],
    tracker: Tracker,
) -> Iterator[Scene]:
    running = daemon()
    torrents = {
        name: make_torrents(
            PER_TRACKER,
            running.data,
            prefix=f"{name}-{daemon_version}",
            tiers=[[tracker.url(name, passkey="0123456789abcdef")]],
        )
        for name in (*CAPPED, UNCAPPED)
    }
    tracker.allow(torrent.infohash for group in torrents.values() for torrent in group)
    rules: list[dict[str, object]] = [
        *({"id": name, "pattern": rf"//{tracker.host(name)}:", "max_upload_speed": CAP} for name in CAPPED),
        {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
    ]
    with running.api() as api, Swarm(running.bt_port) as swarm:
        for group in torrents.values():
            seed(running, api, group)
            for torrent in group:
                swarm.add(torrent, DEMAND)
        swarm.wait_ready()
        yield Scene(running, api, proxy(running), swarm, torrents, rules)


@pytest.fixture
def qguard(scene: Scene, tmp_path: Path) -> Callable[[], Qguard]:
    """Start qguard on the proxy; to be used as a context."""
    return lambda: Qguard(
        tmp_path,
        scene.proxy.url,
        login=login(scene.daemon),
        trackers=scene.rules,
        poll_interval=1.5,
        rollout_percentage=100,
    )


def measure(seconds: float) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(seconds)  # the length of the measurement itself
    return start, start + seconds


def assert_caps_hold(scene: Scene, t0: float, t1: float, unhindered: float, over_all: float = OVER_ALL) -> None:
    """What the leechers counted: each cap held and used, the uncapped tracker as fast as without qguard."""
    for name in CAPPED:
        mean = scene.swarm.rate(scene.hashes(name), t0, t1)
        peak = scene.swarm.window_max(scene.hashes(name), WINDOW, t0, t1)
        print(f"tracker {name}: {mean / CAP:.3f} of its cap, at most {peak / CAP:.3f} over {WINDOW:g} s")
        assert peak <= IN_A_WINDOW * CAP, f"tracker {name}: a window of {WINDOW:g} s at {peak / CAP:.3f} of its cap"
        assert USED * CAP < mean <= over_all * CAP, f"tracker {name}: {mean / CAP:.3f} of its cap"
    free = scene.swarm.rate(scene.hashes(UNCAPPED), t0, t1)
    print(f"uncapped tracker: {free / unhindered:.3f} of its rate without qguard")
    assert free > UNHINDERED * unhindered


@pytest.mark.parametrize("daemon_version", ["4.5"], indirect=True)
def test_caps_hold_hands_are_respected_and_everything_can_be_undone(scene: Scene, qguard: Callable[[], Qguard]) -> None:
    owners, hands = scene.hashes("a")[0], scene.hashes("b")[0]
    scene.api.set_limit([owners], OWNERS)
    before = scene.limits()
    assert before == {**dict.fromkeys(before, 0), owners: OWNERS}
    measure(3)  # the leechers' first burst
    unhindered = scene.swarm.rate(scene.hashes(UNCAPPED), *measure(10))
    assert unhindered > 0.9 * WANTED

    with qguard() as running:
        running.wait_cycle()
        measure(WARM_UP)
        t0, _ = measure(10)
        scene.api.set_limit([hands], HANDS)
        _, t1 = measure(35)
        assert_caps_hold(scene, t0, t1, unhindered)
        assert scene.written() == {*scene.hashes("a"), *scene.hashes("b")} - {owners}
        managed = scene.written() - {hands}
        limits = scene.limits()
        assert (limits[owners], limits[hands]) == (OWNERS, HANDS)
        assert all(limits[name] > 0 for name in managed)
        assert [limits[name] for name in scene.hashes(UNCAPPED)] == [0] * PER_TRACKER

        done = running.json("rollback", "--yes")
        assert (done["status"], done["changes_reversed"], done["already"], done["failed"], done["gone"]) == (
            "completed",
            len(managed),
            0,
            0,
            0,
        )
        assert done["left_alone"] == [{"hash": hands, "limit": HANDS, "original": 0}]
        assert scene.limits() == before | {hands: HANDS}

        writes = len(scene.proxy.limits_sent())
        for _ in range(3):
            assert running.force()["changed"] == 0
        assert running.health()["paused"] == ["*"]
        assert len(scene.proxy.limits_sent()) == writes
        assert scene.limits() == before | {hands: HANDS}

        assert running.json("resume")["resumed_torrents"] == len(managed)
        running.force()
        limits = scene.limits()
        assert {name for name in limits if limits[name] != before[name]} == managed | {hands}
        assert limits[hands] == HANDS
        for name in CAPPED:  # what they used while they were rolled back is no reason to hold them back now
            assert USED * CAP < sum(limits[one] for one in scene.hashes(name)) <= OVER_ALL * CAP
        assert running.stop() == 0


@pytest.mark.parametrize("daemon_version", ["5.1", "sid"], indirect=True)
def test_caps_hold_on_newer_clients(scene: Scene, qguard: Callable[[], Qguard]) -> None:
    measure(3)  # the leechers' first burst
    unhindered = scene.swarm.rate(scene.hashes(UNCAPPED), *measure(5))
    with qguard() as running:
        running.wait_cycle()
        measure(WARM_UP)
        assert_caps_hold(scene, *measure(20), unhindered, OVER_SHORT)
        assert scene.written() == {*scene.hashes("a"), *scene.hashes("b")}
        done = running.json("rollback", "--yes")
        assert (done["status"], done["changes_reversed"]) == ("completed", 2 * PER_TRACKER)
        assert set(scene.limits().values()) == {0}
        assert running.stop() == 0

"""What the strategies promise, on a real qBittorrent and a swarm; counted at the leechers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.process import until
from tests.support.proxy import Proxy
from tests.support.running import Qguard, login
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.tracker import Tracker
from tests.support.webapi import WebApi

EACH = 4
DEMAND = 750_000
CAP = EACH * DEMAND // 3
"""bytes/s, a third of what the torrents of a tracker may want."""

WARM_UP = 15.0
"""Seconds: a limit that falls to a third overshoots for 2 s and then stalls for up to 10 s (libtorrent's queues)."""
MEASURED = 20.0
SHORTER = 12.0
"""Where two things are measured in one run."""
WINDOW = 10.0
"""Seconds: over less, a limited torrent's rate swings between half and twice its limit, since quota comes in lumps."""
IN_A_WINDOW, OVER_ALL, USED = 1.15, 1.08, 0.90
"""Parts of a cap, as where `equal` is measured for 20 s: most over `WINDOW`, most and least over `MEASURED`."""
BACK_WITHIN = 20.0
"""Seconds after its first bytes in which a lender has its cap again."""

pytestmark = [pytest.mark.qbittorrent, pytest.mark.parametrize("daemon_version", ["4.5"], indirect=True)]


@dataclass
class Scene:
    """A seed with four torrents on each of two trackers, and a proxy that sees every write."""

    daemon: Daemon
    api: WebApi
    proxy: Proxy
    swarm: Swarm
    torrents: Mapping[str, Sequence[Torrent]]
    rules: list[dict[str, object]]
    folder: Path

    def hashes(self, *trackers: str) -> list[str]:
        return [torrent.infohash for tracker in trackers for torrent in self.torrents[tracker]]

    def leech(self, tracker: str, demands: Sequence[float], leechers: Sequence[int] = (1,) * EACH) -> None:
        """So many leechers of each torrent of a tracker, of addresses of their own, which share what it wants."""
        for torrent, demand, count in zip(self.torrents[tracker], demands, leechers, strict=True):
            for number in range(count):
                self.swarm.add(torrent, demand / count, source=f"127.0.1.{number + 1}")

    def mean(self, hashes: list[str], t0: float, t1: float) -> float:
        return self.swarm.rate(hashes, t0, t1)

    def assert_kept(self, what: str, hashes: list[str], cap: float, t0: float, t1: float, used: float = USED) -> None:
        """Torrents kept a cap together, and used it."""
        mean, peak = self.mean(hashes, t0, t1), self.swarm.window_max(hashes, WINDOW, t0, t1)
        print(f"{what}: {mean / cap:.3f} of {cap:.0f} B/s, at most {peak / cap:.3f} over {WINDOW:g} s")
        assert peak <= IN_A_WINDOW * cap, f"{what}: a window of {WINDOW:g} s at {peak / cap:.3f} of {cap:.0f} B/s"
        assert used * cap < mean <= OVER_ALL * cap, f"{what}: {mean / cap:.3f} of {cap:.0f} B/s"

    @contextmanager
    def limited(self, strategy: str, **keys: Any) -> Iterator[Qguard]:
        """qguard at work, after its first cycle."""
        with Qguard(
            self.folder,
            self.proxy.url,
            login=login(self.daemon),
            trackers=self.rules,
            poll_interval=1.5,
            rollout_percentage=100,
            allocation_strategy=strategy,
            **keys,
        ) as running:
            running.wait_cycle()
            yield running
            assert running.stop() == 0


@pytest.fixture
def scene(
    daemon_version: str,
    daemon: Callable[..., Daemon],
    proxy: Callable[[Daemon], Proxy],
    tracker: Tracker,
    tmp_path: Path,
) -> Iterator[Scene]:
    running = daemon()
    torrents = {
        name: make_torrents(
            EACH, running.data, prefix=f"strategies-{name}-{daemon_version}", tiers=[[tracker.url(name)]]
        )
        for name in ("a", "b")
    }
    tracker.allow(torrent.infohash for group in torrents.values() for torrent in group)
    rules: list[dict[str, object]] = [
        *({"id": name, "pattern": rf"//{tracker.host(name)}:", "max_upload_speed": CAP} for name in torrents),
        {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
    ]
    with running.api() as api, Swarm(running.bt_port) as swarm:
        for group in torrents.values():
            seed(running, api, group)
        yield Scene(running, api, proxy(running), swarm, torrents, rules, tmp_path)


def measure(seconds: float) -> tuple[float, float]:
    start = time.monotonic()
    time.sleep(seconds)  # the length of the measurement itself
    return start, start + seconds


def test_weighted_keeps_the_cap_and_gives_more_where_there_are_more_leechers(scene: Scene) -> None:
    many, *few = scene.hashes("a")
    scene.leech("a", [DEMAND] * EACH, [3, 1, 1, 1])
    scene.swarm.wait_ready()
    # Leechers alone count, up to four of them: three quarters and a quarter, so that 3 : 1 : 1 : 1 are the shares.
    with scene.limited("weighted", leechers_weight=1.0, full_score_leechers=4) as running:
        measure(WARM_UP)
        t0, t1 = measure(MEASURED)
        scene.assert_kept("weighted", scene.hashes("a"), CAP, t0, t1)
        limits = scene.api.limits()
        assert sum(limits[name] for name in scene.hashes("a")) <= CAP
        assert [round(limits[many] / limits[name], 1) for name in few] == [3.0] * 3
        # Half of the way from equal shares to the limits: single torrents swing more than a tracker does.
        rate, others = scene.mean([many], t0, t1), scene.mean(few, t0, t1) / len(few)
        print(f"three leechers: {rate:.0f} B/s, one: {others:.0f} B/s")
        assert rate > 2 * others
        assert running.http.get(f"/explain/{many}").json()["score"] == 0.75


def test_soft_lends_an_idle_tracker_s_cap_and_gives_it_back(scene: Scene) -> None:
    scene.leech("a", [0.0] * EACH)
    scene.leech("b", [DEMAND] * EACH)
    scene.swarm.wait_ready()
    with scene.limited("soft") as running:
        measure(WARM_UP)
        t0, t1 = measure(SHORTER)
        scene.assert_kept("borrower", scene.hashes("b"), 1.5 * CAP, t0, t1)
        assert running.http.get("/stats/trackers").json()["b"]["borrowed"] == CAP // 2

        asked = time.monotonic()
        scene.swarm.set_demand(scene.hashes("a"), DEMAND)
        # On a standing limit of 1 KiB/s libtorrent saves up for a block for 10 s before it sends anything at all.
        scene.swarm.wait_received(1, scene.hashes("a"))
        woken = time.monotonic()

        def caps() -> tuple[int, int]:
            rows = running.http.get("/stats/trackers").json()
            return rows["a"]["effective_cap"], rows["b"]["effective_cap"]

        # Three decisions and what the client shows late are 6 s; the rest is for a busy machine.
        until(lambda: caps() == (CAP, CAP), "the lender's cap", BACK_WITHIN)
        print(f"the lender wakes after {woken - asked:.1f} s, and has its cap {time.monotonic() - woken:.1f} s later")
        measure(5)  # rates follow limits that rise, and limits that fall overshoot
        t0, t1 = measure(SHORTER)
        everything = scene.hashes("a", "b")
        peak = scene.swarm.window_max(everything, WINDOW, asked, t1)
        print(f"both since the lender was asked: at most {peak / (2 * CAP):.3f} of both caps over {WINDOW:g} s")
        assert peak <= IN_A_WINDOW * 2 * CAP
        # One that for a moment does not press lends a part again; until the cap was back, half of it was the most.
        scene.assert_kept("lender", scene.hashes("a"), CAP, t0, t1, used=0.8)
        scene.assert_kept("both", everything, 2 * CAP, t0, t1)


def test_adaptive_uses_up_a_cap_that_some_cannot_use_their_share_of(scene: Scene) -> None:
    little = 40_000
    demands = [little, little, DEMAND, DEMAND]
    # What equal shares would let through; far below `USED`.
    assert sum(min(demand, CAP // EACH) for demand in demands) < 0.65 * CAP
    scene.rules[0]["hard"] = True  # otherwise it would borrow from the tracker that is idle
    scene.leech("a", demands)
    scene.swarm.wait_ready()
    with scene.limited("adaptive"):
        # A level that was too low at first is raised after 15 s, and followed within a few.
        measure(WARM_UP + 10)
        t0, t1 = measure(MEASURED)
        scene.assert_kept("adaptive", scene.hashes("a"), CAP, t0, t1)
        limits = scene.api.limits()
        total = sum(limits[name] for name in scene.hashes("a"))
        print(f"limits add up to {total / CAP:.3f} of the cap")
        assert total <= 1.5 * CAP
        for name in scene.hashes("a")[:2]:
            assert scene.mean([name], t0, t1) > 0.9 * little, "held back, though it takes little"

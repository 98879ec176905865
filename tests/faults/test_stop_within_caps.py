"""A clean stop leaves limits that hold by themselves, on a real qBittorrent that held more than the cap before."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.process import until
from tests.support.proxy import Proxy
from tests.support.running import Qguard, login
from tests.support.swarm import Swarm
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.webapi import WebApi

pytestmark = [pytest.mark.qbittorrent, pytest.mark.parametrize("daemon_version", ["4.5"], indirect=True)]

HOST = "127.0.11.1"
CAP = 1_000_000
HOT, LITTLE = 3_000_000, 100_000
"""bytes/s that leechers take: more than the cap, and half of an equal share of it. What a torrent gets above the little
that it uses comes on top of the cap."""
FEW_SECONDS = 9.5
"""Less than Docker waits before it kills."""
PATIENCE = 90.0
"""Seconds until a strategy has found out who wants little: rates are averages, and levels rise in steps."""


@dataclass
class Scene:
    """One torrent that wants more than the cap and four that want little, under `adaptive`."""

    daemon: Daemon
    api: WebApi
    proxy: Proxy
    swarm: Swarm
    hot: Torrent
    modest: list[Torrent]
    folder: Path

    def sum(self) -> int:
        """What the limits add up to, bytes/s."""
        return sum(self.limits().values())

    def limits(self) -> dict[str, int]:
        """Limits by info-hash, straight from the client."""
        names = [torrent.infohash for torrent in (self.hot, *self.modest)]
        answer: dict[str, int] = self.api.post("torrents/uploadLimit", hashes="|".join(names)).json()
        return answer

    def start(self) -> Qguard:
        """qguard at work."""
        return Qguard(
            self.folder,
            self.proxy.url,
            login=login(self.daemon),
            trackers=[
                {"id": "alpha", "match": [HOST], "max_upload_speed": CAP},
                {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
            ],
            rollout_percentage=100,
            allocation_strategy="adaptive",
        )

    def wait_above(self) -> None:
        """Wait until the limits add up to more than the cap, each torrent having one."""
        names = [torrent.infohash for torrent in self.modest]
        self.swarm.set_demand(names, HOT)
        until(lambda: 0 not in self.limits().values(), "limits")
        self.swarm.set_demand(names, LITTLE)
        until(lambda: self.sum() > CAP, "limits that add up to more than the cap", PATIENCE)


@pytest.fixture
def scene(
    daemon: Callable[..., Daemon], proxy: Callable[[Daemon], Proxy], daemon_version: str, tmp_path: Path
) -> Iterator[Scene]:
    running = daemon()
    torrents = make_torrents(5, running.data, prefix=daemon_version, tiers=[[f"http://{HOST}:9/announce"]])
    with running.api() as api, Swarm(running.bt_port) as swarm:
        seed(running, api, torrents)
        for torrent in torrents:
            swarm.add(torrent, HOT)
        swarm.wait_ready()
        yield Scene(running, api, proxy(running), swarm, torrents[0], torrents[1:], tmp_path)


def test_limits_that_are_left_fit_the_cap_and_are_known_and_can_be_undone(scene: Scene) -> None:
    with scene.start() as qguard:
        scene.wait_above()
        # Its listing is cheap, so that it is asked as often as it refreshes, or nearly, on a busy machine.
        assert 1.5 <= qguard.http.get("/stats").json()["update_interval"] < 5.0
        before, sent = scene.limits(), len(scene.proxy.limits_sent())
        total = sum(before.values())
        assert total > CAP
        assert qguard.stop() == 0
        left = scene.limits()
        assert sum(left.values()) <= CAP
        assert 0 not in left.values(), "a torrent was left without a limit"
        assert sum(left.values()) > 0.9 * CAP, "more was taken than had to be"
        for hashes, limit in scene.proxy.limits_sent()[sent:]:
            before |= dict.fromkeys(hashes, int(limit))
            assert sum(before.values()) <= total, "raised before what has to make room was lowered"
        assert before == left

        last = qguard.json("ledger")["cycles"][0]
        assert (last["kind"], last["who"], last["reason"]) == ("cycle", "service", "shutdown")
        qguard.start()
        qguard.wait_cycle()
        assert qguard.http.get("/stats/trackers").json()["alpha"]["in_force"], (
            "its own limits look like somebody else's"
        )
        assert qguard.json("rollback", "--yes")["changes_reversed"] == len(left)
        assert set(scene.limits().values()) == {0}
        assert qguard.stop() == 0
        assert set(scene.limits().values()) == {0}


def test_a_client_that_hangs_at_the_end_is_told_and_not_waited_for(scene: Scene) -> None:
    with scene.start() as qguard:
        scene.wait_above()
        before = scene.limits()
        fault = scene.proxy.hang("torrents/info", times=None)
        fault.wait()  # with a cycle under way, too
        qguard.child.send_signal(signal.SIGTERM)
        assert qguard.child.wait(FEW_SECONDS) == 0
        assert scene.limits() == before
        (line,) = [line for line in qguard.log_tail().splitlines() if "more than the caps" in line]
        assert "(a request to qBittorrent hangs)" in line
        assert "Traceback" not in qguard.log_tail()
        fault.release()

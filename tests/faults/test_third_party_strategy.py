"""Strategies from another distribution: a good one is as good as ours, and what a bad one answers reaches no client."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.daemon import Daemon
from tests.support.process import ALPHA, BETA, Seeds, sown, until
from tests.support.running import Qguard, login
from tests.support.swarm import Swarm

pytestmark = pytest.mark.qbittorrent

PACKAGE = Path(__file__).parents[1] / "strategy_package"

ALPHA_CAP, BETA_CAP = 4_000_000, 64_000_000
"""bytes/s"""

RULES: list[dict[str, object]] = [
    {"id": "alpha", "match": [ALPHA], "max_upload_speed": ALPHA_CAP},
    {"id": "beta", "match": [BETA], "max_upload_speed": BETA_CAP},
    {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
]

AWAKE, DEMAND = (0, 3), 60_000
"""Torrents of alpha without a limit of their owner's, and what a leecher of each takes, bytes/s: six times what wakes
one."""

RESERVE = 4 * 32_768
"""bytes/s that alpha keeps for its three sleepers: counted as four, and each holds a 4th of 5 % of the cap, rounded
down."""
EQUAL = (ALPHA_CAP - RESERVE) // len(AWAKE)
ROUNDED = 2**20
assert ROUNDED < EQUAL < 2 * ROUNDED

BAD = {
    "above-the-cap": "tracker 'alpha' limits that add up to",
    "above-the-caps": "effective caps that add up to",
    "claims-too-much": f"over its cap of {ALPHA_CAP * 3 // 2} B/s",
    "fractions": "float64",
    "in-place": "changed its state in place",
    "negative": "limits from -1 to -1",
    "no-allocation": "no Allocation (AttributeError: 'list' object",
    "nothing-at-all": "raised TypeError: cannot unpack",
    "past-31-bits": "limits from 2147483648",
    "puts-to-sleep": "raised ValueError: assignment destination is read-only",
    "raises": "raised RuntimeError: no idea how to share this",
    "too-short": "10 values of int64 are wanted",
    "zero": "limits from 0 to 0",
}
BREAK_DOWN = {"no-allocation", "nothing-at-all", "puts-to-sleep", "raises"}
"""Those that are told with a traceback."""


@dataclass
class Scene:
    """qguard with the package on its path, between a client and a file that says which strategy."""

    running: Qguard
    seeds: Seeds
    site: Path

    def choose(self, strategy: str) -> httpx.Response:
        """Name another strategy in the file and have it read again."""
        document = yaml.safe_load(self.running.config.read_text())
        document["global"]["allocation_strategy"] = strategy
        fresh = self.running.config.with_suffix(".new")
        fresh.write_text(yaml.safe_dump(document))
        fresh.rename(self.running.config)
        return self.running.http.post("/config/reload", json={})

    def proposed(self, strategy: str) -> httpx.Response:
        """A preview of this configuration with another strategy."""
        document = yaml.safe_load(self.running.config.read_text())
        document["global"]["allocation_strategy"] = strategy
        del document["qbittorrent"]["password"]
        return self.running.http.post("/preview/next-cycle", json={"config": yaml.safe_dump(document)})

    def wait_health(self, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        until(lambda: condition(self.running.health()), f"{what}; {self.running.health()}\n{self.running.log_tail()}")
        return self.running.health()

    def wait_settled(self) -> None:
        """Wait until all is well and a full look finds nothing to change."""
        self.wait_health(lambda health: health["status"] == "healthy", "healthy")
        until(lambda: self.running.force()["changed"] == 0, "a cycle that changes nothing")

    def awake(self) -> list[int]:
        """Limits of the torrents that upload."""
        limits = self.seeds.api.limits()
        return [limits[self.seeds.torrents[ALPHA][number].infohash] for number in AWAKE]

    def log_since(self, size: int) -> str:
        return self.running.output.read_bytes()[size:].decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built and installed into a folder of its own; needs no network."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    flags = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *flags, "--target", folder / "site", source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def busy(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    """A client of which two torrents upload all the time."""
    with sown(module_daemon) as seeds, Swarm(seeds.daemon.bt_port) as swarm:
        for number in AWAKE:
            swarm.add(seeds.torrents[ALPHA][number], DEMAND)
        swarm.wait_ready()
        swarm.wait_received(2 * DEMAND)
        yield seeds


@pytest.fixture(scope="module")
def started(busy: Seeds, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Qguard(
        tmp_path_factory.mktemp("qguard"),
        busy.proxy.url,
        login=login(busy.daemon),
        trackers=RULES,
        environment={"PYTHONPATH": str(site)},
        poll_interval=1,
        rollout_percentage=100,
    ) as running:
        yield Scene(running, busy, site)


@pytest.fixture
def scene(started: Scene) -> Scene:
    """All limits are those of `equal`, and nothing is left to be changed."""
    assert started.choose("equal").status_code == 200
    started.wait_settled()
    until(lambda: abs(started.awake()[0] - EQUAL) <= 1, f"equal shares of {EQUAL} B/s, not {started.awake()}")
    return started


def test_it_is_found_by_its_name(scene: Scene, tmp_path: Path) -> None:
    running = scene.running
    assert scene.choose("rounded").json()["strategy"] == "rounded"
    checked = running.run("check")
    assert checked.returncode == 0, checked.stderr

    unknown = scene.choose("roundet")
    assert unknown.status_code == 422
    assert "did you mean rounded? installed are above-the-cap" in unknown.json()["error"]["message"]
    checked = running.run("check")
    assert checked.returncode == 2
    assert "did you mean rounded?" in checked.stderr

    scene.choose("rounded")
    bare = Path(sys.executable).with_name("qguard")
    checked = subprocess.run(
        [bare, "check", "--config", running.config], cwd=tmp_path, env={}, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 2, "it is known without being installed"
    assert "installed are adaptive, equal, soft, weighted" in " ".join(checked.stderr.split())


def test_it_is_previewed_and_run_and_what_was_previewed_is_in_the_client(scene: Scene) -> None:
    before, writes = scene.seeds.api.limits(), len(scene.seeds.proxy.limits_sent())
    preview = scene.proposed("rounded").json()
    assert preview["strategy"] == "rounded"
    assert list(preview["proposed_changes"].values()) == [ROUNDED] * len(AWAKE)
    assert scene.seeds.api.limits() == before
    assert len(scene.seeds.proxy.limits_sent()) == writes

    reloaded = scene.choose("rounded").json()
    assert (reloaded["status"], reloaded["strategy"]) == ("reloaded", "rounded")
    scene.wait_settled()
    assert scene.seeds.api.limits() == before | preview["proposed_changes"]
    name = scene.seeds.torrents[ALPHA][AWAKE[0]].infohash
    assert scene.running.http.get("/stats").json()["strategy"] == "rounded"
    assert scene.running.http.get(f"/explain/{name}").json()["wanted"] == ROUNDED


@pytest.mark.parametrize(("strategy", "reason"), BAD.items())
def test_a_bad_one_is_refused_by_its_name_before_anything_is_written(scene: Scene, strategy: str, reason: str) -> None:
    running, proxy = scene.running, scene.seeds.proxy
    before, writes, logged = scene.seeds.api.limits(), len(proxy.limits_sent()), running.output.stat().st_size
    refusal = f"strategy '{strategy}' is refused, nothing was written: "

    assert scene.choose(strategy).status_code == 200
    health = scene.wait_health(lambda health: "strategy" in health["problems"], f"{strategy} in /health")
    assert health["status"] == "degraded"
    told = health["problems"]["strategy"]
    assert told.startswith(refusal)
    assert reason in told
    assert "\n" not in told

    asked = [running.http.get("/preview/next-cycle"), running.http.post("/cycle/force", json={})]
    asked += [scene.proposed(strategy)] if strategy != "in-place" else []  # its first turn is good
    for answer in asked:
        error = answer.json()["error"]
        assert (error["code"], error["message"], error["hint"]) == (
            "strategy",
            told,
            "choose another allocation_strategy",
        )
    command = running.run("preview")
    assert (command.returncode, refusal in " ".join(command.stderr.split())) == (1, True), command.stderr

    until(
        lambda: running.health()["update_interval"] >= 4, "two more turns"
    )  # after each failure it waits twice as long
    log = scene.log_since(logged)
    assert log.count(refusal) == 1, log
    assert log.count("Traceback") == (strategy in BREAK_DOWN), log
    assert ("qguard_strategies_for_tests/bad.py" in log) == (strategy in {"puts-to-sleep", "raises"})

    assert scene.seeds.api.limits() == before
    assert len(proxy.limits_sent()) == writes
    assert running.child.poll() is None

    assert scene.choose("equal").status_code == 200
    assert scene.wait_health(lambda health: health["status"] == "healthy", "healthy")["problems"] == {}
    assert running.force()["changed"] == 0
    assert scene.seeds.api.limits() == before


def test_a_service_that_begins_with_a_bad_one_writes_nothing_and_can_be_healed(
    busy: Seeds, site: Path, tmp_path: Path, started: Scene
) -> None:
    started.running.stop()
    busy.reset()
    with Qguard(
        tmp_path,
        busy.proxy.url,
        login=login(busy.daemon),
        trackers=RULES,
        environment={"PYTHONPATH": str(site)},
        poll_interval=1,
        rollout_percentage=100,
        allocation_strategy="zero",
    ) as running:
        scene = Scene(running, busy, site)
        health = scene.wait_health(lambda health: "strategy" in health["problems"], "zero in /health")
        assert "strategy 'zero' is refused" in health["problems"]["strategy"]
        assert busy.proxy.limits_sent() == []
        assert busy.api.limits() == busy.originals
        assert running.json("ledger")["changes"] == []
        scene.choose("equal")
        scene.wait_settled()
        until(lambda: abs(scene.awake()[0] - EQUAL) <= 1, "equal shares")

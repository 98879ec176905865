"""One run: the scene is built, demands follow their schedule, and what the leechers counted is kept."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Final

import numpy as np

from scripts.closed_loop.drives import Stage, stage
from scripts.closed_loop.figures import STEP, Float64, Write, changes
from scripts.closed_loop.scenes import STRATEGIES, WARM_UP, Scene
from tests.support.meter import BUCKET
from tests.support.swarm import Swarm

_AHEAD: Final = 0.5
"""Seconds between the end of the preparations and the start of a scene."""

_WAITS: Final = 0.3
"""Seconds that a leecher tries to connect before its torrent is added: it tries every few tenths of a second then."""

assert STEP == BUCKET


@dataclass(frozen=True)
class Run:
    """What was seen. Arrays are (N, T), in steps of `STEP` from the start of the scene."""

    about: str
    hashes: list[str]
    demand: Float64
    """bytes/s"""
    sent: Float64
    """Payload bytes that leechers counted."""
    writes: list[Write]
    hooks: dict[str, float]
    """When the control heard of each torrent that was added, seconds."""
    load: float
    """Mean number of processes that wanted a processor."""
    late: float
    """Seconds by which the latest change of a demand came too late."""
    log: str
    """What the control printed."""


def run(scene: Scene, drive: str, version: str, seed: int, seconds: int, settings: Mapping[str, Any]) -> Run:
    """Run one scene once; it takes its warm-up, `seconds`, and some seconds for building it.

    Args:
        scene: what there is and what is wanted.
        drive: who limits, of `drives.DRIVES`.
        version: of qBittorrent, as tests call it.
        seed: of the demands.
        seconds: measured, after the warm-up.
        settings: of qguard's section `global`.

    Raises:
        RuntimeError: a part did not come up, or ended.
        TimeoutError: leechers were not let in.
    """
    demand = scene.demand(seed, seconds)
    with stage(scene, drive, version, settings) as ready, Swarm(ready.port) as swarm:
        for row, torrent in enumerate(ready.torrents):
            if row not in scene.added:
                for _ in range(scene.leechers):
                    swarm.add(torrent, when_idle="open" if scene.leechers == 1 else "close")  # idle ones hold no slot
        swarm.wait_ready()
        with _load() as loads:
            start, late = _play(swarm, ready, scene, demand)
        if lost := swarm.failed():
            raise RuntimeError(f"{len(lost)} leecher(s) gave up: {sorted(set(lost.values()))}")
        ready.check()
        hashes = [torrent.infohash for torrent in ready.torrents]
        hooks = {name: at - start for name, at in ready.hooks().items()}
        if drive in STRATEGIES and (unheard := {hashes[row] for row in scene.added} - hooks.keys()):
            raise RuntimeError(f"{len(unheard)} of {len(scene.added)} torrents were added and no hook came for them")
        end = start + demand.shape[1] * STEP
        # Half a bucket on: the start lies on the edge of one, and times are fractions.
        series = [swarm.series(name, start + BUCKET / 2, end + BUCKET / 2) for name in hashes]
        return Run(
            about=ready.about,
            hashes=hashes,
            demand=demand,
            sent=np.array(series, float),
            writes=[Write(at - start, names, limit) for at, names, limit in ready.writes()],
            hooks=hooks,
            load=statistics.fmean(loads),
            late=late,
            log=ready.log(),
        )


def _play(swarm: Swarm, ready: Stage, scene: Scene, demand: Float64) -> tuple[float, float]:
    """Let all happen when the scene says so; when it began, and by how much the latest change of a demand was late."""
    start = (int(time.monotonic() / BUCKET) + round(_AHEAD / BUCKET)) * BUCKET
    before = np.zeros(len(demand))
    late = 0.0

    def follow(step: int) -> None:
        nonlocal before, late
        now = demand[:, step]
        ready.follow(now)
        changed = now != before
        for wanted in np.unique(now[changed]).tolist():  # those that want the same change in one moment
            rows = np.flatnonzero(changed & (now == wanted)).tolist()
            swarm.set_demand([ready.torrents[row].infohash for row in rows], wanted / scene.slots)
        late = max(late, time.monotonic() - start - step * STEP)
        before = now

    def wait_for(row: int, step: int) -> None:
        swarm.add(ready.torrents[row], float(demand[row, step]) / scene.slots)

    others: list[Future[object]] = []
    # Adding takes until the torrent seeds, and a call as long as the client likes: neither may hold up the schedule.
    with ThreadPoolExecutor(4) as pool:

        def beside(do: Callable[..., object], *what: object) -> None:
            others.append(pool.submit(do, *what))

        due: list[tuple[int, Callable[[], None]]] = [(step, partial(follow, step)) for step in changes(demand)]
        for row, at in scene.added.items():
            step = round((WARM_UP + at) / STEP)
            due.append((step - round(_WAITS / STEP), partial(wait_for, row, step)))
            due.append((step, partial(beside, ready.add, ready.torrents[row])))
        for at, method in scene.calls:
            due.append((round((WARM_UP + at) / STEP), partial(beside, ready.call, method)))
        for step, do in sorted(due, key=itemgetter(0)):
            _sleep_until(start + step * STEP)
            do()
        _sleep_until(start + demand.shape[1] * STEP + BUCKET)
        for other in others:
            other.result()
    return start, late


def _sleep_until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


@contextmanager
def _load() -> Iterator[list[float]]:
    """Note the load of the machine while the context lasts."""
    ended = threading.Event()
    loads = [os.getloadavg()[0]]

    def watch() -> None:
        while not ended.wait(5.0):
            loads.append(os.getloadavg()[0])

    watcher = threading.Thread(target=watch, name="load", daemon=True)
    watcher.start()
    try:
        yield loads
    finally:
        ended.set()
        watcher.join()

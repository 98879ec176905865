"""Try other constants of the control law on the simulated client: minutes become seconds.

    python -m scripts.try_law                                   # as they are
    python -m scripts.try_law ENOUGH=0.95 --also RATE_TIME=5    # two variants beside that
    python -m scripts.try_law --strategy equal --interval 5

The scenes are `slow` and `fast` of `make bench-swarm`, on the plant of docs/simulator.md instead of a real client.
docs/control.md tells what was found this way. Seeds are the same for all variants, so compare rows of one run with
each other; single figures differ from those of a real swarm.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

import allocators.adaptive
import allocators.claims
import allocators.settle
import qguard.demand
import qguard.plan
from qguard.config import Settings, parse
from qguard.simulator import trial
from qguard.simulator.client import SimulatedClient, Torrent
from qguard.simulator.leechers import Leechers
from qguard.simulator.plant import TICK
from qguard.simulator.scenes import Stage
from scripts.closed_loop.figures import STEP, Figures, Float64, judge
from scripts.closed_loop.scenes import SCENES, WARM_UP, Scene

SECONDS: Final = 120.0
REFRESH: Final = 1.5
"""Seconds between two cycles by default: a client's own refresh interval."""

EVERY: Final = round(TICK / STEP)
"""Steps of a schedule in a tick of the simulated client."""

TUNABLE: Final = (allocators.adaptive, allocators.claims, allocators.settle, qguard.demand, qguard.plan)


class Scheduled(Leechers):
    """Leechers that want what a schedule says."""

    __slots__ = ("plan",)
    plan: Float64
    """(ticks, N) bytes/s"""

    def step(self) -> Float64:
        """One tick: (N,) what is wanted, bytes/s."""
        self.now += TICK
        self.demand = self.plan[min(round(self.now / TICK) - 1, len(self.plan) - 1)]
        self.count = (self.demand > 0).astype(np.int64)
        return self.demand


class Recorded(SimulatedClient):
    """A client that notes what went out."""

    __slots__ = ("record",)

    def advance(self, seconds: float) -> None:
        """Let time pass, a tick at a time."""
        super().advance(seconds)
        self.record.append(self.sent)


def stage(scene: Scene, seed: int) -> tuple[Stage, Float64]:
    """A simulated client that a scene is played to, and (N, T) the demands."""
    demand = scene.demand(seed, SECONDS)
    torrents = [
        Torrent(
            infohash=np.random.default_rng([seed, n]).bytes(20).hex(),
            name=f"Torrent {n}",
            announce=("https://tracker.example/announce",),
            category="",
            added_on=1_700_000_000 + n,
            downloading=False,
            habit=-1,
        )
        for n in range(len(demand))
    ]
    client = Recorded(seed=seed, torrents=torrents)
    client.record = []
    leechers = Scheduled(client.leechers.rng, habits=client.leechers.habits)
    leechers.keep(np.full(len(torrents), -1), client.leechers.habit)
    leechers.plan = demand[:, ::EVERY].T
    client.leechers = leechers
    return Stage(client, np.zeros(len(torrents), np.int64)), demand


def play(scene: Scene, settings: Settings, strategy: str, seed: int, interval: float) -> tuple[Figures, float]:
    """The figures of one run, and how many torrents were changed in a minute."""
    set_, demand = stage(scene, seed)
    trace = trial.run(settings, set_, strategy=strategy, seconds=WARM_UP + SECONDS, interval=interval)
    assert isinstance(set_.client, Recorded)
    sent = np.repeat(np.array(set_.client.record).T / EVERY, EVERY, axis=1)
    changed = sum(n for n, at in zip(trace.changed, trace.cycle_at, strict=True) if at >= WARM_UP)
    return judge(sent, demand[:, : sent.shape[1]], float(scene.cap), WARM_UP), changed / (SECONDS / 60)


@contextmanager
def constants(values: Mapping[str, float]) -> Iterator[None]:
    """Other values for constants of the modules that make up the law."""
    before = [(module, name, vars(module)[name]) for module in TUNABLE for name in values if name in vars(module)]
    if unknown := set(values) - {name for _, name, _ in before}:
        raise SystemExit(f"no constant {', '.join(sorted(unknown))} in {', '.join(m.__name__ for m in TUNABLE)}")
    try:
        for module, name, _ in before:
            setattr(module, name, values[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def row(label: str, scene: Scene, settings: Settings, options: argparse.Namespace) -> str:
    """Means over all seeds, and the largest where that tells more."""
    runs = [play(scene, settings, options.strategy, seed, options.interval) for seed in range(options.seeds)]
    found = {
        name: np.array([getattr(figures, name) for figures, _ in runs], float)
        for name in ("use", "v10", "v60", "unfairness")
    }
    return (
        f"| {label} | {scene.name} | {found['use'].mean():.3f} | {found['v10'].mean():.3f} ({found['v10'].max():.3f}) "
        f"| {found['v60'].mean():.3f} ({found['v60'].max():.3f}) | {found['unfairness'].mean():.3f} "
        f"| {np.mean([changed for _, changed in runs]):.0f} |"
    )


def variant(words: Sequence[str]) -> dict[str, float]:
    """`NAME=VALUE` words as numbers."""
    pairs = [word.partition("=")[::2] for word in words]
    try:
        return {name: float(value) for name, value in pairs}
    except ValueError:
        raise SystemExit(f"{' '.join(words)}: NAME=NUMBER is wanted, as in ENOUGH=0.95") from None


def main(arguments: Sequence[str]) -> None:
    """Print a row for each variant and scene."""
    parser = argparse.ArgumentParser(prog="python -m scripts.try_law", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("constants", nargs="*", metavar="NAME=VALUE", help="the first variant")
    parser.add_argument("--also", nargs="+", action="append", default=[], metavar="NAME=VALUE", help="another variant")
    parser.add_argument("--strategy", default="adaptive")
    parser.add_argument("--interval", type=float, default=REFRESH, help="seconds between two cycles (1.5)")
    parser.add_argument("--seeds", type=int, default=24, help="so many schedules (24)")
    options = parser.parse_args(arguments)
    rules = "trackers:\n  - {id: all, pattern: '.*', max_upload_speed: 2000000}\n"
    settings = parse(f"qbittorrent: {{url: embedded}}\n{rules}", source=Path("try_law.yaml"), environ={}).settings
    print("| variant | scene | use | v10 mean (most) | v60 mean (most) | unfairness | changed/min |")
    print("|---|---|---|---|---|---|---|")
    for words in [[], *([options.constants] if options.constants else []), *options.also]:
        with constants(variant(words)):
            for name in ("slow", "fast"):
                scene = replace(SCENES[name])
                print(row(" ".join(words) or "as it is", scene, settings, options), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

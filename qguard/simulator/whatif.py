"""Which strategy should I use? Every strategy on a scene with the user's own caps, in one table."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from qguard.config import Settings
from qguard.policy import NO_CAP, make_matcher
from qguard.simulator.client import SimulatedClient, Torrent
from qguard.simulator.judge import Judgement, judge
from qguard.simulator.leechers import Habit
from qguard.simulator.scenes import SCENES, Stage
from qguard.simulator.trial import Trace, run
from qguard.snapshot import Torrents

RETURNS_AT: Final = {"outage": 420.0}
"""Seconds at which the first tracker's demand comes back, by scene."""

FROM_CLIENT: Final = "from-client"

MORE: Final = 2.0
"""Times its rate: what a torrent that presses on its limit is taken to want."""


class Comparison(msgspec.Struct, frozen=True):
    """All strategies on one scene."""

    scene: str
    words: str
    seed: int
    seconds: float
    torrents: int
    strategies: tuple[Judgement, ...]


def compare(
    settings: Settings,
    scene: str,
    strategies: Sequence[str],
    *,
    seed: int = 0,
    seconds: float = 600.0,
    torrents: int = 1000,
    seen: Torrents | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Comparison, list[Trace]]:
    """Let each strategy have the same scene.

    Args:
        settings: the user's own.
        scene: its name, or `FROM_CLIENT`.
        strategies: names.
        seed: of everything that is drawn.
        seconds: simulated, for each strategy.
        torrents: how many, in scenes that are not the client's own.
        seen: what the user's client has now, for `FROM_CLIENT`.
        progress: told the part that is done, 0 to 1.
    """
    traces: list[Trace] = []
    found: list[Judgement] = []
    words = "your own torrents, at their present rates"
    for number, strategy in enumerate(strategies):
        if scene == FROM_CLIENT and seen is not None:
            stage = as_seen(settings, seen, seed)
        else:
            words = SCENES[scene].words
            caps = [rule.max_upload_speed for rule in settings.trackers]
            stage = SCENES[scene].stage(caps, torrents=torrents, seed=seed)
        traces.append(
            run(
                settings,
                stage,
                strategy=strategy,
                seconds=seconds,
                progress=lambda part, before=number: progress((before + part) / len(strategies)),  # type: ignore[misc]
            )
        )
        found.append(judge(traces[-1], returns_at=RETURNS_AT.get(scene)))
    comparison = Comparison(
        scene=scene,
        words=words,
        seed=seed,
        seconds=seconds,
        torrents=len(traces[0].tracker),
        strategies=tuple(found),
    )
    return comparison, traces


def as_seen(settings: Settings, seen: Torrents, seed: int) -> Stage:
    """A client with these torrents, of which those that upload now go on to be wanted, as much as is known.

    A torrent that presses on its limit is taken to want twice that; the others what they get.
    """
    rule = make_matcher(settings).match(seen)
    presses = (seen.up_limit > 0) & (seen.upspeed >= 0.85 * seen.up_limit)
    level = np.where(presses, MORE * seen.upspeed, seen.upspeed).astype(float)
    always = Habit(busy=np.inf, spread=0.0, begins_busy=1.0)
    torrents = [
        Torrent(
            infohash=infohash.decode(),
            name=str(name),
            announce=(),
            added_on=int(added),
            downloading=bool(loads),
            habit=0 if wanted > 0 else -1,
        )
        for infohash, name, added, loads, wanted in zip(
            seen.infohash.tolist(), seen.name, seen.added_on, seen.downloading, level, strict=True
        )
    ]
    client = SimulatedClient(seed=seed, habits=(always,), torrents=torrents)
    client.leechers.level = level
    client.leechers.count = np.maximum(seen.leechers, level > 0).astype(np.int64)
    client.leechers.demand = level.copy()
    return Stage(client, rule)


def plot(traces: Sequence[Trace], path: str, title: str) -> None:
    """Rates against caps over time, a row for each strategy and a line for each capped tracker.

    Args:
        traces: of the same scene.
        path: of a .png or .svg file.
        title: above all.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an optional extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(
        len(traces), 1, sharex=True, sharey=True, figsize=(11, 2.6 * len(traces)), squeeze=False
    )
    for trace, axis in zip(traces, axes[:, 0], strict=True):
        rate = np.array(trace.rate)
        times = np.arange(1, len(rate) + 1) / 2
        ten = np.ones(20)
        inside = np.convolve(np.ones(len(rate)), ten, mode="same")  # fewer at both ends
        for g in np.flatnonzero(trace.cap != NO_CAP)[:8]:
            part = np.convolve(rate[:, g], ten, mode="same") / inside / trace.cap[g]
            axis.plot(times, part, linewidth=1, label=trace.ids[g])
        axis.axhline(1.0, color="black", linewidth=0.8, linestyle="--")
        axis.set_ylabel(f"{trace.strategy}\nrate / cap")
        axis.set_ylim(0, 1.6)
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("seconds; 10 s means; more than 1 is borrowed from other trackers, or too much")
    axes[0, 0].set_title(title)
    axes[0, 0].legend(loc="upper right", fontsize="x-small", ncols=4)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)

"""A picture of runs: rate against cap over time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from scripts.closed_loop.figures import STEP, by_second, ideal, means

_TOP: Final = 2.0
"""Of the picture, in caps; what is above is cut off."""


def draw(file: Path, runs: Sequence[tuple[str, Path]]) -> str | None:
    """Write a picture with one panel for each run.

    Args:
        file: what to write; its ending says in which format.
        runs: title, and where the arrays are.

    Returns:
        Why there is no picture, in one line; None when there is one.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415  # not needed for anything else
    except ImportError:
        return "no picture: matplotlib is not installed"
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(len(runs), 1, figsize=(11, 2.2 * len(runs)), sharey=True, squeeze=False)
    for panel, (title, path) in zip(panels[:, 0], runs, strict=True):
        trace = np.load(path)
        cap = float(trace["cap"])
        allowed = trace.get("allowed", cap)  # traces of earlier code have one cap for all time
        rate = by_second(trace["sent"] / STEP).sum(axis=0) / cap
        best = by_second(ideal(trace["demand"], allowed)).sum(axis=0) / cap
        seconds = np.arange(len(rate)) + 0.5
        panel.axvspan(0, float(trace["warm_up"]), color="0.92", label="warm-up")
        panel.plot(
            seconds,
            best,
            color="black",
            linestyle="--",
            linewidth=1,
            label="what is allowed, or demand where it is less",
        )
        panel.plot(seconds, rate, color="tab:blue", linewidth=0.8, label="rate, 1 s")
        if len(rate) >= 10:
            ten = means(rate[None], 10)[0]
            panel.plot(np.arange(len(ten)) + 5, ten, color="tab:red", linewidth=1.6, label="rate, 10 s")
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlim(0, len(rate))
        panel.set_ylim(0, _TOP)
    panels[0, 0].legend(fontsize=7, ncols=4, loc="lower right")
    panels[-1, 0].set_xlabel("seconds")
    figure.supylabel("over the cap")
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return None

"""The measure of the closed loop, free of any client: demands, the max-min ideal, and figures from counted bytes.

Time goes in steps of `STEP` from the start of a scene. Arrays are (N, T): a row for each torrent, a column
for each step.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

STEP: Final = 0.1
"""Seconds: as finely as leechers count."""

PER_SECOND: Final = 10
PRESSED: Final = 4
"""Seconds for which demand has to be above the cap before a second counts for `use`."""

SMOOTH: Final = 5
"""Seconds of the centred means that unfairness compares, and of those that tell when a lender is back."""

BACK: Final = 0.85
"""Of its cap: what a lender has when it is back."""

WINDOWS: Final = (1, 5, 10, 60)
"""Seconds of the windows whose largest mean is told."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run is worth; None where it was too short, or demand never above the cap."""

    use: float | None
    """Mean rate over the cap, over seconds in which demand was above the cap for at least `PRESSED` seconds."""
    v1: float | None
    """Largest mean of 1 s over the cap; `v5`, `v10` and `v60` likewise."""
    v5: float | None
    v10: float | None
    v60: float | None
    unfairness: float | None
    """Sum of |rate - ideal| over the sum of ideals; 0 when each torrent has exactly its max-min share."""
    excess: float
    """The most that any time brought above the cap, in seconds' worth of the cap."""


@dataclass(frozen=True, slots=True)
class Write:
    """One setUploadLimit."""

    at: float
    """Seconds since the start of the scene; negative before."""
    hashes: frozenset[str]
    limit: int
    """bytes/s, 0 for none."""


def schedule(
    count: int, seconds: float, levels: Sequence[float], hold: tuple[float, float], random: np.random.Generator
) -> Float64:
    """(count, T) demands in bytes/s: one of `levels` at random, held for a random time, over and over.

    Args:
        count: torrents.
        seconds: length.
        levels: bytes/s, all equally likely.
        hold: shortest and longest time that a demand is held, seconds, both included.
        random: where chance comes from.
    """
    steps = round(seconds / STEP)
    shortest, longest = (round(bound / STEP) for bound in hold)
    demand = np.zeros((count, steps))
    for row in demand:
        at = 0
        while at < steps:
            held = int(random.integers(shortest, longest, endpoint=True))
            row[at : at + held] = random.choice(levels)
            at += held
    return demand


def steps(seconds: float, first: float, then: Iterable[tuple[float, float]]) -> Float64:
    """(T,) a value that holds until the first time in seconds, and another one from each time on."""
    row = np.full(round(seconds / STEP), float(first))
    for at, value in then:
        row[max(0, round(at / STEP)) :] = value
    return row


def ideal(demand: Float64, cap: float | Float64) -> Float64:
    """The max-min shares of `cap`, step by step: all of what is wanted, or the level at which the cap is used up.

    Args:
        demand: (N, T) bytes/s.
        cap: bytes/s, or (T,) where it changes.
    """
    return np.minimum(demand, level(demand, cap))


def level(demand: Float64, cap: float | Float64) -> Float64:
    """(T,) the common water level in bytes/s; infinite where the demands fit into the cap."""
    rising = np.sort(demand, axis=0)
    below = np.cumsum(rising, axis=0) - rising
    others = np.arange(len(demand), 0, -1)[:, None]
    shares = (cap - below) / others
    held = rising > shares
    first = np.argmax(held, axis=0)
    found: Float64 = np.where(held.any(axis=0), shares[first, np.arange(demand.shape[1])], np.inf)
    return found


def by_second(steps: Float64) -> Float64:
    """(N, S) means over whole seconds; an unfinished one at the end is left out."""
    whole = steps.shape[1] // PER_SECOND
    means: Float64 = steps[:, : whole * PER_SECOND].reshape(len(steps), whole, PER_SECOND).mean(axis=2)
    return means


def judge(sent: Float64, demand: Float64, cap: float | Float64, warm_up: int) -> Figures:
    """The figures of torrents that share one cap.

    Args:
        sent: (N, T) payload bytes counted in each step, warm-up included.
        demand: (N, T) bytes/s.
        cap: bytes/s, or (T,) where it changes.
        warm_up: seconds at the beginning that do not count.
    """
    rate = by_second(sent / STEP)[:, warm_up:]
    may = by_second(np.broadcast_to(cap, (1, sent.shape[1])))[0, warm_up:]
    best = by_second(ideal(demand, cap))[:, warm_up:]
    total = rate.sum(axis=0)
    pressed = pressed_seconds(demand, cap)[warm_up:]
    return Figures(
        use=float(total[pressed].sum() / may[pressed].sum()) if pressed.any() else None,
        **{f"v{seconds}": largest(total, may, seconds) for seconds in WINDOWS},
        unfairness=unfairness(rate, best),
        excess=excess(total, may),
    )


def pressed_seconds(demand: Float64, cap: float | Float64) -> Bool:
    """(S,) whether demand was above the cap all through the `PRESSED` seconds that end with this one."""
    above = demand.sum(axis=0) > cap
    width = PRESSED * PER_SECOND
    padded: Bool = np.concatenate((np.zeros(width - PER_SECOND, np.bool_), above))
    pressed: Bool = np.all(np.lib.stride_tricks.sliding_window_view(padded, width)[::PER_SECOND], axis=1, keepdims=True)
    return pressed[:, 0]


def means(rows: Float64, seconds: int) -> Float64:
    """(N, S - seconds + 1) means over all windows of that many columns."""
    found: Float64 = np.lib.stride_tricks.sliding_window_view(rows, seconds, axis=1).mean(axis=2)
    return found


def largest(rate: Float64, cap: Float64, seconds: int) -> float | None:
    """The largest mean of any window of (S,) seconds, over the mean of the cap; None when none fits."""
    return float((means(rate[None], seconds) / means(cap[None], seconds)).max()) if seconds <= len(rate) else None


def excess(rate: Float64, cap: Float64) -> float:
    """The most by which any time brought more than the cap, of (S,) seconds; in seconds' worth of the cap.

    What a bucket would have to hold that is filled at the rate of the cap. Seconds above and below the cap in turn
    cancel out, so that the bursts of a rate that keeps its cap do not add up.
    """
    above = np.concatenate(([0.0], np.cumsum(rate / cap - 1)))
    return float((above - np.minimum.accumulate(above)).max())


def back_after(sent: Float64, cap: float, at: float) -> float:
    """Seconds from `at` until the mean of the last `SMOOTH` seconds is `BACK` of the cap; what is left if it never is.

    Args:
        sent: (N, T) bytes counted in each step, of the torrents of one tracker.
        cap: bytes/s.
        at: when they want something again, seconds.
    """
    width, first = round(SMOOTH / STEP), round(at / STEP)
    padded = np.concatenate((np.zeros(width), sent.sum(axis=0)))
    smooth = np.lib.stride_tricks.sliding_window_view(padded, width).sum(axis=1) / SMOOTH  # at the end of each step
    reached = np.flatnonzero(smooth[first:] >= BACK * cap)
    return float((reached[0] if len(reached) else sent.shape[1] - first) * STEP)


def limited_after(hooks: Mapping[str, float], writes: Sequence[Write], end: float) -> float | None:
    """The longest time from a torrent's hook to its first limit, in seconds; None without hooks.

    Args:
        hooks: when each torrent's hook arrived, seconds.
        writes: in order of time.
        end: of the run in seconds; counts for those that no write limits.
    """
    first: dict[str, float] = {}
    for write in writes:
        for name in write.hashes & hooks.keys() if write.limit > 0 else ():
            first.setdefault(name, write.at)
    return max((max(0.0, first.get(name, end) - at) for name, at in hooks.items()), default=None)


def unfairness(rate: Float64, best: Float64) -> float | None:
    """How far (N, S) rates are from the ideal, both as centred means; None when nothing was wanted."""
    if rate.shape[1] < SMOOTH:
        return None
    smooth, wanted = means(rate, SMOOTH), means(best, SMOOTH)
    return float(np.abs(smooth - wanted).sum() / wanted.sum()) if wanted.any() else None


def writes_per_minute(writes: Sequence[Write], t0: float, t1: float) -> tuple[float, float]:
    """Torrents whose limit changed, and calls, per minute of the time from `t0` up to `t1`.

    A torrent counts once for each write that gives it another limit than it had; at first it has none.
    """
    had: dict[str, int] = {}
    changed = calls = 0
    for write in writes:
        new = [name for name in write.hashes if had.get(name, 0) != write.limit]
        had |= dict.fromkeys(new, write.limit)
        if t0 <= write.at < t1:
            changed += len(new)
            calls += 1
    minutes = (t1 - t0) / 60
    return changed / minutes, calls / minutes


def limits_over_time(writes: Sequence[Write], hashes: Sequence[str], steps: int) -> Float64:
    """(N, T) the limit of each torrent at the end of each step, as it was written; 0 for none."""
    row = {name: number for number, name in enumerate(hashes)}
    limits = np.zeros((len(hashes), steps))
    for write in writes:
        for name in write.hashes & row.keys():
            limits[row[name], max(0, int(write.at / STEP)) :] = write.limit
    return limits


def changes(demand: Float64) -> list[int]:
    """The steps at which any demand differs from the step before, the first one included."""
    moved = np.flatnonzero((demand[:, 1:] != demand[:, :-1]).any(axis=0)) + 1
    return [0, *map(int, moved)]

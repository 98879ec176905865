"""What a trace is worth: how much of the caps was used, how far they were exceeded, how fairly, at what cost.

Windows slide by ticks. A tracker without a cap is judged by the link only.
"""

from typing import Final

import msgspec
import numpy as np

from allocators.base import Bool, Float64
from qguard.policy import NO_CAP
from qguard.simulator.plant import TICK
from qguard.simulator.trial import SAMPLE, Trace

WARM_UP: Final = 60.0
"""Seconds at the beginning that do not count: the client begins without limits."""

BACKLOGGED: Final = 0.95
"""A torrent that gets less than this part of what it wants is backlogged."""


class Judgement(msgspec.Struct, frozen=True):
    """The figures of one strategy on one scene."""

    strategy: str
    interval: float
    """Seconds between two cycles."""
    use: float
    """Delivered, over the smaller of demand and cap; 10 s windows, mean."""
    v1: float
    """Largest mean of 1 s over the cap, over all trackers."""
    v10: float
    v10_p99: float
    """99th percentile of the 10 s means of the tracker that is worst."""
    v60: float
    link10: float
    """Largest 10 s mean of all together over the link, or the sum of the caps."""
    jain: float
    """Jain's index of the backlogged torrents' rates, mean over trackers and 10 s samples."""
    changed: float
    """Torrents written per minute."""
    calls: float
    """Per minute."""
    reversals: float
    """Per torrent in demand and hour: raised, then lowered, or the other way round."""
    overcommit: float
    """Largest sum of limits over the effective cap."""
    lent: float
    """Largest sum of effective caps over the sum of the caps; above 1 is a fault."""
    excess: float
    """All that went out above the caps in 1 s means, in seconds of the cap; the worst tracker."""
    reclaim: float | None
    """Seconds from the return of demand until the first tracker has 85 % of its cap; None without a return."""


def judge(trace: Trace, *, returns_at: float | None = None) -> Judgement:
    """Work the figures out.

    Args:
        trace: of one run.
        returns_at: seconds at which the first tracker's demand comes back.
    """
    skip = int(WARM_UP / TICK)
    rate, demand = np.array(trace.rate)[skip:], np.array(trace.demand)[skip:]
    capped = trace.cap != NO_CAP
    # Where caps are lent, the effective cap is what must be kept.
    cap = _effective(trace)[skip:]
    over = {w: _worst(rate[:, capped] / 1, cap[:, capped], w) for w in (1.0, 10.0, 60.0)}
    tens = _windows(rate[:, capped], 10.0) / np.maximum(_windows(cap[:, capped], 10.0), 1)
    whole = trace.link or int(trace.cap[capped].sum())
    together = _windows(rate[:, capped] if trace.link is None else rate, 10.0).sum(axis=1)
    wanted = np.minimum(_windows(demand[:, capped], 10.0), np.maximum(_windows(cap[:, capped], 10.0), 1))
    got = np.minimum(_windows(rate[:, capped], 10.0), wanted)
    seconds = len(trace.rate) * TICK
    minutes = (seconds - WARM_UP) / 60
    late = [n for n, at in enumerate(trace.cycle_at) if at >= WARM_UP or n == len(trace.cycle_at) - 1]
    ones = _windows(rate[:, capped], 1.0) - _windows(cap[:, capped], 1.0)
    in_demand = (np.array(trace.torrent_demand) > 0).any(axis=0).sum()
    hours = seconds / 3600
    effective, promised = np.array(trace.effective)[late], np.array(trace.promised)[late]
    return Judgement(
        strategy=trace.strategy,
        interval=trace.interval,
        use=float(got.sum() / max(wanted.sum(), 1)),
        v1=over[1.0],
        v10=over[10.0],
        v10_p99=float(np.quantile(tens, 0.99, axis=0).max()) if tens.size else 0.0,
        v60=over[60.0],
        link10=float(together.max() / whole) if len(together) else 0.0,
        jain=_jain(trace),
        changed=sum(trace.changed[n] for n in late) / minutes,
        calls=sum(trace.calls[n] for n in late) / minutes,
        reversals=float(trace.reversals.sum() / max(in_demand, 1) / hours),
        overcommit=float((promised[:, capped] / np.maximum(effective[:, capped], 1)).max()),
        lent=float((effective[:, capped].sum(axis=1) / max(int(trace.cap[capped].sum()), 1)).max()),
        excess=float((np.maximum(ones, 0) / cap[-len(ones) :, capped]).sum(axis=0).max() * TICK) if ones.size else 0.0,
        reclaim=None if returns_at is None else _reclaim(trace, returns_at),
    )


def _effective(trace: Trace) -> Float64:
    """(T, R) the cap that held at each tick."""
    times = np.arange(1, len(trace.rate) + 1) * TICK
    cycle = np.searchsorted(np.array(trace.cycle_at), times, side="left") - 1
    column: Float64 = np.array(trace.effective, np.float64)[np.maximum(cycle, 0)]
    return column


def _windows(ticks: Float64, seconds: float) -> Float64:
    """(T - w + 1, R) means over all windows of that length."""
    size = round(seconds / TICK)
    if len(ticks) < size:
        return np.zeros((0, ticks.shape[1]))
    total = np.cumsum(np.vstack([np.zeros(ticks.shape[1]), ticks]), axis=0)
    means: Float64 = (total[size:] - total[:-size]) / size
    return means


def _worst(rate: Float64, cap: Float64, seconds: float) -> float:
    over = _windows(rate, seconds) / np.maximum(_windows(cap, seconds), 1)
    return float(over.max()) if over.size else 0.0


def _jain(trace: Trace) -> float:
    """1 when all torrents of a tracker get the same that are backlogged, and were in the sample before."""
    found: list[float] = []
    skip = int(WARM_UP / SAMPLE)
    waited: Bool = np.zeros(len(trace.tracker), np.bool_)
    for rate, demand in zip(trace.torrent_rate[skip:], trace.torrent_demand[skip:], strict=True):
        waits: Bool = (demand > 0) & (rate < BACKLOGGED * demand)
        waits, waited = waits & waited, waits
        for g in np.flatnonzero(trace.cap != NO_CAP):
            x = rate[waits & (trace.tracker == g)]
            if len(x) > 1 and x.sum() > 0:
                found.append(float(x.sum() ** 2 / (len(x) * (x**2).sum())))
    return float(np.mean(found)) if found else 1.0


def _reclaim(trace: Trace, at: float) -> float:
    """Seconds until the 5 s mean of the first tracker is 85 % of the smaller of its cap and its demand."""
    first = int(at / TICK)
    rate = _windows(np.array(trace.rate)[first:, :1], 5.0)[:, 0]
    wanted = np.minimum(_windows(np.array(trace.demand)[first:, :1], 5.0)[:, 0], trace.cap[0])
    there = np.flatnonzero(rate >= 0.85 * wanted)
    return float(there[0] * TICK + 5.0) if len(there) else np.inf

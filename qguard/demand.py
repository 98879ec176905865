"""What each torrent uploads, and whether it is awake.

Rates come from the byte counters: unbiased, but moving in steps of the client's refresh interval, so they are smoothed
over `RATE_TIME`. The client's own `upspeed` is used before there are two readings, and to notice a wake-up early.

A torrent wakes when it uploads at least half of its limit or the activity threshold, whichever is lower: so one that
holds a tiny standing limit can be seen to wake. It falls asleep when it has uploaded less than half of the standing
limit it would get (or of the threshold or its own limit, when one is lower) for `SLEEP_AFTER` seconds. That lower bar
matters: a torrent put on a standing limit below what it uploads would press on it, wake at once, and so for ever.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from qguard.snapshot import UNLIMITED, Bool, InfoHashes, Int64, Torrents, find

RATE_TIME: Final = 5.0
"""Seconds: time constant of the smoothed rate; three refresh intervals, so that steps do not show."""

SLEEP_AFTER: Final = 30.0
"""Seconds without upload until a torrent sleeps: two unchoke rounds, so that one without a slot is not put to sleep."""


@dataclass(frozen=True, slots=True, eq=False)
class DemandState:
    """What is remembered from one reading to the next; sorted by info-hash like the torrents it was made of."""

    at: float
    infohash: InfoHashes
    added_on: Int64
    uploaded: Int64
    rate: np.ndarray[tuple[int], np.dtype[np.float64]]
    awake: Bool
    busy_at: np.ndarray[tuple[int], np.dtype[np.float64]]
    """When each torrent last uploaded enough to stay awake."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """(N,) columns for the torrents of one reading."""

    rate: np.ndarray[tuple[int], np.dtype[np.float64]]
    """bytes/s"""
    awake: Bool
    woke: Bool
    """Awake now, and known to have slept at the reading before."""


def estimate(
    torrents: Torrents, now: float, *, threshold: int, standing: Int64, state: DemandState | None
) -> tuple[Demand, DemandState]:
    """Rates and who is awake.

    Args:
        torrents: the reading.
        now: when it was taken, seconds on any steady clock.
        threshold: activity threshold in bytes/s.
        standing: (N,) the standing limit that each torrent would hold asleep, bytes/s.
        state: what this function returned with the previous reading, None at first.
    """
    before = _align(torrents, state)
    known = before >= 0
    rate = torrents.upspeed.astype(np.float64)
    awake = np.zeros(len(torrents), np.bool_)
    busy_at = np.full(len(torrents), now)
    if state is not None and known.any():
        then = before[known]
        elapsed = max(now - state.at, 1e-3)
        moved = np.maximum(torrents.uploaded[known] - state.uploaded[then], 0) / elapsed
        rate[known] = state.rate[then] + (1 - np.exp(-elapsed / RATE_TIME)) * (moved - state.rate[then])
        awake[known] = state.awake[then]
        busy_at[known] = state.busy_at[then]

    strongest = np.maximum(rate, torrents.upspeed)
    own_half = np.where(torrents.up_limit == UNLIMITED, np.inf, torrents.up_limit / 2)
    wakes = strongest >= np.maximum(np.minimum(threshold, own_half), 1)
    # One that presses on a share smaller than its standing limit is awake, or thousands would sleep on more than that.
    stays = rate >= np.minimum(np.minimum(threshold, standing) / 2, own_half)
    was_awake = awake
    # Whether an awake torrent is still busy is judged by the counters alone: `upspeed` trails off for 20 s.
    busy_at = np.where(np.where(was_awake, stays, wakes), now, busy_at)
    awake = np.where(was_awake, now - busy_at < SLEEP_AFTER, wakes)
    after = DemandState(now, torrents.infohash, torrents.added_on, torrents.uploaded, rate, awake, busy_at)
    return Demand(rate, awake, awake & ~was_awake & known), after


def _align(torrents: Torrents, state: DemandState | None) -> Int64:
    """(N,) the row of each torrent in the state, -1 for new ones."""
    if state is None:
        return np.full(len(torrents), -1, np.int64)
    rows = find(state.infohash, torrents.infohash)
    same = np.zeros(len(rows), np.bool_)
    same[rows >= 0] = state.added_on[rows[rows >= 0]] == torrents.added_on[rows >= 0]
    return np.where(same, rows, -1)

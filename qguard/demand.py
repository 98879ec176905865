"""What each torrent uploads, and whether it is awake.

Rates come from the byte counters: exact, but moving in steps of the client's refresh interval, and of whole blocks of
16 KiB, so they are smoothed over `RATE_TIME`, the time of two blocks, or most of that between two readings. Two
readings that are far from the smoothed rate, on the same side, or one that is next to nothing where blocks were to be
expected, are no noise: leechers came or went, and the rate is set to what those say. A reading in which no counter of a
busy client has moved says nothing. The client's own `upspeed` is used before there are two readings, and to notice a
wake-up early.

A torrent wakes when it uploads at least half of its limit or the activity threshold, whichever is lower: so one that
holds a tiny standing limit can be seen to wake. A first block is enough, too, unless next to nothing came after the one
before: a leecher that takes a block a minute does not wake a torrent each minute. It falls asleep when it has uploaded
less than half of the standing limit it would get (or of the threshold or its own limit, when one is lower) for
`SLEEP_AFTER` seconds. That lower bar matters: a torrent put on a standing limit below what it uploads would press on
it, wake at once, and so for ever.

A torrent presses on its limit when it uploads nearly all that the limit lets through, and then wants that much at
least. A smoothed rate follows a changed limit only after a while, so it is compared with the limit smoothed alike.
"""

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qguard.snapshot import UNLIMITED, Bool, InfoHashes, Int64, Torrents, find

RATE_TIME: Final = 2.5
"""Seconds: time constant of the smoothed rate; nearly two refresh intervals: less lets steps show, more comes late."""

BETWEEN: Final = 0.8
"""No less than this part of the time between two readings, so that one full of bursts is not all that counts."""

BLOCK: Final = 16_384
"""Bytes: libtorrent sends whole blocks, so the counter of a slow torrent stands still between two of them."""

SLOWEST: Final = 10.0
"""Seconds: the longest time constant, of torrents whose limit lets a block through only now and then."""

UNREFRESHED: Final = 3.0
"""Seconds, two refresh intervals: for so long a client that uploads may show the same counters twice."""

STEP_FROM: Final = 0.3
"""Where two readings in a row are further than this part above or below the smoothed rate, it has changed for good."""

STALLS: Final = 3.0
"""Seconds after a limit came, or fell by more than `STEP_FROM`, in which a rate is not believed to fall below it: the
client may send nothing for a second, until what its peers have asked for fits the quota again."""

SLEEP_AFTER: Final = 30.0
"""Seconds without upload until a torrent sleeps: two unchoke rounds, so that one without a slot is not put to sleep."""

STOPS_BELOW: Final = 0.3
"""One reading below this part of the smoothed rate is enough, where two blocks were to be expected in it."""

TELLS_AFTER: Final = 1.0
"""Seconds between two readings below which the counters may not have moved although the torrent uploads."""

PRESSES_FROM: Final = 0.90
"""Part of its limit from which a torrent presses on it; times the headroom of `allocators.claims` this is above 1."""

PRESSES_UNTIL: Final = 0.70
"""Part of its limit below which it no longer does: a gap, so that noise changes nothing."""

UNKNOWN_FOR: Final = 5.0
"""Seconds after waking for which the rate says little of what a torrent wants: one that ramps up still does then."""


Rates = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True, eq=False)
class DemandState:
    """What is remembered from one reading to the next; sorted by info-hash like the torrents it was made of."""

    infohash: InfoHashes
    added_on: Int64
    uploaded: Int64
    upspeed: Int64
    """As the client showed it."""
    rate: Rates
    awake: Bool
    busy_at: Rates
    """When each torrent last uploaded enough to stay awake."""
    read_at: Rates
    """When each torrent was last read."""
    moved: Rates
    """What each torrent uploaded between the last two readings of it, bytes/s."""
    limit: Rates
    """Each torrent's limit, smoothed as its rate is; infinite without one."""
    pressed: Bool
    woke_at: Rates
    """When each torrent was last seen to wake; long ago where it never was."""
    dribbles: Bool
    """Woke for a single block, and has uploaded next to nothing since."""
    limited_at: Rates
    """When each torrent's limit was last seen to come, or to fall by much; long ago where it never was."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """(N,) columns for the torrents of one reading."""

    rate: Rates
    """bytes/s"""
    awake: Bool
    rose: Bool
    """Uploads now, and is not known to have done so before since it last slept: a single block may have woken it."""
    pressing: Bool
    """Awake, and uploads what its limit lets through, or woke too lately to tell."""


def estimate(
    torrents: Torrents, now: float, *, fresh: Bool, threshold: int, standing: Int64, state: DemandState | None
) -> tuple[Demand, DemandState]:
    """Rates and who is awake.

    Args:
        torrents: the reading.
        now: when it was taken, seconds on any steady clock.
        fresh: (N,) torrents that this reading says something about; the others stay as they were.
        threshold: activity threshold in bytes/s.
        standing: (N,) the standing limit that each torrent would hold asleep, bytes/s.
        state: what this function returned with the previous reading, None at first.
    """
    before = _align(torrents, state)
    known = before >= 0
    fresh = fresh & ~(known & _unrefreshed(torrents, now, fresh & known, before, state))
    limit = np.where(torrents.up_limit == UNLIMITED, np.inf, torrents.up_limit)
    counted = _count(torrents, now, fresh, before, limit, state)
    rate = counted.rate
    was_awake = _kept(before, state.awake if state else None, otherwise=False)
    pressed = _kept(before, state.pressed if state else None, otherwise=False)
    dribbles = _kept(before, state.dribbles if state else None, otherwise=False)
    busy_at = _kept(before, state.busy_at if state else None, otherwise=now)
    woke_at = _kept(before, state.woke_at if state else None, otherwise=-np.inf)

    strongest = np.maximum(rate, torrents.upspeed)
    own_half = np.where(torrents.up_limit == UNLIMITED, np.inf, torrents.up_limit / 2)
    uploads = strongest >= np.maximum(np.minimum(threshold, own_half), 1)
    # Below 16 KiB/s it takes seconds until a rate tells; whoever reads seldom sees it as soon.
    wakes = uploads | (counted.block & ~dribbles)
    # One that presses on a share smaller than its standing limit is awake, or thousands would sleep on more than that.
    stays = rate >= np.minimum(np.minimum(threshold, standing) / 2, own_half)
    # Whether an awake torrent is still busy is judged by the counters alone: `upspeed` trails off for 20 s.
    busy_at = np.where(fresh & np.where(was_awake, stays, wakes), now, busy_at)
    judged = np.where(was_awake, now - busy_at < SLEEP_AFTER, wakes)
    awake = np.where(fresh | ~known, judged, was_awake)
    woke = awake & ~was_awake & known
    rose = fresh & known & uploads & (~was_awake | dribbles)
    woke_at = np.where(woke, now, woke_at)
    dribbles = np.where(woke, ~uploads, dribbles & ~uploads)
    full = np.minimum(counted.in_force, limit)
    pressed = np.where(fresh, rate >= np.where(pressed, PRESSES_UNTIL, PRESSES_FROM) * full, pressed) & awake
    pressing = awake & (pressed | (now - woke_at < UNKNOWN_FOR))
    after = DemandState(
        infohash=torrents.infohash,
        added_on=torrents.added_on,
        uploaded=counted.uploaded,
        upspeed=counted.upspeed,
        rate=rate,
        awake=awake,
        busy_at=busy_at,
        read_at=counted.read_at,
        moved=counted.moved,
        limit=counted.in_force,
        pressed=pressed,
        woke_at=woke_at,
        dribbles=dribbles,
        limited_at=counted.limited_at,
    )
    return Demand(rate, awake, rose, pressing), after


class _Counted(NamedTuple):
    """(N,) what the counters say; columns as in `DemandState`."""

    rate: Rates
    uploaded: Int64
    upspeed: Int64
    moved: Rates
    read_at: Rates
    in_force: Rates
    """The limit as the rate sees it."""
    limited_at: Rates
    block: Bool
    """Whether a whole block or more went out since the reading before, and that was a moment ago."""


def _count(
    torrents: Torrents, now: float, fresh: Bool, before: Int64, limit: Rates, state: DemandState | None
) -> _Counted:
    """What there is to say at first, what was said before, or what two readings say of the time between them."""
    shown = torrents.upspeed.astype(np.float64)
    first = _Counted(
        rate=shown,
        uploaded=torrents.uploaded,
        upspeed=torrents.upspeed,
        moved=shown,
        read_at=np.full(len(torrents), now),
        in_force=np.maximum(limit, shown),  # one that uploads more has not got it for long
        limited_at=np.full(len(torrents), -np.inf),
        block=np.zeros(len(torrents), np.bool_),
    )
    if state is None or not len(state.infohash):
        return first
    old = _Counted(
        rate=state.rate[before],
        uploaded=state.uploaded[before],
        upspeed=state.upspeed[before],
        moved=state.moved[before],
        read_at=state.read_at[before],
        in_force=state.limit[before],
        limited_at=state.limited_at[before],
        block=first.block,
    )
    elapsed = np.maximum(now - old.read_at, 1e-3)
    sent = np.maximum(torrents.uploaded - old.uploaded, 0)
    moved, often = sent / elapsed, elapsed < TELLS_AFTER
    part = np.exp(-elapsed / _rate_time(limit, elapsed))
    rate = moved + part * (old.rate - moved)
    rate = np.where(often | (old.rate * elapsed < 2 * BLOCK), rate, _step(rate, moved, old.moved))
    limited_at = np.where(limit < (1 - STEP_FROM) * old.in_force, now, old.limited_at)
    rate = np.where(now - limited_at < STALLS, np.maximum(rate, np.minimum(old.rate, limit)), rate)
    finite = np.isfinite(old.in_force) & np.isfinite(limit)
    ahead = np.where(finite, old.in_force, 0.0) - np.where(finite, limit, 0.0)
    new = first._replace(
        rate=rate,
        moved=np.where(often, old.moved, moved),
        in_force=limit + part * ahead,
        limited_at=limited_at,
        block=(sent >= BLOCK) & (now - state.read_at.max() < UNREFRESHED),
    )
    known = before >= 0
    return _Counted(*(np.where(known, np.where(fresh, *two), one) for one, *two in zip(first, new, old, strict=True)))


def _rate_time(limit: Rates, elapsed: Rates) -> Rates:
    """(N,) seconds over which rates are smoothed.

    Args:
        limit: (N,) under which limits; as long as two blocks take at least, bytes/s.
        elapsed: (N,) since the readings before, seconds.
    """
    slow: Rates = np.clip(np.maximum(2 * BLOCK / np.maximum(limit, 1), BETWEEN * elapsed), RATE_TIME, SLOWEST)
    return slow


def _unrefreshed(torrents: Torrents, now: float, rows: Bool, before: Int64, state: DemandState | None) -> bool:
    """Whether the client has not looked at its counters again since the reading before.

    Some torrent uploads, then, and no counter has moved, of all that this reading is about.
    """
    if state is None or not rows.any():
        return False
    then = before[rows]
    still = (torrents.uploaded[rows] == state.uploaded[then]) & (torrents.upspeed[rows] == state.upspeed[then])
    uploads = (torrents.upspeed[rows] > 0).any()
    return bool(uploads and still.all() and (now - state.read_at[then] < UNREFRESHED).all())


def _step(smoothed: Rates, now: Rates, before: Rates) -> Rates:
    """(N,) the smoothed rates, or what the last readings say where they are far off."""
    low, high = (1 - STEP_FROM) * smoothed, (1 + STEP_FROM) * smoothed
    steps = (np.maximum(now, before) < low) | (np.minimum(now, before) > high)
    return np.where(now < STOPS_BELOW * smoothed, now, np.where(steps, (now + before) / 2, smoothed))


def _kept(before: Int64, column: NDArray[Any] | None, *, otherwise: float) -> NDArray[Any]:
    """(N,) a column of the state in the order of the reading, where a torrent was known."""
    if column is None or not len(column):
        return np.full(len(before), otherwise)
    return np.where(before >= 0, column[before], otherwise)


def _align(torrents: Torrents, state: DemandState | None) -> Int64:
    """(N,) the row of each torrent in the state, -1 for new ones."""
    if state is None:
        return np.full(len(torrents), -1, np.int64)
    rows = find(state.infohash, torrents.infohash)
    same = np.zeros(len(rows), np.bool_)
    same[rows >= 0] = state.added_on[rows[rows >= 0]] == torrents.added_on[rows >= 0]
    return np.where(same, rows, -1)

"""What every strategy is given and gives back, and how strategies are found.

A strategy sees one `Request`: the capped trackers and their torrents as columns. It answers with one `Allocation`:
an upload limit in bytes/s for every torrent. What it wants to remember it returns as its state and gets back with
the next request; it holds nothing itself, so that a cycle, a preview, a simulation and a test can use the same object.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]
InfoHashes = NDArray[np.bytes_]

ENTRY_POINT_GROUP: Final = "qguard.allocators"

MAX_LIMIT: Final = 2**31 - 2
"""Largest limit in bytes/s that qBittorrent keeps; 0, 2^31 - 1 and everything above mean unlimited to it."""

MIN_LIMIT: Final = 1
"""Smallest limit in bytes/s that qBittorrent keeps; 0 means unlimited to it."""

STANDING_SHARE: Final = 0.05
"""The part of a cap that standing limits may take."""

MAX_CAP: Final = 2**42
"""Largest cap in bytes/s; times the largest weight (2^20) it stays within int64."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One moment of the capped trackers (G of them) and all their participating torrents (N).

    Torrents are sorted by tracker, then by info-hash; every tracker has at least one. All rates, caps and limits are
    in bytes/s. Torrents outside the rollout take part as if they were in it, so that those inside get the very limits
    they would get at 100 %.
    """

    tracker: tuple[str, ...]
    """(G,) tracker ids."""
    start: Int64
    """(G,) index of each tracker's first torrent; strictly increasing from 0."""
    base_cap: Int64
    """(G,) the cap of the configuration, 1 to `MAX_CAP`."""
    outside: Int64
    """(G,) what torrents that qguard may not write (yielded, held) use at the moment; it comes off the cap."""
    wakeups: Int64
    """(G,) K: how many sleeping torrents may wake within one interval, at least 1; about as many as sleep at most."""
    priority: Int64
    """(G,) 1 to 10."""
    guaranteed: Int64
    """(G,) kept for the tracker whenever it wants it."""
    hard: Bool
    """(G,) never lent above the base cap."""
    may_lend: Bool
    """(G,)"""
    may_borrow: Bool
    """(G,)"""

    infohash: InfoHashes
    """(N,) 40 hex digits each."""
    rate: Float64
    """(N,) estimated upload rate."""
    leechers: Int64
    """(N,) connected leechers."""
    awake: Bool
    """(N,) uploads at present; sleeping torrents hold a standing limit."""
    pressing: Bool
    """(N,) awake, and uploads what its limit lets through, or woke too lately to tell: it may want any amount."""
    current: Int64
    """(N,) the limit that the client has now, 0 for none."""
    floor: Int64
    """(N,) what the torrent should not be squeezed below while the cap allows (0: none); a download's own floor."""
    ceiling: Int64
    """(N,) the torrent's own upper bound, `MIN_LIMIT` to `MAX_LIMIT`."""

    link: int | None = None
    """The line that all trackers share, None when it is not known."""
    elapsed: float = 0.0
    """Seconds since the previous request, 0.0 for the first."""

    def __post_init__(self) -> None:
        """Refuse columns that no strategy could make sense of (see `check_request`)."""
        check_request(self)

    @property
    def count(self) -> Int64:
        """(G,) torrents per tracker."""
        return np.diff(np.append(self.start, len(self.infohash)))

    def spread(self, per_tracker: NDArray[Any]) -> NDArray[Any]:
        """Repeat a (G,) column for every torrent: (N,)."""
        return np.repeat(per_tracker, self.count)

    def total(self, per_torrent: NDArray[Any]) -> NDArray[Any]:
        """Sum an (N,) column by tracker: (G,)."""
        return np.add.reduceat(per_torrent, self.start) if len(self.start) else per_torrent[:0]


_PER_TRACKER: Final = {
    "start": np.int64,
    "base_cap": np.int64,
    "outside": np.int64,
    "wakeups": np.int64,
    "priority": np.int64,
    "guaranteed": np.int64,
    "hard": np.bool_,
    "may_lend": np.bool_,
    "may_borrow": np.bool_,
}
_PER_TORRENT: Final = {
    "infohash": np.bytes_,
    "rate": np.float64,
    "leechers": np.int64,
    "awake": np.bool_,
    "pressing": np.bool_,
    "current": np.int64,
    "floor": np.int64,
    "ceiling": np.int64,
}
_RANGES: Final = {
    "base_cap": (1, MAX_CAP),
    "outside": (0, MAX_CAP),
    "wakeups": (1, MAX_CAP),
    "priority": (1, 10),
    "guaranteed": (0, MAX_CAP),
    "rate": (0, 2.0**53),
    "leechers": (0, MAX_CAP),
    "current": (0, MAX_CAP),
    "floor": (0, MAX_LIMIT),
    "ceiling": (MIN_LIMIT, MAX_LIMIT),
}


def check_request(request: Request) -> None:
    """Refuse columns of the wrong type, length or range.

    Raises:
        ValueError: one sentence that names the column.
    """
    for columns, length in ((_PER_TRACKER, len(request.tracker)), (_PER_TORRENT, len(request.infohash))):
        for name, kind in columns.items():
            column = getattr(request, name)
            if not isinstance(column, np.ndarray) or not np.issubdtype(column.dtype, kind) or column.shape != (length,):
                raise ValueError(f"column {name} must hold {length} values of {kind.__name__}")
    for name, (least, most) in _RANGES.items():
        column = getattr(request, name)
        # Written so that NaN, of which nothing is true, fails too.
        if len(column) and not (column.min() >= least and column.max() <= most):
            raise ValueError(f"column {name} must be from {least} to {most}, not {column.min()} to {column.max()}")
    _check_order(request.start, len(request.infohash))
    if (request.pressing & ~request.awake).any():
        raise ValueError("column pressing: a torrent that sleeps does not press on its limit")
    if request.link is not None and not 1 <= request.link <= MAX_CAP:
        raise ValueError(f"link must be from 1 to {MAX_CAP}, not {request.link}")
    if not 0 <= request.elapsed < np.inf:
        raise ValueError(f"elapsed must be a number of seconds, not {request.elapsed}")


def _check_order(start: Int64, torrents: int) -> None:
    if len(start) and not (start[0] == 0 and start[-1] < torrents and (np.diff(start) > 0).all()):
        raise ValueError("column start must increase strictly from 0 and stay below the number of torrents")
    if bool(len(start)) != bool(torrents):
        raise ValueError("column start: every torrent needs a tracker, and every tracker a torrent")


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """A strategy's answer, aligned with the `Request` it answers."""

    limit: Int64
    """(N,) bytes/s, each from `MIN_LIMIT` to `MAX_LIMIT`."""
    effective_cap: Int64
    """(G,) bytes/s, the cap after lending."""
    standing: Int64
    """(G,) bytes/s, the most a sleeping torrent of the tracker holds; downloads may hold their floor instead."""
    conflicts: Mapping[str, str] = field(default_factory=dict)
    """Tracker id to one sentence that says why its cap cannot be kept."""


@dataclass(frozen=True, slots=True)
class Options:
    """The strategy settings of the configuration; each strategy takes what it needs."""

    min_torrent_upload_speed: int = 10 * 1024
    max_torrent_share: float = 0.6
    leechers_weight: float = 0.6
    full_score_leechers: int = 20
    full_score_rate: int = 2**20
    max_managed_torrents: int = 1000
    borrow_threshold_ratio: float = 0.9
    max_borrow_fraction: float = 0.5
    smoothing_alpha: float = 0.4
    min_effective_delta: float = 0.1
    max_overcommit: float = 1.5


class Allocator(Protocol):
    """A strategy: a pure function with a name.

    `state` is None at first and otherwise whatever the previous call returned; it is the caller's to keep, so a
    strategy must not change it in place. Mappings by tracker id in it can be forgotten tracker by tracker.

    A strategy that promises rates within the cap rather than limits says how far its limits may add up above the cap,
    by an attribute `overcommit` (at most the configured `max_overcommit`); for all others it is 1. Such a strategy is
    asked more often, since rates are kept by whoever watches them, and at a clean stop its limits are lowered until
    they fit the caps, the highest first. One that knows better offers a method `at_rest(request, given)`: (N,) limits
    in bytes/s instead of those it has just given, which must pass `check` with an overcommit of 1.

    One that keeps limits that are near enough by itself says so by an attribute `settles`: its raises do not wait then.
    """

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, Any]:  # noqa: ANN401 - opaque by design
        """Give every torrent of `request` a limit."""
        ...


AllocatorFactory = Callable[[Options], Allocator]


class UnknownStrategyError(LookupError):
    """No installed distribution offers a strategy of this name."""


class BadAllocationError(ValueError):
    """A strategy answered something that must not be sent to a client."""


def installed_strategies() -> tuple[str, ...]:
    """Names of all strategies that some installed distribution offers, sorted."""
    return tuple(sorted({point.name for point in entry_points(group=ENTRY_POINT_GROUP)}))


def load_strategy(name: str, options: Options) -> Allocator:
    """Make the strategy called `name`.

    Raises:
        UnknownStrategyError: no distribution offers it.
    """
    return _factory(name)(options)


@cache  # what is imported once stays, and looking through all that is installed takes 20 ms
def _factory(name: str) -> AllocatorFactory:
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        factory: AllocatorFactory = point.load()
        return factory
    raise UnknownStrategyError(f"no strategy {name!r} is installed; there are {', '.join(installed_strategies())}")


def overcommit_of(allocator: Allocator, options: Options) -> float:
    """How far the limits of a strategy may add up above the cap: 1.0 unless it says otherwise.

    Raises:
        ValueError: it says something that is no number.
    """
    said = float(getattr(allocator, "overcommit", 1.0))
    if not math.isfinite(said):
        raise ValueError(f"a strategy's overcommit must be a number, not {said}")
    return min(max(said, 1.0), options.max_overcommit)


def settles(allocator: Allocator) -> bool:
    """Whether a strategy gives a torrent another limit only where that is worth a write."""
    return bool(getattr(allocator, "settles", False))


def steers_rates(allocator: Allocator) -> bool:
    """Whether a strategy promises rates, by saying how far its limits may add up above the cap (be it by nothing)."""
    return hasattr(allocator, "overcommit")


def check(name: str, request: Request, answer: Allocation, *, overcommit: float = 1.0) -> None:
    """Refuse an answer that breaks the cap (I1) or that a client would take for unlimited (I2).

    The limits of a tracker's awake torrents and of its K highest sleeping ones must add up to no more than its
    effective cap (times `overcommit`) less what is used outside; effective caps must add up to no more than the sum of
    the base caps (or the link, when that is less), and not be above a cap that is `hard` or may not borrow. No torrent
    may hold more than its ceiling (I12). In a tracker named in `conflicts` every awake torrent must hold the smallest
    limit, and the sleeping ones their standing limit.

    Args:
        name: the strategy's name, for the message.
        request: what was asked.
        answer: what came back.
        overcommit: how far limits may add up above the cap (strategies that promise rates, not limits).

    Raises:
        BadAllocationError: one sentence with the strategy's name and the first fault found.
    """
    fault = _wrong_columns(request, answer)
    if fault is None and len(request.infohash):
        steps = (_wrong_limits, _wrong_caps, _wrong_standing)
        fault = next(filter(None, (step(request, answer) for step in steps)), None)
        fault = fault or _broken_cap(request, answer, overcommit)
    if fault:
        raise BadAllocationError(f"strategy {name!r} is refused, nothing was written: it gave {fault}")


def _wrong_columns(request: Request, answer: Allocation) -> str | None:
    torrents, trackers = len(request.infohash), len(request.tracker)
    for name, length in (("limit", torrents), ("effective_cap", trackers), ("standing", trackers)):
        column = getattr(answer, name)
        if not isinstance(column, np.ndarray) or column.shape != (length,) or column.dtype != np.int64:
            is_ = f"{column.dtype} of shape {column.shape}" if isinstance(column, np.ndarray) else type(column).__name__
            return f"{name} as {is_}; {length} values of int64 are wanted"
    return None


def _wrong_limits(request: Request, answer: Allocation) -> str | None:
    limit = answer.limit
    if limit.min() < MIN_LIMIT or limit.max() > MAX_LIMIT:
        found = f"limits from {limit.min()} to {limit.max()}"
        return f"{found}, outside of {MIN_LIMIT} to {MAX_LIMIT}: the client would take them for unlimited"
    for row in np.flatnonzero(limit > request.ceiling):
        return f"a limit of {limit[row]} B/s to a torrent that may hold {request.ceiling[row]} B/s at most"
    return None


def _wrong_caps(request: Request, answer: Allocation) -> str | None:
    cap, base = answer.effective_cap, request.base_cap
    # Before anything is added up: what is out of range may wrap round.
    if cap.min() < 0 or cap.max() > MAX_CAP:
        return f"effective caps from {cap.min()} to {cap.max()}, outside of 0 to {MAX_CAP}"
    for g in np.flatnonzero((request.hard | ~request.may_borrow) & (cap > base)):
        return f"tracker {request.tracker[g]!r} {cap[g]} B/s, more than its own cap, which it may not exceed"
    pool = int(base.sum()) if request.link is None else min(request.link, int(base.sum()))
    if int(cap.sum()) > pool:
        return f"effective caps that add up to {int(cap.sum())} B/s, more than the {pool} B/s there are"
    return None


def _wrong_standing(request: Request, answer: Allocation) -> str | None:
    most = np.maximum(request.base_cap * STANDING_SHARE, request.wakeups)
    for g in np.flatnonzero((answer.standing < MIN_LIMIT) | (answer.standing > most / request.wakeups)):
        part = f"{STANDING_SHARE:.0%} of its cap for {request.wakeups[g]} torrents"
        return f"tracker {request.tracker[g]!r} a standing limit of {answer.standing[g]} B/s, outside of 1 to {part}"
    return None


def _broken_cap(request: Request, answer: Allocation, overcommit: float) -> str | None:
    promised = promised_rate(request, answer.limit)
    available = np.floor(answer.effective_cap * overcommit).astype(np.int64) - request.outside
    for g in np.flatnonzero(promised > available):
        tracker = request.tracker[g]
        rows = slice(request.start[g], request.start[g] + request.count[g])
        awake = request.awake[rows]
        at_rest = ~awake & (request.floor[rows] == 0)
        squeezed = (answer.limit[rows][awake] <= MIN_LIMIT).all()
        resting = (answer.limit[rows][at_rest] <= answer.standing[g]).all()
        if tracker not in answer.conflicts or not (squeezed and resting):
            return f"tracker {tracker!r} limits that add up to {promised[g]} B/s, over its cap of {available[g]} B/s"
    return None


def promised_rate(request: Request, limit: Int64) -> Int64:
    """(G,) what each tracker's torrents may upload at once: awake ones, held downloads and the K highest sleepers.

    A sleeping download with a floor is counted in full, like an awake torrent: its floor is above any standing limit.
    """
    counted = request.awake | (request.floor > 0)
    promised: Int64 = request.total(np.where(counted, limit, 0)).astype(np.int64)
    for g, (first, size) in enumerate(zip(request.start, request.count, strict=True)):
        rows = slice(first, first + size)
        sleeping = np.sort(limit[rows][~counted[rows]])
        k = int(request.wakeups[g])
        promised[g] += sleeping[max(len(sleeping) - k, 0) :].sum()
    return promised

"""A strategy taken through a history of requests, as cycles do it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from allocators.base import Allocation, Allocator, Options, Request, load_strategy

STRATEGIES = ("equal", "weighted", "soft", "adaptive")
LENDING = ("soft", "adaptive")

strategy = cache(load_strategy)
"""To look through what is installed takes longer than to answer; strategies hold nothing themselves."""

options = st.builds(
    Options,
    min_torrent_upload_speed=st.sampled_from([10240, 0, 1, 2**30]),
    max_torrent_share=st.sampled_from([0.6, 1.0, 0.01]),
    max_managed_torrents=st.sampled_from([1000, 1, 3]),
    borrow_threshold_ratio=st.sampled_from([0.9, 0.5, 1.0]),
    max_borrow_fraction=st.sampled_from([0.5, 0.0, 1.0]),
    smoothing_alpha=st.sampled_from([0.4, 0.0, 1.0]),
    min_effective_delta=st.sampled_from([0.1, 0.0, 1.0]),
    max_overcommit=st.sampled_from([1.5, 1.0, 1.1]),
)


@dataclass(frozen=True)
class Step:
    """One request, what was remembered before it, and what came back."""

    allocator: Allocator
    request: Request
    before: Any
    answer: Allocation
    after: Any


def steps(
    name: str,
    history: list[Request],
    chosen: Options | None = None,
    *,
    see: Callable[[Request], Request] = lambda request: request,
) -> Iterator[Step]:
    """The answers of a strategy; the client holds what it was given, and `see` may change what the strategy is told."""
    allocator = strategy(name, chosen or Options())
    state, held = None, {}
    for request in history:
        now = see(holding(request, held))
        answer, after = allocator.allocate(now, state)
        yield Step(allocator, now, state, answer, after)
        state = after
        held |= dict(zip(now.infohash.tolist(), answer.limit.tolist(), strict=True))


def holding(request: Request, held: dict[bytes, int]) -> Request:
    """The request with the limits that the client has by now."""
    current = [held.get(h, c) for h, c in zip(request.infohash.tolist(), request.current.tolist(), strict=True)]
    return replace(request, current=np.array(current, np.int64))


def pool(request: Request) -> int:
    """What all effective caps may add up to, bytes/s."""
    everything = sum(map(int, request.base_cap))
    return everything if request.link is None else min(everything, request.link)


def counted(request: Request) -> np.ndarray:
    """(N,) torrents whose limits count in full: awake ones, and downloads, which hold their floor asleep."""
    return request.awake | (request.floor > 0)


def rows_of(request: Request) -> Iterator[tuple[int, str, slice]]:
    """Index, id and rows of each tracker."""
    for g, tracker in enumerate(request.tracker):
        yield g, tracker, slice(int(request.start[g]), int(request.start[g] + request.count[g]))


def asleep_total(request: Request, limit: np.ndarray, g: int, rows: slice) -> int:
    """What the K sleepers with the highest limits hold, bytes/s."""
    sleeping = sorted(limit[rows][~counted(request)[rows]].tolist(), reverse=True)
    return sum(sleeping[: int(request.wakeups[g])])

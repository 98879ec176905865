"""Any request that a strategy may be asked."""

import numpy as np
from hypothesis import strategies as st

from allocators.base import MAX_LIMIT, Request
from allocators.standing import DEFAULT_WAKEUPS

caps = st.one_of(st.integers(1, 64), st.integers(1, 2**20), st.integers(1, 2**42))
limits = st.one_of(st.just(0), st.integers(1, 4096), st.integers(1, MAX_LIMIT))
ceilings = st.one_of(st.just(MAX_LIMIT), st.integers(1, 4096), st.integers(1, MAX_LIMIT))


def infohashes(count: int) -> np.ndarray:
    return np.array([f"{i:040x}" for i in range(count)], "S40")


@st.composite
def requests(draw: st.DrawFn, *, most_trackers: int = 4, most_torrents: int = 12, linked: bool = True) -> Request:
    """Trackers and torrents of every kind: tiny and huge caps, all asleep, all awake, downloads, owners' limits."""
    sizes = draw(st.lists(st.integers(1, most_torrents), min_size=0, max_size=most_trackers))
    trackers, torrents = len(sizes), sum(sizes)

    def per_tracker(values: st.SearchStrategy[int]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=trackers, max_size=trackers)), np.int64)

    def per_torrent(values: st.SearchStrategy[int]) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=torrents, max_size=torrents)), np.int64)

    base_cap = per_tracker(caps)
    ceiling = per_torrent(ceilings)
    awake = per_torrent(st.integers(0, 1)).astype(bool)
    downloading = per_torrent(st.integers(0, 4)) == 0
    return Request(
        tracker=tuple(f"t{g}" for g in range(trackers)),
        start=np.cumsum([0, *sizes[:-1]], dtype=np.int64)[:trackers],
        base_cap=base_cap,
        outside=np.minimum(per_tracker(st.one_of(st.just(0), caps)), base_cap),
        wakeups=np.full(trackers, DEFAULT_WAKEUPS, np.int64) + per_tracker(st.integers(0, 20)),
        priority=per_tracker(st.integers(1, 10)),
        guaranteed=np.minimum(per_tracker(st.one_of(st.just(0), caps)), base_cap),
        hard=per_tracker(st.integers(0, 1)).astype(bool),
        may_lend=per_tracker(st.integers(0, 1)).astype(bool),
        may_borrow=per_tracker(st.integers(0, 1)).astype(bool),
        infohash=infohashes(torrents),
        rate=per_torrent(st.integers(0, 10**8)).astype(float),
        leechers=per_torrent(st.integers(0, 50)),
        awake=awake,
        pressing=awake & per_torrent(st.integers(0, 1)).astype(bool),
        current=per_torrent(limits),
        floor=np.where(downloading, np.minimum(20480, ceiling), 0),
        ceiling=ceiling,
        link=draw(st.one_of(st.none(), caps)) if linked else None,
        elapsed=draw(st.sampled_from([0.0, 1.5, 5.0, 300.0])),
    )

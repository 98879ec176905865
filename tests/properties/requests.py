"""Any request that a strategy may be asked, and any history of them.

Drawn as bytes, some for each tracker and each torrent, and decoded as columns: a list drawn value by value would take
longer than the strategies themselves. Zero bytes are the plainest request there is, so that examples shrink to it.
"""

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from allocators.base import MAX_LIMIT, Request
from allocators.standing import DEFAULT_WAKEUPS

PER_TRACKER = 32
PER_TORRENT = 20
ELAPSED = (5.0, 0.0, 0.5, 1.0, 1.5, 4.9, 15.0, 300.0)


def infohashes(count: int) -> np.ndarray:
    return np.array([f"{i:040x}" for i in range(count)], "S40")


def _log(raw: np.ndarray, most_bits: int) -> np.ndarray:
    """0 to 2^most_bits - 1 of columns of 1 + 8 bytes, every order of magnitude as likely."""
    bits = np.minimum(raw[:, 0] % (most_bits + 2), most_bits).astype(np.uint64)
    number = np.ascontiguousarray(raw[:, 1:9]).view("<u8").reshape(-1)
    return (number & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _decode(sizes: list[int], trackers: np.ndarray, torrents: np.ndarray) -> Request:
    g, n = len(sizes), sum(sizes)
    base_cap = 1 + _log(trackers[:, :9], 42)
    kind = trackers[:, 27]
    flags = trackers[:, 28]
    outside = np.where(kind % 4 == 3, np.minimum(_log(trackers[:, 9:18], 42), base_cap), 0)
    guaranteed = np.where(kind // 4 % 2, np.minimum(_log(trackers[:, 18:27], 42), base_cap), 0)

    awake = torrents[:, 0] % 2 == 1
    downloading = torrents[:, 0] // 4 % 4 == 3
    small = 1 + (torrents[:, 11].astype(np.int64) | (torrents[:, 12].astype(np.int64) << 4))
    any_limit = np.minimum(1 + _log(np.column_stack([torrents[:, 10:14], torrents[:, 2:7]]), 31), MAX_LIMIT)
    ceiling = np.select([torrents[:, 14] % 3 == 1, torrents[:, 14] % 3 == 2], [small, any_limit], MAX_LIMIT)
    held = np.minimum(1 + _log(np.column_stack([torrents[:, 15:19], torrents[:, 3:8]]), 31), MAX_LIMIT)
    return Request(
        tracker=tuple(f"t{i}" for i in range(g)),
        start=np.cumsum([0, *sizes[:-1]], dtype=np.int64)[:g],
        base_cap=base_cap,
        outside=outside,
        wakeups=DEFAULT_WAKEUPS + trackers[:, 29].astype(np.int64) % 21,
        priority=1 + trackers[:, 30].astype(np.int64) % 10,
        guaranteed=guaranteed,
        hard=flags % 4 == 3,
        may_lend=flags // 4 % 4 != 3,
        may_borrow=flags // 16 % 4 != 3,
        infohash=infohashes(n),
        rate=_log(torrents[:, 1:10], 27).astype(np.float64),
        leechers=torrents[:, 9].astype(np.int64) % 51,
        awake=awake,
        pressing=awake & (torrents[:, 0] // 2 % 2 == 1),
        current=np.where(torrents[:, 19] % 2, held, 0),
        floor=np.where(downloading, np.minimum(20480, ceiling), 0),
        ceiling=ceiling,
    )


def _bytes(draw: st.DrawFn, rows: int, width: int) -> np.ndarray:
    raw = draw(st.binary(min_size=rows * width, max_size=rows * width))
    return np.frombuffer(raw, np.uint8).reshape(rows, width)


def _link(draw: st.DrawFn, request: Request) -> int | None:
    """None, any, or one that the caps just do not fit into: a fraction of their sum."""
    kind, sixteenths = divmod(draw(st.integers(0, 64)), 16)
    if kind in {0, 4} or not len(request.tracker):
        return None
    if kind == 1:
        return int(1 + _log(_bytes(draw, 1, 9), 42)[0])
    return min(max(int(request.base_cap.sum()) * sixteenths // 16, 1), 2**42)


@st.composite
def requests(draw: st.DrawFn, *, most_trackers: int = 4, most_torrents: int = 12, linked: bool = True) -> Request:
    """Trackers and torrents of every kind: tiny and huge caps, all asleep, all awake, downloads, owners' limits."""
    sizes = draw(st.lists(st.integers(1, most_torrents), min_size=0, max_size=most_trackers))
    request = _decode(sizes, _bytes(draw, len(sizes), PER_TRACKER), _bytes(draw, sum(sizes), PER_TORRENT))
    return replace(
        request, link=_link(draw, request) if linked else None, elapsed=ELAPSED[draw(st.integers(0, len(ELAPSED) - 1))]
    )


def subset(request: Request, present: np.ndarray) -> Request:
    """The request without the torrents that are not `present`, and without the trackers that have none left."""
    count = request.total(present).astype(np.int64)
    some = count > 0
    columns = {
        name: getattr(request, name)[some]
        for name in (
            "base_cap",
            "outside",
            "wakeups",
            "priority",
            "guaranteed",
            "hard",
            "may_lend",
            "may_borrow",
        )
    }
    rows = {
        name: getattr(request, name)[present]
        for name in ("infohash", "rate", "leechers", "awake", "pressing", "current", "floor", "ceiling")
    }
    sizes = count[some]
    return replace(
        request,
        tracker=tuple(np.array(request.tracker)[some].tolist()),
        start=(np.cumsum(sizes) - sizes).astype(np.int64),
        **columns,
        **rows,
    )


@st.composite
def histories(
    draw: st.DrawFn, *, most_trackers: int = 3, most_torrents: int = 6, most: int = 6, linked: bool = True
) -> list[Request]:
    """Requests one after another of the same client: rates and limits change, trackers and torrents come and go."""
    sizes = draw(st.lists(st.integers(1, most_torrents), min_size=1, max_size=most_trackers))
    trackers, torrents = _bytes(draw, len(sizes), PER_TRACKER), _bytes(draw, sum(sizes), PER_TORRENT)
    link = _link(draw, _decode(sizes, trackers, torrents)) if linked else None
    history = []
    for turn in range(draw(st.integers(2, most))):
        if turn:
            # What changes: of each torrent half of the time everything, of a tracker its settings every eighth time.
            switch, tracker_switch = _bytes(draw, sum(sizes), 1), _bytes(draw, len(sizes), 1)
            torrents = np.where(switch % 2 == 1, _bytes(draw, sum(sizes), PER_TORRENT), torrents)
            trackers = np.where(tracker_switch % 8 == 7, _bytes(draw, len(sizes), PER_TRACKER), trackers)
            gone = (switch[:, 0] // 2 % 8 == 7) | np.repeat(tracker_switch[:, 0] // 8 % 8 == 7, sizes)
        else:
            gone = np.zeros(sum(sizes), np.bool_)
        elapsed = ELAPSED[draw(st.integers(0, len(ELAPSED) - 1))] if turn else 0.0
        whole = replace(_decode(sizes, trackers, torrents), link=link, elapsed=elapsed)
        history.append(subset(whole, ~gone))
    return history

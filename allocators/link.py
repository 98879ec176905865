"""The line that all trackers share, above their caps."""

import numpy as np

from allocators.base import Bool, Int64
from allocators.standing import SHARE
from allocators.waterfill import waterfill


def caps_within_link(base_cap: Int64, priority: Int64, busy: Bool, link: int | None) -> tuple[Int64, Int64]:
    """Hold the caps of all trackers together within the link, without lending.

    Where the caps fit, they stay. Where they do not, the link is split by weighted max-min with the priorities as
    weights. Trackers with no torrent awake leave their part to the others, except what their standing limits need.

    Args:
        base_cap: (G,) bytes/s.
        priority: (G,) weights.
        busy: (G,) whether any torrent of the tracker is awake.
        link: bytes/s, None when not known.

    Returns:
        Two (G,) columns: each tracker's effective cap, and the cap that its standing limits are measured against. The
        latter does not depend on who is awake, so that sleepers are not rewritten whenever a tracker wakes.
    """
    if link is None or int(base_cap.sum()) <= link or not len(base_cap):
        return base_cap, base_cap
    one = np.zeros(1, np.int64)
    none = np.zeros(len(base_cap), np.int64)
    resting = waterfill(np.array([link], np.int64), one, priority, none, base_cap)
    reserve = np.where(busy, 0, (resting * SHARE).astype(np.int64))
    if not busy.any():
        return reserve, resting
    pool = np.array([link - int(reserve.sum())], np.int64)
    return reserve + waterfill(pool, one, priority, none, np.where(busy, base_cap, 0)), resting

"""The line that all trackers share, above their caps."""

import numpy as np

from allocators.base import Int64, Request
from allocators.standing import SHARE
from allocators.waterfill import waterfill

_ONE = np.zeros(1, np.int64)


def resting_caps(request: Request) -> Int64:
    """(G,) the caps that standing limits are measured against, bytes/s: the part of the link that each is due.

    They do not depend on who is awake, so that sleepers are not rewritten whenever a tracker wakes. Where all caps fit
    into the link, they are the caps; where not, the link is split by weighted max-min with the priorities as weights.
    """
    if request.link is None or int(request.base_cap.sum()) <= request.link:
        return request.base_cap
    link = np.array([request.link], np.int64)
    return waterfill(link, _ONE, request.priority, np.zeros_like(request.base_cap), request.base_cap)


def caps_within_link(request: Request) -> tuple[Int64, Int64]:
    """Hold the caps of all trackers together within the link, without lending.

    Trackers where nothing is uploaded leave their part to the others, except what their standing limits need. What is
    used outside of our control cannot be taken back, so a tracker's part is no smaller than that.

    Returns:
        Two (G,) columns in bytes/s: each tracker's effective cap, and its resting cap (see `resting_caps`).
    """
    resting = resting_caps(request)
    base = request.base_cap
    if request.link is None or int(base.sum()) <= request.link:
        return base, resting
    busy = request.total(request.awake | (request.floor > 0)).astype(bool) | (request.outside > 0)
    reserve = np.where(busy, 0, (resting * SHARE).astype(np.int64))
    if not busy.any():
        return reserve, resting
    pool = np.array([request.link - int(reserve.sum())], np.int64)
    lo = np.minimum(request.outside, base)
    return reserve + waterfill(pool, _ONE, request.priority, lo, np.where(busy, base, 0)), resting

"""How much each torrent may want, as far as its rate and its limit tell.

A torrent below its limit shows what it wants: its rate. It is given some headroom above that, so that more demand can
be seen at all. One that presses on its limit shows only that it wants at least that much.

A torrent presses from 0.90 of its limit on (`qguard.demand`), and 0.90 * `TIGHT` is well above 1: a torrent that has
its headroom does not seem to press, noise included. With a product near 1 or below, limits would never settle.
"""

from typing import Final

import numpy as np

from allocators.base import Float64, Request

HEADROOM: Final = 1.25
"""Times its rate: what a torrent is given that does not press on its limit."""

LEAST_ROOM: Final = 4096
"""Bytes/s on top of that: a quarter of next to nothing would be no headroom."""

TIGHT: Final = 1.2
"""Times its rate: what a torrent was given before is kept unless it is below this, or twice what it would get now."""

QUICK_START: Final = 16
"""A torrent that presses is taken to want at least this part (1/16) of its tracker's cap, or an equal part where there
are fewer torrents: all four of a lender that wake together have its whole cap back at once."""


def claims(request: Request, before: Float64) -> Float64:
    """(N,) what the torrents that do not press may want: their rate and headroom, bytes/s.

    Args:
        request: the torrents.
        before: (N,) their claims of the request before, kept where they still fit, so that noise changes nothing.
    """
    fitting = request.rate * HEADROOM + LEAST_ROOM
    fits = (before >= request.rate * TIGHT) & (before <= 2 * fitting)
    return np.where(fits, before, fitting)


def taken(request: Request, claim: Float64, reached: Float64) -> Float64:
    """(G,) what each tracker's torrents take up: of those that press all they may, of the others the claims, bytes/s.

    What is used outside of our control is included. Claims and not rates: headroom cannot be used, and a tracker whose
    cap is handed out to the last byte uses nine tenths of it at best.

    Args:
        request: the torrents.
        claim: (N,) see `claims`.
        reached: (N,) see `allocators.memory`, bytes/s. Not limits: what is written must not change what is wanted, or
            the same snapshot would be answered differently the second time.
    """
    full = np.maximum(request.rate, reached)
    part = np.where(request.awake, np.where(request.pressing, full, claim), request.floor)
    total: Float64 = request.total(part) + request.outside
    return total


def demand(request: Request, claim: Float64, reached: Float64) -> Float64:
    """(G,) what each tracker may want, held downloads and what is used outside of our control included, bytes/s.

    A torrent that presses counts with twice what it uploads or may upload by now: were it taken to want without bounds,
    no tracker with a busy torrent would ever lend anything. Not with twice its limit: what is written must not change
    what is wanted at the same moment.

    Args:
        request: the torrents.
        claim: (N,) see `claims`.
        reached: (N,) see `allocators.memory`, bytes/s.
    """
    least = request.base_cap / np.minimum(QUICK_START, request.count)
    most = np.maximum(2 * np.maximum(request.rate, reached), request.spread(least))
    wanted = np.where(request.awake, np.where(request.pressing, most, claim), 0.0)
    wanted = np.minimum(np.maximum(wanted, request.floor), request.ceiling)
    total: Float64 = request.total(wanted) + request.outside
    return total

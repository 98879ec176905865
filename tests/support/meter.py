"""Counts bytes over time, in buckets of a tenth of a second of the monotonic clock."""

import time
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

BUCKET: Final = 0.1


class Meter:
    """Bytes received, by time; written by one thread, readable by any."""

    def __init__(self) -> None:
        self.total = 0
        self._start = int(time.monotonic() / BUCKET)
        self._buckets: list[int] = []

    def count(self, size: int, now: float) -> None:
        """Add bytes received at a time of the monotonic clock."""
        index = int(now / BUCKET) - self._start
        buckets = self._buckets
        if index >= len(buckets):
            buckets.extend([0] * (index + 1 - len(buckets)))
        buckets[index] += size
        self.total += size

    def series(self, t0: float, t1: float) -> npt.NDArray[np.int64]:
        """Bytes in each bucket from the one that holds `t0` up to the one that holds `t1`, that one left out."""
        first, last = int(t0 / BUCKET) - self._start, int(t1 / BUCKET) - self._start
        got = np.zeros(max(0, last - first), dtype=np.int64)
        known = self._buckets[max(0, first) : max(0, last)]
        offset = max(0, -first)
        got[offset : offset + len(known)] = known
        return got


def rate(meters: Iterable[Meter], t0: float, t1: float) -> float:
    """Mean bytes/s of several meters together between two times, to the bucket.

    Raises:
        ValueError: the times are less than one bucket apart.
    """
    series = _sum(meters, t0, t1)
    return float(series.sum()) / (len(series) * BUCKET)


def window_max(meters: Iterable[Meter], seconds: float, t0: float, t1: float) -> float:
    """The largest mean in bytes/s that several meters together show in any window of `seconds` between two times.

    Raises:
        ValueError: the window is longer than the time between `t0` and `t1`, or shorter than one bucket.
    """
    series = _sum(meters, t0, t1)
    width = round(seconds / BUCKET)
    if not 1 <= width <= len(series):
        raise ValueError(f"no window of {seconds:g} s fits between times {t1 - t0:g} s apart")
    sums = np.concatenate(([0], np.cumsum(series)))
    return float((sums[width:] - sums[:-width]).max()) / (width * BUCKET)


def _sum(meters: Iterable[Meter], t0: float, t1: float) -> npt.NDArray[np.int64]:
    rows = [meter.series(t0, t1) for meter in meters]
    if not rows or not len(rows[0]):
        raise ValueError(f"nothing to measure between times {t1 - t0:g} s apart, with {len(rows)} meter(s)")
    total: npt.NDArray[np.int64] = np.sum(rows, axis=0, dtype=np.int64)
    return total

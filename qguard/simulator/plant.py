"""What libtorrent lets through: token buckets with correlated ticks, late limits, overshoot after cuts.

A fluid model of what was measured on real clients; the numbers that were fitted are the constants below, and
`make calibrate` compares the result with a real one. In short: a torrent's limit is kept to about +1 % over a minute;
within seconds the sum of all swings by a third, because all buckets are filled by one tick; a limit takes effect one to
two seconds late; and after a deep cut what was granted already goes out at the old rate, followed by lumps.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from allocators.base import Bool, Float64, Int64

TICK: Final = 0.5
"""Seconds between two fillings of the buckets."""

BUCKET: Final = 3.0
"""Seconds of its limit that a bucket holds at most."""

BANKED: Final = 0.5
"""Seconds of its limit that stay in the bucket of a torrent that does not use it up: an idle one banks no burst."""

EXCESS: Final = 0.013
"""How far a limit is exceeded in the mean."""

HELD: Final = 0.45
"""Seconds of its limit that lie in a bucket in the mean, held back by the order in which peers are served."""

SWING: Final = 0.16
"""Seconds: how far that swings, for all torrents together."""

OWN_SWING: Final = 0.17
"""Seconds: how far it swings for each torrent besides."""

SWING_TIME: Final = 4.0
"""Seconds: time constant of both."""

LATE: Final = 2
"""Ticks until a new limit is in force."""

GRANTED: Final = 1.3
"""Seconds of the old rate that still go out once a deep cut is in force; with `LATE`, 1.8 s in all."""

SHALLOW: Final = 0.4
"""Part of a limit up to which a cut is followed at once; a cut by twice that and more is a deep one."""

LUMPS_FOR: Final = 10.0
"""Seconds after a deep cut for which requests of the old size are waited for and handed out whole."""

LUMP: Final = 2.0
"""Seconds of the new limit that such a request is worth at most."""

RECENT: Final = 0.3
"""Part of the newest tick in a torrent's recent rate."""

BLOCK: Final = 16384
"""Bytes: what a leecher asks for at a time."""

SLOWEST_BLOCK: Final = 10.0
"""Seconds after which a part of a block goes out."""


@dataclass(slots=True)
class Plant:
    """The upload of N torrents. Time is in ticks of half a second; all amounts are in bytes, all rates in bytes/s."""

    rng: np.random.Generator
    limit: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) as set, 0 for none."""
    in_force: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    late: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) ticks until `limit` is in force."""
    quota: Float64 = field(default_factory=lambda: np.zeros(0))
    granted: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) what goes out regardless of the limit, after a cut."""
    old: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) the rate before the cut, at which that goes out."""
    lump: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) size of the requests that are waited for, after a cut."""
    lumps_for: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) seconds for which that goes on."""
    rate: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) mean rate of the last seconds."""
    own: Float64 = field(default_factory=lambda: np.zeros(0))
    together: float = 0.0

    def __len__(self) -> int:
        """How many torrents."""
        return len(self.limit)

    def keep(self, rows: Int64) -> None:
        """Keep these torrents, in this order; -1 is a new one."""
        for name in ("limit", "in_force", "late", "quota", "granted", "old", "lump", "lumps_for", "rate", "own"):
            column = getattr(self, name)
            kept = np.zeros(len(rows), column.dtype)
            kept[rows >= 0] = column[rows[rows >= 0]]
            setattr(self, name, kept)

    def set_limit(self, rows: Int64, limit: int) -> None:
        """A limit in bytes/s, 0 for none; in force after `LATE` ticks. What is set already changes nothing."""
        rows = rows[self.limit[rows] != limit]
        self.limit[rows] = limit
        self.late[rows] = LATE

    def step(self, demand: Float64, whole_limit: int = 0) -> Float64:
        """One tick.

        Args:
            demand: (N,) what the leechers would take, bytes/s.
            whole_limit: of the client as a whole, bytes/s, 0 for none.

        Returns:
            (N,) bytes that went out.
        """
        self._take_effect()
        self._swing()
        limited = self.in_force > 0
        limit = self.in_force.astype(np.float64)
        wanted = demand * TICK
        filled = self.quota + limit * TICK * (1 + EXCESS)
        block = np.clip(SLOWEST_BLOCK * limit, 1.0, BLOCK)
        filled = np.minimum(filled, np.maximum(BUCKET * limit, 2 * block))
        held = np.clip(HELD + SWING * self.together + OWN_SWING * self.own, 0.0, 1.2) * limit
        allowed = np.maximum(filled - held, 0.0)
        allowed = np.where(allowed >= self.lump, allowed, 0.0)
        # Whole blocks, where one tick is worth less than a few.
        coarse = limit * TICK < 4 * BLOCK
        allowed = np.where(coarse, np.floor(allowed / block) * block, allowed)
        sent = np.minimum(wanted, allowed)
        late = np.minimum(np.minimum(self.granted, self.old * TICK), np.maximum(wanted - sent, 0.0))
        self.granted -= late
        self.granted[wanted <= 0] = 0.0
        after = filled - sent
        unused = wanted < allowed
        self.quota = np.where(limited, np.where(unused, np.minimum(after, BANKED * limit + block * coarse), after), 0.0)
        sent = np.where(limited, sent + late, wanted)
        if whole_limit and (total := float(sent.sum())) > whole_limit * TICK:
            sent = sent * (whole_limit * TICK / total)
        self.rate += RECENT * (sent / TICK - self.rate)
        return sent

    def _take_effect(self) -> None:
        """Limits that were set `LATE` ticks ago; what was granted before a deep cut still goes out."""
        self.lumps_for = np.maximum(self.lumps_for - TICK, 0.0)
        self.lump[self.lumps_for <= 0] = 0.0
        due: Bool = self.late == 1
        self.late = np.maximum(self.late - 1, 0)
        if not due.any():
            return
        rows = np.flatnonzero(due)
        new, rate = self.limit[rows].astype(np.float64), self.rate[rows]
        depth = np.where((new > 0) & (rate > new), 1 - new / np.maximum(rate, 1.0), 0.0)
        deep = np.clip((depth - SHALLOW) / SHALLOW, 0.0, 1.0)
        self.granted[rows], self.old[rows] = deep * GRANTED * rate, rate
        self.lump[rows] = np.where(deep > 0, np.minimum(rate, LUMP * new), 0.0)
        self.lumps_for[rows] = np.where(deep > 0, LUMPS_FOR, 0.0)
        self.quota[rows] = np.minimum(self.quota[rows], new)
        self.in_force[rows] = self.limit[rows]

    def _swing(self) -> None:
        part = np.exp(-TICK / SWING_TIME)
        spread = np.sqrt(1 - part**2)
        self.together = part * self.together + spread * self.rng.standard_normal()
        self.own = part * self.own + spread * self.rng.standard_normal(len(self.own))

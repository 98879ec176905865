"""What libtorrent lets through: quota that is asked for in advance, by the second, and handed out twice a second.

A fluid model of libtorrent's own mechanism, with one peer for each torrent. A peer asks for as much quota as it used
in a second, and may send once all of it has come together. Hence a limit is kept in the mean while ten seconds may be a
tenth above it; a first limit lets a second of the old rate go out; and after a deep cut a peer is silent until a second
of its old rate has come together at the new one, which it then sends at once.
`make calibrate` compares this with a real client; docs/simulator.md says how the constants were found.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from allocators.base import Bool, Float64, Int64

TICK: Final = 0.5
"""Seconds between two turns of handing out quota."""

BUCKET: Final = 3.0
"""Seconds of its limit that a torrent's quota can hold."""

PASS: Final = 1.0
"""Seconds of its limit that must stay in the quota for a request to be granted at once, without waiting for a turn."""

PATIENCE: Final = 20
"""Turns after which a request is granted as much as has come together."""

ASKED: Final = 1.06
"""Seconds of its recent rate that a peer asks for. More than one, so that the quota is used up and a turn is missed
now and then: that is the swing over ten seconds."""

BUFFER: Final = 16_384.0
"""Bytes that a peer asks for at least: a block that lies ready to be sent."""

WATERMARK: Final = 512_000.0
"""Bytes that lie ready to be sent at most."""

CHUNK: Final = (0.25, 1.0)
"""From which to which part of what lies ready (half a second of its rate) a peer sends before it asks again. From then
on it sends a small and a large part in turn. The same for all torrents: those that began together swing together."""

RECENT: Final = 0.2
"""Part of the newest second in a torrent's recent rate."""

LATE: Final = 0.4
"""Part of the new limits that are in force one turn later than the next."""

JITTER: Final = 0.4
"""How late a turn is, in turns: a half-normal deviate of this size, for all torrents the same. The next makes up for
it."""


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
    """(N,) of the torrent, not handed out yet."""
    missing: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) what the peer's request still waits for, 0 for no request."""
    gathered: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) what has come together for that request."""
    waited: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) ticks since the request was made."""
    granted: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) what the peer may send."""
    rate: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) mean rate of the last seconds, as it was found once a second."""
    second: Float64 = field(default_factory=lambda: np.zeros(0))
    """(N,) bytes of this second."""
    turn: int = 0
    whole_quota: float = 0.0
    """Of the client as a whole, not handed out yet."""
    lateness: float = 0.0
    """Of the last turn, in ticks, 0 to 1."""

    def __len__(self) -> int:
        """How many torrents."""
        return len(self.limit)

    def keep(self, rows: Int64) -> None:
        """Keep these torrents, in this order; -1 is a new one."""
        for name in (
            "limit",
            "in_force",
            "late",
            "quota",
            "missing",
            "gathered",
            "waited",
            "granted",
            "rate",
            "second",
        ):
            column = getattr(self, name)
            kept = np.zeros(len(rows), column.dtype)
            kept[rows >= 0] = column[rows[rows >= 0]]
            setattr(self, name, kept)

    def set_limit(self, rows: Int64, limit: int) -> None:
        """A limit in bytes/s, 0 for none; in force with the next turn or the one after. The same again does nothing."""
        rows = rows[self.limit[rows] != limit]
        self.limit[rows] = limit
        self.late[rows] = 1 + int(self.rng.random() < LATE)

    def step(self, demand: Float64, whole_limit: int = 0) -> Float64:
        """One tick.

        Args:
            demand: (N,) what the leechers would take, bytes/s.
            whole_limit: of the client as a whole, bytes/s, 0 for none.

        Returns:
            (N,) bytes that went out.
        """
        due: Bool = self.late == 1
        self.in_force[due] = self.limit[due]
        self.late = np.maximum(self.late - 1, 0)
        before, self.lateness = self.lateness, min(1.0, JITTER * abs(float(self.rng.standard_normal())))
        own: Bool = self.in_force > 0
        limited: Bool = own | (whole_limit > 0)
        self._hand_out(own, whole_limit, TICK * (1 + self.lateness - before))
        wanted = demand * TICK
        asked = np.maximum(ASKED * self.rate, BUFFER)
        sent = np.where(limited, self._send(wanted, asked, own, whole_limit), wanted)
        if not limited.all():
            # Nothing stands in the way: requests are granted when they are made, and the last is not used up yet.
            self.granted = np.where(limited, self.granted, np.where(wanted > 0, asked, 0.0))
            self.missing[~limited] = self.gathered[~limited] = 0.0
            self.waited[~limited] = 0
        self.quota[~own] = 0.0
        self.second += sent
        self.turn += 1
        if self.turn % round(1 / TICK) == 0:
            self.rate += RECENT * (self.second - self.rate)
            self.second = np.zeros(len(self))
        return sent

    def _hand_out(self, own: Bool, whole_limit: int, elapsed: float) -> None:
        """Fill the quotas that are waited for, and grant the requests that are complete or have waited for long."""
        waiting: Bool = self.missing > 0
        limit = self.in_force.astype(np.float64)
        filled = np.minimum(self.quota + limit * elapsed, BUCKET * limit)
        self.quota = np.where(waiting & own, filled, self.quota)
        share = np.where(own, self.quota, np.inf)
        if not whole_limit:
            self.whole_quota = 0.0
        elif waiting.any():
            self.whole_quota = min(self.whole_quota + whole_limit * elapsed, BUCKET * whole_limit)
            share = np.minimum(share, max(self.whole_quota, 0.0) / int(waiting.sum()))
        else:
            self.whole_quota = max(self.whole_quota, PASS * whole_limit)
        got = np.minimum(self.missing, np.maximum(share, 0.0))
        self.quota -= np.where(own, got, 0.0)
        self.whole_quota -= float(got.sum()) if whole_limit else 0.0
        self.missing -= got
        self.gathered += got
        self.waited += waiting
        done = waiting & ((self.missing < 1) | ((self.waited >= PATIENCE) & (self.gathered > 0)))
        self.granted[done] += self.gathered[done]
        self.missing[done] = self.gathered[done] = 0.0
        self.waited[done] = 0

    def _send(self, wanted: Float64, asked: Float64, own: Bool, whole_limit: int) -> Float64:
        """(N,) bytes that peers send of what they were granted; they ask for more."""
        free: Bool = (self.missing <= 0) & (wanted > 0)
        resting = PASS * self.in_force
        room = np.where(own, np.maximum(self.quota - resting, 0.0), np.inf)
        at_once = np.where(free, np.clip(wanted - self.granted, 0.0, room), 0.0)
        if whole_limit and (total := float(at_once.sum())) > 0:
            at_once *= min(1.0, max(self.whole_quota - PASS * whole_limit, 0.0) / total)
            self.whole_quota -= float(at_once.sum())
        self.quota -= np.where(own, at_once, 0.0)
        short = asked - self.granted
        self.granted += at_once
        sent = np.minimum(wanted, self.granted)
        self.granted -= sent
        # A peer asks before it sends when it holds less than it asks for, and else as soon as the first part is sent.
        first = np.clip(asked / 2, BUFFER / 2, WATERMARK) * float(self.rng.uniform(*CHUNK))
        later = np.minimum(first, np.maximum(asked - self.granted, 0.0))
        request = np.where((short > 0) & (at_once <= 0), short, later)
        self.missing = np.where(free & (request >= 1), request, self.missing)
        # Handshakes and the like wait for quota too: who has nothing to send has some at hand.
        idle: Bool = own & (wanted <= 0)
        self.quota[idle] = np.maximum(self.quota[idle], resting[idle])
        return sent

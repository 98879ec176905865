"""A qBittorrent without its Web API: torrents, their limits and counters, as they can be seen from outside.

Time passes only by `advance`, so that the same client serves a service in real time and a thousand seconds in one.
"""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np

from allocators.base import MAX_LIMIT, Float64, Int64
from qguard.simulator.leechers import Habit, Leechers
from qguard.simulator.plant import TICK, Plant

Version = Literal["4.5.2", "5.1.0", "5.3.0"]

REFRESH: Final = 1.5
"""Seconds between two updates of rates and counters, by default."""

EMA: Final = 0.8
"""Part of the former rate that stays in `upspeed`, each second."""

UNCHOKE: Final = 15.0
"""Seconds between two turns of giving out upload slots."""


@dataclass(frozen=True, slots=True)
class Torrent:
    """What does not change."""

    infohash: str
    name: str
    announce: tuple[str, ...]
    """URLs."""
    category: str = ""
    tags: tuple[str, ...] = ()
    added_on: int = 0
    """Epoch seconds."""
    size: int = 2**30
    downloading: bool = False
    habit: int = 0
    """Index into the habits of the leechers, -1 for never wanted."""


@dataclass(slots=True)
class Wishes:
    """Preferences that have an effect here; rates in bytes/s, 0 for none."""

    refresh_interval: int = 1500
    """Milliseconds."""
    up_limit: int = 0
    alt_up_limit: int = 0
    alternative: bool = False
    max_uploads: int = -1
    """Upload slots of the client, -1 for no bound."""
    max_uploads_per_torrent: int = -1
    autorun_on_torrent_added_enabled: bool = False
    autorun_on_torrent_added_program: str = ""
    autorun_enabled: bool = False
    autorun_program: str = ""


@dataclass(slots=True, eq=False)
class Seen:
    """(N,) columns as the client shows them, which lags behind what is so by a refresh."""

    uploaded: Int64
    upspeed: Int64
    session: Int64
    """uploaded since the client started"""
    leechers: Int64
    limit: Int64


@dataclass(slots=True, eq=False)
class SimulatedClient:
    """One client and its swarm."""

    seed: int = 0
    version: Version = "5.1.0"
    habits: tuple[Habit, ...] = (Habit(),)
    wishes: Wishes = field(default_factory=Wishes)
    torrents: list[Torrent] = field(default_factory=list)
    now: float = 0.0
    """Seconds since the client was made."""

    plant: Plant = field(init=False)
    leechers: Leechers = field(init=False)
    uploaded: Float64 = field(init=False)
    session: Float64 = field(init=False)
    upspeed: Float64 = field(init=False)
    saved_limit: Int64 = field(init=False)
    """(N,) what would be there after a restart."""
    seen: Seen = field(init=False)
    row: dict[str, int] = field(init=False)
    """Info-hash -> row."""
    added: list[str] = field(default_factory=list)
    """Info-hashes added since somebody last looked, for the external program."""
    sent: Float64 = field(init=False)
    """(N,) bytes of the last tick."""
    active_at: Float64 = field(init=False)
    """(N,) when each last uploaded, or was added, seconds."""

    _second: Float64 = field(init=False)
    _served: Float64 = field(init=False)
    _next_refresh: float = 0.0
    _next_unchoke: float = 0.0
    _ticks: int = 0
    _owed: float = 0.0

    def __post_init__(self) -> None:
        """Begin with the torrents that are given."""
        rng = np.random.default_rng(self.seed)
        self.plant = Plant(rng)
        self.leechers = Leechers(rng, habits=self.habits)
        self.uploaded = self.session = self.upspeed = self._second = self._served = self.sent = np.zeros(0)
        self.active_at = np.zeros(0)
        self.saved_limit = np.zeros(0, np.int64)
        first, self.torrents = self.torrents, []
        self.row = {}
        self.add(first)
        self.added.clear()  # those were there before it started

    def __len__(self) -> int:
        """How many torrents."""
        return len(self.torrents)

    def add(self, torrents: list[Torrent]) -> None:
        """New torrents, without limits; one that is there already is skipped."""
        new = {t.infohash: t for t in torrents if t.infohash not in self.row}
        self._keep(np.concatenate([np.arange(len(self)), np.full(len(new), -1)]), [*self.torrents, *new.values()])
        self.added += new

    def delete(self, infohash: list[str]) -> None:
        """Remove torrents; unknown ones are skipped."""
        gone = {self.row[h] for h in infohash if h in self.row}
        rows = np.array([r for r in range(len(self)) if r not in gone], np.int64)
        self._keep(rows, [self.torrents[r] for r in rows])

    def set_limit(self, infohash: list[str], limit: int) -> None:
        """As setUploadLimit does: whatever is not from 1 to 2147483646 is no limit; unknown torrents are skipped."""
        rows = np.array([self.row[h] for h in infohash if h in self.row], np.int64)
        limit = limit if 1 <= limit <= MAX_LIMIT else 0
        self.plant.set_limit(rows, limit)
        self.saved_limit[rows] = limit
        if self.version == "4.5.2":
            self.seen.limit[rows] = limit  # later versions show it with the next refresh

    def limits(self, infohash: list[str]) -> dict[str, int]:
        """As uploadLimit does: at once, 0 for none, -1 for unknown torrents."""
        return {h: int(self.plant.limit[self.row[h]]) if h in self.row else -1 for h in infohash}

    @property
    def whole_limit(self) -> int:
        """The client's own limit in force, bytes/s, 0 for none."""
        return self.wishes.alt_up_limit if self.wishes.alternative else self.wishes.up_limit

    def advance(self, seconds: float) -> None:
        """Let time pass, in whole ticks; the rest is kept for the next time."""
        self._owed += seconds
        while self._owed >= TICK - 1e-9:
            self._owed -= TICK
            self._step()

    def _step(self) -> None:
        self.now += TICK
        self._ticks += 1
        demand = self.leechers.step()
        if self.wishes.max_uploads >= 0 or self.wishes.max_uploads_per_torrent >= 0:
            if self.now >= self._next_unchoke:
                self._next_unchoke = self.now + UNCHOKE
                self._unchoke()
            demand = demand * self._served
        self.sent = self.plant.step(demand, self.whole_limit)
        self.uploaded += self.sent
        self.session += self.sent
        self._second += self.sent
        self.active_at[self.sent > 0] = self.now
        if self._ticks % round(1 / TICK) == 0:
            self.upspeed = EMA * self.upspeed + (1 - EMA) * self._second
            self._second = np.zeros(len(self))
        if self.now >= self._next_refresh:
            self._next_refresh = self.now + self.wishes.refresh_interval / 1000
            self._refresh()

    def _refresh(self) -> None:
        upspeed = np.where(self.upspeed < 1, 0, self.upspeed)
        self.seen = Seen(
            self.uploaded.astype(np.int64),
            upspeed.astype(np.int64),
            self.session.astype(np.int64),
            self.leechers.count.copy(),
            self.plant.limit.copy(),
        )

    def _unchoke(self) -> None:
        """(N,) which part of its leechers each torrent serves: the fastest come first."""
        count = self.leechers.count
        most = self.wishes.max_uploads_per_torrent
        wanted = count if most < 0 else np.minimum(count, most)
        left = self.wishes.max_uploads
        if left >= 0:
            order = np.argsort(-self.plant.rate, kind="stable")
            before = np.cumsum(wanted[order]) - wanted[order]
            given = np.zeros_like(wanted)
            given[order] = np.clip(left - before, 0, wanted[order])
            wanted = given
        self._served = wanted / np.maximum(count, 1)

    def restart(self, *, lose: float = 0.0) -> None:
        """As if the process had been ended and started: session counters begin anew, saved limits come back.

        Args:
            lose: part of the limits that were not saved and are as they were before qguard: none.
        """
        lost = self.leechers.rng.random(len(self)) < lose
        self.saved_limit[lost] = 0
        self.plant.limit, self.plant.in_force = self.saved_limit.copy(), self.saved_limit.copy()
        self.plant.late[:] = 0
        self.session = np.zeros(len(self))
        self.upspeed = np.zeros(len(self))
        self.plant.rate[:] = 0.0
        self._refresh()

    def _keep(self, rows: Int64, torrents: list[Torrent]) -> None:
        self.torrents = torrents
        self.row = {t.infohash: n for n, t in enumerate(torrents)}
        self.plant.keep(rows)
        self.leechers.keep(rows, np.array([t.habit for t in torrents], np.int64))
        for name in ("uploaded", "session", "upspeed", "saved_limit", "_second", "_served", "sent", "active_at"):
            column = getattr(self, name)
            kept = np.zeros(len(rows), column.dtype)
            kept[rows >= 0] = column[rows[rows >= 0]]
            setattr(self, name, kept)
        self._served[rows < 0] = 1.0
        self.active_at[rows < 0] = self.now
        self._refresh()

    def rename(self, infohash: str, **changes: object) -> None:
        """Change what does not change by itself: category, tags, announce URLs."""
        row = self.row[infohash]
        self.torrents[row] = replace(self.torrents[row], **changes)  # type: ignore[arg-type]  # by the caller

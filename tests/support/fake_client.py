"""A client in memory that keeps what is written to it, for tests of what is above it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qguard.qbittorrent.client import ClientVersion, Occasion
from qguard.qbittorrent.decode import Preferences, TorrentDetails, TransferInfo
from qguard.snapshot import Torrents


class FakeClient:
    """Answers as qBittorrent would; see `qguard.qbittorrent.client.TorrentClient`."""

    def __init__(self, torrents: Torrents) -> None:
        self.there = torrents
        self.requests = 0
        self.sessions = 1
        self.settings = Preferences()

    async def version(self) -> ClientVersion:
        return ClientVersion("v5.1.0", "2.11.4", 0.5)

    async def torrents(self) -> Torrents:
        self.requests += 1
        return self.there

    async def active_torrents(self) -> Torrents:
        self.requests += 1
        return self.there.take(self.there.upspeed > 0)

    async def named_torrents(self, infohash: Sequence[str]) -> Torrents:
        rows = self.there.rows_of(list(infohash))
        return self.there.take(np.sort(rows[rows >= 0]))

    async def other_listing(self) -> frozenset[str]:
        return frozenset(name.decode() for name in self.there.infohash.tolist())

    async def aliases(self) -> dict[str, str]:
        return {}

    async def limits(self, infohash: Sequence[str]) -> dict[str, int]:
        rows = self.there.rows_of(list(infohash)).tolist()
        return {
            name: int(self.there.up_limit[row]) if row >= 0 else -1 for name, row in zip(infohash, rows, strict=True)
        }

    async def transfer(self) -> TransferInfo:
        return TransferInfo()

    async def details(self, infohash: str) -> TorrentDetails | None:
        return None

    async def preferences(self) -> Preferences:
        return self.settings

    async def alternative_speed(self) -> bool:
        return False

    async def set_program(self, on: Occasion, program: str, *, enabled: bool) -> None:
        pass

    async def set_limit(self, infohash: Sequence[str], limit: int) -> None:
        self.requests += 1
        up_limit = self.there.up_limit.copy()
        rows = self.there.rows_of(list(infohash))
        up_limit[rows[rows >= 0]] = limit
        self.there = replace(self.there, up_limit=up_limit)

    async def remove_limit(self, infohash: Sequence[str]) -> None:
        await self.set_limit(infohash, 0)

    async def close(self) -> None:
        pass

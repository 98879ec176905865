"""A simulated client with what its Web UI keeps besides: logins, settings, categories, programs, and the clock."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from qguard.simulator import programs
from qguard.simulator.client import SimulatedClient, Torrent
from qguard.simulator.listing import Catalogue, Details, chosen
from qguard.simulator.preferences import DEFAULTS
from qguard.simulator.programs import Runner
from qguard.simulator.scenes import Event
from qguard.simulator.sessions import MOST_SESSIONS, Sessions
from qguard.simulator.versions import TRAITS, Traits

LONGEST_STEP: Final = 30.0
"""Seconds that are made up for at once when the process could not run for longer."""

MOST_LOGGED: Final = 20_000
"""Lines of the log that are kept."""

Announcer = Callable[[str, str], Awaitable[bool]]
"""Announces a torrent (info-hash) to a URL; whether that worked."""


@dataclass(slots=True, eq=False)
class WebUi:
    """One client that can be talked to. Not thread-safe: everything happens on the loop that serves it.

    Time passes by `tick`, as `clock` goes.
    """

    client: SimulatedClient
    clock: Callable[[], float] = time.monotonic
    """Steady seconds."""
    speed: float = 1.0
    """Simulated seconds per second of `clock`."""
    events: tuple[Event, ...] = ()
    """What happens to the client, each once."""
    habit_of_added: int = 0
    """How the leechers of torrents behave that are added; -1 for none."""
    announcer: Announcer | None = None
    """None: every tracker works."""
    wall: Callable[[], float] = time.time
    """Epoch seconds, asked once."""
    runner: Runner | None = field(default_factory=Runner)
    """Runs external programs; None runs none."""
    sessions: Sessions = field(init=False)
    catalogue: Catalogue = field(init=False)
    other: dict[str, Any] = field(init=False)
    """Preferences without an effect on the swarm."""
    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    log: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_LOGGED))
    """What log/main shows, the oldest first."""
    epoch: float = field(init=False)
    """Epoch seconds when the client began."""
    _last: float = field(init=False)
    _happened: int = 0
    _finished: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin now."""
        modern = self.traits.modern
        self.sessions = Sessions(self.clock, most=MOST_SESSIONS if modern else None)
        self.catalogue = Catalogue(self.client)
        self.other = dict(DEFAULTS)
        self.epoch = self.wall() - self.client.now
        self._last = self.clock()
        for torrent in self.client.torrents:
            self.create_category(torrent.category)
            self.create_tags(torrent.tags)
        self.catalogue.update()

    @property
    def traits(self) -> Traits:
        """Of the version that is simulated."""
        return TRAITS[self.client.version]

    @property
    def now(self) -> int:
        """Epoch seconds, as the client has them."""
        return int(self.epoch + self.client.now)

    def tick(self) -> None:
        """Let the time pass that has passed since the last tick."""
        now = self.clock()
        elapsed, self._last = min(max(now - self._last, 0.0), LONGEST_STEP), now
        self.leap(elapsed * self.speed)

    def leap(self, seconds: float) -> None:
        """Let simulated time pass, events included."""
        target = self.client.now + seconds
        while self._happened < len(self.events) and self.events[self._happened].at <= target:
            event = self.events[self._happened]
            self.client.advance(max(event.at - self.client.now, 0.0))
            event.what(self.client)
            self._happened += 1
        self.client.advance(max(target - self.client.now, 0.0))
        for infohash in self._finished:
            self._run(infohash, on="finished")
        self._finished.clear()

    def restart(self, *, lose: float = 0.0) -> None:
        """As if the client had been ended and started: no sessions, no bans, limits as they were saved."""
        self.sessions.drop()
        self.client.restart(lose=lose)

    def add(self, torrent: Torrent, details: Details, *, limit: int = 0, finished: bool = False) -> bool:
        """A new torrent; whether it was new."""
        if torrent.infohash in self.client.row:
            return False
        self.create_category(torrent.category)
        self.create_tags(torrent.tags)
        self.client.add([torrent])
        self.catalogue.describe(torrent.infohash, replace(details, working=""))  # it has not been announced yet
        if limit:
            self.client.set_limit([torrent.infohash], limit)
        self.client.added.clear()
        self._run(torrent.infohash, on="added")
        if finished:
            self._finished.append(torrent.infohash)
        return True

    def stop(self, rows: Iterable[int], *, stopped: bool) -> None:
        """Stop or start torrents."""
        for row in rows:
            infohash = self.client.torrents[row].infohash
            self.catalogue.describe(infohash, replace(self.catalogue.of(infohash), stopped=stopped))
            # A torrent that is started finds its leechers in the next tick.
            self.client.leechers.quiet(np.array([row], np.int64), seconds=np.inf if stopped else 0.0)

    async def announce(self, infohashes: Iterable[str]) -> None:
        """Ask trackers, in order, until one works."""
        for infohash in infohashes:
            if infohash not in self.client.row:
                continue
            working = None if self.announcer is None else ""
            for url in self.client.torrents[self.client.row[infohash]].announce:
                if self.announcer is not None and await self.announcer(infohash, url):
                    working = url
                    break
            self.catalogue.describe(infohash, replace(self.catalogue.of(infohash), working=working))

    def create_category(self, name: str) -> bool:
        """A category, as far as there is none of that name; whether there was none."""
        if not name or name in self.categories:
            return False
        self.categories[name] = {"name": name, "savePath": ""}
        if self.traits.modern:
            self.categories[name] |= {
                "download_path": None,
                "inactive_seeding_time_limit": -2,
                "ratio_limit": -2,
                "seeding_time_limit": -2,
                "share_limit_action": "Default",
                "share_limits_mode": "Default",
            }
        return True

    def create_tags(self, names: Iterable[str]) -> None:
        """Tags, as far as they are new."""
        self.tags += [name for name in dict.fromkeys(names) if name and name not in self.tags]
        if self.traits.five:
            self.tags.sort()

    def rows(self, hashes: str) -> list[int]:
        """Rows of the torrents that a command names; those that are not there are passed over."""
        if hashes == "all":
            return list(range(len(self.client)))
        row = self.client.row
        return [row[name] for name in dict.fromkeys(h.lower() for h in hashes.split("|")) if name in row]

    def named(self, hashes: str) -> list[str]:
        """Info-hashes of the torrents that a command names."""
        return [self.client.torrents[row].infohash for row in self.rows(hashes)]

    def fitting(self, form: dict[str, str]) -> Any:  # noqa: ANN401 - numpy's index arrays
        """Rows that the filters of torrents/info let through."""
        self.catalogue.update()
        return chosen(self.catalogue, form)

    def transfer(self) -> dict[str, Any]:
        """transfer/info."""
        seen = self.client.seen
        shown: dict[str, Any] = {
            "connection_status": "connected",
            "dht_nodes": 0,
            "dl_info_data": 0,
            "dl_info_speed": 0,
            "dl_rate_limit": 0,
            "up_info_data": int(seen.session.sum()),
            "up_info_speed": int(seen.upspeed.sum()),
            "up_rate_limit": self.client.whole_limit,
        }
        return shown | ({"last_external_address_v4": "", "last_external_address_v6": ""} if self.traits.five else {})

    def server_state(self) -> dict[str, Any]:
        """The same in sync/maindata, and more."""
        return self.transfer() | {
            "alltime_dl": 0,
            "alltime_ul": int(self.client.seen.uploaded.sum()),
            "free_space_on_disk": 10**12,
            "queueing": False,
            "refresh_interval": self.client.wishes.refresh_interval,
            "total_peer_connections": int(self.client.seen.leechers.sum()),
            "use_alt_speed_limits": self.client.wishes.alternative,
        }

    def _run(self, infohash: str, *, on: str) -> None:
        """Run the external program of an occasion."""
        wishes = self.client.wishes
        enabled, template = (
            (wishes.autorun_on_torrent_added_enabled, wishes.autorun_on_torrent_added_program)
            if on == "added"
            else (wishes.autorun_enabled, wishes.autorun_program)
        )
        if self.runner is not None and enabled and infohash in self.client.row:
            self.catalogue.update()
            entry = self.catalogue.entries[self.client.row[infohash]]
            words = programs.command(template, entry, self.traits)
            self.note(f'Running external program. Torrent: "{entry.torrent.name}". Command: `{" ".join(words)}`')
            self.runner.run(words)

    def note(self, message: str) -> None:
        """Put a line into the log, as the client puts the whole command line of a program there."""
        number = self.log[-1]["id"] + 1 if self.log else 0
        self.log.append({"id": number, "message": message, "timestamp": self.now, "type": 1})

"""torrents/info: rows as JSON, made from columns, and the filters.

What does not change by itself is rendered once for each torrent and kept; a listing puts the columns that change beside
it. So 30,000 rows take a fraction of a second.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

import msgspec
import numpy as np

from allocators.base import Bool, Int64
from qguard.simulator.client import SimulatedClient, Torrent
from qguard.simulator.versions import TRAITS, Traits

NEVER: Final = 8_640_000
"""Seconds that stand for "no time can be told"."""

MONTH: Final = 30 * 86_400

UPLOADING, STALLED_UP, STOPPED_UP, STALLED_DOWN, STOPPED_DOWN, NO_METADATA = range(6)

_STATES: Final = (b"uploading", b"stalledUP", b"stoppedUP", b"stalledDL", b"stoppedDL", b"metaDL")
_OLD_STATES: Final = (b"uploading", b"stalledUP", b"pausedUP", b"stalledDL", b"pausedDL", b"metaDL")

DYNAMIC: Final = (
    "last_activity",
    "num_incomplete",
    "num_leechs",
    "popularity",
    "ratio",
    "seeding_time",
    "state",
    "time_active",
    "up_limit",
    "uploaded",
    "uploaded_session",
    "upspeed",
    "connections_count",
)
"""Fields that change by themselves, in the order of `dynamic`."""

_OLD: Final = (
    b'"last_activity":%d,"num_incomplete":%d,"num_leechs":%d,"ratio":%.6g,"seeding_time":%d,"state":"%b",'
    b'"time_active":%d,"up_limit":%d,"uploaded":%d,"uploaded_session":%d,"upspeed":%d}'
)
_FIVE: Final = _OLD.replace(b'"ratio"', b'"popularity":%.6g,"ratio"')
_MODERN: Final = _FIVE.replace(b"}", b',"connections_count":%d}')


@dataclass(frozen=True, slots=True)
class Details:
    """What the Web UI shows of a torrent besides what its upload depends on."""

    save_path: str = "/downloads"
    private: bool = True
    stopped: bool = False
    metadata: bool = True
    """False for a magnet link whose torrent nobody has sent yet."""
    infohash_v1: str | None = None
    """None for the ID that it goes by; empty for none."""
    infohash_v2: str = ""
    piece: int = 2**20
    working: str | None = None
    """The tracker that works, empty for none; None for the first one."""


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One torrent's fields that do not change by themselves."""

    torrent: Torrent
    details: Details
    info: bytes
    """Beginning of its object in torrents/info."""
    sync: bytes
    """Beginning of its object in sync/maindata."""
    fields: dict[str, Any]
    """The same, as values."""


@dataclass(slots=True)
class Catalogue:
    """All torrents of a client as far as they do not change by themselves, row by row as in the client."""

    client: SimulatedClient
    details: dict[str, Details] = field(default_factory=dict)
    """By info-hash; torrents without are as `Details()` says."""
    revision: int = 0
    """Grows with every change."""
    entries: list[Entry] = field(default_factory=list)
    infohash: list[str] = field(default_factory=list)
    downloading: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    stopped: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    metadata: Bool = field(default_factory=lambda: np.zeros(0, np.bool_))
    added_on: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    size: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    trackers: dict[str, list[str]] = field(default_factory=dict)
    """Announce URL -> info-hashes."""
    _seen: list[Torrent] = field(default_factory=list)
    _cache: dict[str, Entry] = field(default_factory=dict)
    _stale: bool = True

    @property
    def traits(self) -> Traits:
        """Of the client's version."""
        return TRAITS[self.client.version]

    def describe(self, infohash: str, details: Details) -> None:
        """Say what is special about a torrent."""
        self.details[infohash] = details
        self._stale = True

    def of(self, infohash: str) -> Details:
        """What is special about a torrent."""
        return self.details.get(infohash, _PLAIN)

    def update(self) -> None:
        """Take over what has changed in the client since."""
        torrents = self.client.torrents
        same = len(torrents) == len(self._seen) and all(map(operator.is_, torrents, self._seen))
        if same and not self._stale:
            return
        self.details = {h: d for h, d in self.details.items() if h in self.client.row}
        self.entries = [self._entry(torrent) for torrent in torrents]
        self._cache = {entry.torrent.infohash: entry for entry in self.entries}
        self.infohash = [torrent.infohash for torrent in torrents]
        self.downloading = np.array([torrent.downloading for torrent in torrents], np.bool_)
        self.stopped = np.array([entry.details.stopped for entry in self.entries], np.bool_)
        self.metadata = np.array([entry.details.metadata for entry in self.entries], np.bool_)
        self.added_on = np.array([torrent.added_on for torrent in torrents], np.int64)
        self.size = np.array([torrent.size for torrent in torrents], np.int64)
        self.trackers = {}
        for torrent in torrents:
            for url in torrent.announce:
                self.trackers.setdefault(url, []).append(torrent.infohash)
        self._seen, self._stale = list(torrents), False
        self.revision += 1

    def _entry(self, torrent: Torrent) -> Entry:
        details = self.details.get(torrent.infohash, _PLAIN)
        old = self._cache.get(torrent.infohash)
        if old is not None and old.torrent is torrent and old.details is details:
            return old
        fields = _fields(torrent, details, self.traits)
        sync = {name: value for name, value in fields.items() if name != "hash"}
        if self.traits.modern:
            sync |= {"has_other_announce_error": False, "has_tracker_error": False, "has_tracker_warning": False}
        return Entry(torrent, details, _opened(fields), _opened(sync), sync)

    def states(self) -> Int64:
        """(N,) indices into the names of the states."""
        running = np.where(self.client.seen.upspeed > 0, UPLOADING, STALLED_UP)
        up = np.where(self.stopped, STOPPED_UP, running)
        down = np.where(self.stopped, STOPPED_DOWN, np.where(self.metadata, STALLED_DOWN, NO_METADATA))
        return np.where(self.downloading, down, up)

    @property
    def state_names(self) -> tuple[bytes, ...]:
        """By index of the state."""
        return _STATES if self.traits.five else _OLD_STATES

    def dynamic(self, epoch: float, rows: Int64, limit: Int64) -> list[tuple[Any, ...]]:
        """What changes by itself, for each of these rows, in the order of `names`.

        Args:
            epoch: seconds of the epoch when the client began.
            rows: which torrents.
            limit: (N,) the upload limits to show.
        """
        client, seen = self.client, self.client.seen
        active = (epoch + client.active_at[rows]).astype(np.int64)
        added = self.added_on[rows]
        active = np.maximum(active, added)
        uploaded, size = seen.uploaded[rows], np.maximum(self.size[rows], 1)
        lasted = active - added
        down = self.downloading[rows]
        ratio = uploaded / size
        names = self.state_names
        columns: list[Sequence[Any]] = [
            active.tolist(),
            seen.leechers[rows].tolist(),
            seen.leechers[rows].tolist(),
            ratio.tolist(),
            np.where(down, 0, lasted).tolist(),
            [names[state] for state in self.states()[rows].tolist()],
            lasted.tolist(),
            limit[rows].tolist(),
            uploaded.tolist(),
            seen.session[rows].tolist(),
            np.where(self.stopped[rows], 0, seen.upspeed[rows]).tolist(),
        ]
        if self.traits.five:
            columns.insert(3, (ratio / np.maximum(lasted / MONTH, 1.0)).tolist())
        if self.traits.modern:
            columns.append(seen.leechers[rows].tolist())
        return list(zip(*columns, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """Of what `dynamic` gives."""
        if self.traits.modern:
            return DYNAMIC
        return DYNAMIC[:-1] if self.traits.five else tuple(n for n in DYNAMIC[:-1] if n != "popularity")

    @property
    def template(self) -> bytes:
        """The end of an object, to be filled with what `dynamic` gives."""
        if self.traits.modern:
            return _MODERN
        return _FIVE if self.traits.five else _OLD


_PLAIN: Final = Details()


def chosen(catalogue: Catalogue, form: Mapping[str, str]) -> Int64:
    """Rows that the filters of torrents/info let through: filter, hashes, category, tag, private."""
    rows = np.flatnonzero(_passes(catalogue, form.get("filter", "")))
    if form.get("hashes"):
        wanted = [catalogue.client.row.get(h.lower(), -1) for h in form["hashes"].split("|")]
        rows = rows[np.isin(rows, wanted)]
    torrents = catalogue.client.torrents
    if "category" in form:
        rows = _where(rows, (torrents[row].category == form["category"] for row in rows))
    if "tag" in form:
        tag = form["tag"]
        rows = _where(rows, (tag in torrents[row].tags if tag else not torrents[row].tags for row in rows))
    if catalogue.traits.five and "private" in form:
        private = form["private"].lower() in {"true", "1"}
        rows = _where(rows, (catalogue.entries[row].details.private == private for row in rows))
    return rows.astype(np.int64)


def _where(rows: Any, passes: Iterable[bool]) -> Any:  # noqa: ANN401 - numpy's index arrays
    return rows[np.fromiter(passes, np.bool_, len(rows))]


def _passes(catalogue: Catalogue, name: str) -> Bool:
    """(N,) what a filter lets through; a name that the version does not know lets all through."""
    state, traits = catalogue.states(), catalogue.traits
    speed = catalogue.client.seen.upspeed > 0
    if traits.modern:
        active = speed & ~catalogue.stopped
    else:
        active = (state == UPLOADING) | (state == NO_METADATA) | ((state == STALLED_DOWN) & speed)
    nothing = np.zeros(len(state), np.bool_)
    known: dict[str, Bool] = {
        "downloading": catalogue.downloading,
        "seeding": ~catalogue.downloading & ~catalogue.stopped,
        "completed": ~catalogue.downloading,
        "active": active,
        "inactive": ~active,
        "stalled": (state == STALLED_UP) | (state == STALLED_DOWN),
        "stalled_uploading": state == STALLED_UP,
        "stalled_downloading": state == STALLED_DOWN,
        "errored": nothing,
        "checking": nothing,
        "moving": nothing,
        "stopped" if traits.five else "paused": catalogue.stopped,
        "running" if traits.five else "resumed": ~catalogue.stopped,
    }
    everything: Bool = ~nothing
    return known.get(name, everything)


def render(catalogue: Catalogue, epoch: float, rows: Int64, *, trackers: bool = False) -> list[bytes]:
    """The objects of these rows, limits as they are now.

    Args:
        catalogue: up to date.
        epoch: seconds of the epoch when the client began.
        rows: which, in this order.
        trackers: also the list of each one's trackers.
    """
    template, entries = b"{%b," + catalogue.template, catalogue.entries
    values = catalogue.dynamic(epoch, rows, catalogue.client.plant.limit)
    made = [template % (entries[row].info, *line) for row, line in zip(rows.tolist(), values, strict=True)]
    if trackers:
        lists = (msgspec.json.encode(tracker_rows(entries[row], pseudo=False)) for row in rows.tolist())
        made = [b'%b,"trackers":%b}' % (one[:-1], more) for one, more in zip(made, lists, strict=True)]
    return made


def tracker_rows(entry: Entry, *, pseudo: bool = True) -> list[dict[str, Any]]:
    """torrents/trackers of one torrent."""
    working = _tracker(entry.torrent, entry.details)
    counts: dict[str, Any] = {"num_downloaded": 0, "num_leeches": 0, "num_peers": 0, "num_seeds": 0}
    text = "This torrent is private" if entry.details.private else ""
    sources = [
        counts | {"msg": text, "status": 0, "tier": -1, "url": f"** [{name}] **"} for name in ("DHT", "PeX", "LSD")
    ]
    return (sources if pseudo else []) + [
        counts | {"msg": "", "status": 2 if url == working else 1, "tier": tier, "url": url}
        for tier, url in enumerate(entry.torrent.announce)
    ]


def ordered(rendered: list[bytes], field_name: str, *, reverse: bool) -> list[bytes]:
    """Objects in the order of one field.

    Raises:
        KeyError: they have no such field.
    """
    if not rendered:
        return rendered
    one = msgspec.json.decode(rendered[0])
    if field_name not in one:
        raise KeyError(field_name)
    only = msgspec.defstruct("Only", [("value", Any)], rename={"value": field_name})
    decoder = msgspec.json.Decoder(list[only])  # type: ignore[valid-type]  # made at run time
    values: Any = decoder.decode(joined(rendered))
    keys = [row.value for row in values]
    order = sorted(range(len(keys)), key=lambda at: (keys[at] is not None, keys[at]), reverse=reverse)
    return [rendered[at] for at in order]


def page(rendered: list[bytes], limit: int, offset: int, *, modern: bool) -> list[bytes]:
    """A part of a listing; an offset beyond the end means the beginning in older versions."""
    size = len(rendered)
    if offset < 0:
        offset += size
    if offset < 0 or (offset >= size and not modern):
        offset = 0
    return rendered[offset : offset + limit] if limit > 0 else rendered[offset:]


def joined(rendered: list[bytes]) -> bytes:
    """As one JSON list."""
    return b"[" + b",".join(rendered) + b"]"


def _opened(fields: dict[str, Any]) -> bytes:
    """The object without its braces."""
    return msgspec.json.encode(fields)[1:-1]


@lru_cache(maxsize=65_536)
def _encoded(text: str, *, five: bool) -> str:
    """As magnet links have it: libtorrent 1.2 and 2.0.8 leave parentheses and write lower case."""
    if five:
        return quote(text, safe="")
    upper = quote(text, safe="()!*")
    parts = upper.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def magnet_uri(torrent: Torrent, details: Details, traits: Traits) -> str:
    """As the client makes it: all announce URLs, percent-encoded."""
    v1 = torrent.infohash if details.infohash_v1 is None else details.infohash_v1
    parts = [f"xt=urn:btih:{v1}"] if v1 else []
    parts += [f"xt=urn:btmh:1220{details.infohash_v2}"] if details.infohash_v2 else []
    parts += [f"dn={_encoded(torrent.name, five=traits.five)}"]
    parts += [f"xl={torrent.size}"] if traits.five and details.metadata else []
    parts += [f"tr={_encoded(url, five=traits.five)}" for url in torrent.announce]
    return "magnet:?" + "&".join(parts)


def _tracker(torrent: Torrent, details: Details) -> str:
    if details.working is not None:
        return details.working
    return torrent.announce[0] if torrent.announce else ""


def _fields(torrent: Torrent, details: Details, traits: Traits) -> dict[str, Any]:
    none = -1 if traits.five else 0
    size = torrent.size if details.metadata else 0
    done = 0 if torrent.downloading else size
    tracker = _tracker(torrent, details)
    if not tracker and traits.first_tracker and torrent.announce:
        tracker = torrent.announce[0]
    v1 = torrent.infohash if details.infohash_v1 is None else details.infohash_v1
    fields: dict[str, Any] = {
        "added_on": torrent.added_on,
        "amount_left": size - done,
        "auto_tmm": False,
        "availability": 0 if torrent.downloading else -1,
        "category": torrent.category,
        "completed": done,
        "completion_on": none if torrent.downloading else torrent.added_on,
        "content_path": f"{details.save_path}/{torrent.name}" if details.metadata else "",
        "dl_limit": 0,
        "dlspeed": 0,
        "download_path": "",
        "downloaded": 0,
        "downloaded_session": 0,
        "eta": NEVER,
        "f_l_piece_prio": False,
        "force_start": False,
        "hash": torrent.infohash,
        "infohash_v1": v1,
        "infohash_v2": details.infohash_v2,
        "magnet_uri": magnet_uri(torrent, details, traits),
        "max_ratio": -1,
        "max_seeding_time": -1,
        "name": torrent.name,
        "num_complete": 0,
        "num_seeds": 0,
        "priority": 0,
        "progress": 0 if torrent.downloading else 1,
        "ratio_limit": -2,
        "save_path": details.save_path,
        "seeding_time_limit": -2,
        "seen_complete": none,
        "seq_dl": False,
        "size": size,
        "super_seeding": False,
        "tags": ", ".join(sorted(torrent.tags)),
        "total_size": torrent.size if details.metadata else -1,
        "tracker": tracker,
        "trackers_count": len(torrent.announce),
    }
    if traits.five:
        fields |= {
            "comment": "",
            "has_metadata": details.metadata,
            "inactive_seeding_time_limit": -2,
            "max_inactive_seeding_time": -1,
            "private": details.private if details.metadata else None,
            "reannounce": 0,
            "root_path": "",
        }
    if traits.modern:
        pieces = -(-torrent.size // details.piece) if details.metadata else -1
        fields |= {
            "connections_limit": -1,
            "created_by": "",
            "creation_date": -1,
            "piece_size": details.piece if details.metadata else -1,
            "pieces_have": 0 if torrent.downloading else pieces,
            "pieces_num": pieces,
            "share_limit_action": "Default",
            "share_limits_mode": "Default",
            "total_wasted": 0,
        }
    return fields

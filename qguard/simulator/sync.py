"""sync/maindata: full answers and deltas, with the response ids of each era.

Before 4.6 a delta is the difference to the last answer that the caller has named. Later ones collect what has changed
until an answer is acknowledged, and a second change of a torrent replaces the first: after a lost answer, fields are
missing. Both are as the real ones do it.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np

from qguard.simulator.listing import Catalogue, Entry

MOST_ID: Final = 1_000_000


@dataclass(slots=True)
class Snapshot:
    """What one answer was made from."""

    torrents: dict[str, tuple[Entry, tuple[Any, ...]]] = field(default_factory=dict)
    """Info-hash -> what does not change by itself, and what does."""
    trackers: dict[str, list[str]] = field(default_factory=dict)
    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    server: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class SyncState:
    """What one session has been told."""

    sent_id: int = 0
    accepted_id: int = -1
    last: Snapshot = field(default_factory=Snapshot)
    accepted: Snapshot = field(default_factory=Snapshot)
    """Before 4.6 only."""
    unread: dict[str, Any] = field(default_factory=dict)
    """Since 4.6: the answer that has not been acknowledged."""


def snapshot(
    catalogue: Catalogue,
    epoch: float,
    categories: dict[str, dict[str, Any]],
    tags: list[str],
    server: dict[str, Any],
) -> Snapshot:
    """What maindata is made from now."""
    client = catalogue.client
    # Since 4.6 a new limit shows with the next refresh; torrents/info shows it at once in all versions.
    limit = client.seen.limit if catalogue.traits.five else client.plant.limit
    values = catalogue.dynamic(epoch, np.arange(len(client)), limit)
    pairs = zip(catalogue.entries, values, strict=True)
    torrents = dict(zip(catalogue.infohash, pairs, strict=True))
    return Snapshot(torrents, catalogue.trackers, dict(categories), list(tags), server)


def answer(state: SyncState, rid: int, now: Snapshot, catalogue: Catalogue) -> bytes:
    """The answer to one request.

    Args:
        state: of the caller's session.
        rid: id of the last answer that the caller has got, 0 for none.
        now: what there is.
        catalogue: how it is written.
    """
    return _later(state, rid, now, catalogue) if catalogue.traits.five else _early(state, rid, now, catalogue)


def _early(state: SyncState, rid: int, now: Snapshot, catalogue: Catalogue) -> bytes:
    before = 0
    full = True
    if rid > 0:
        before = state.sent_id
        if before == rid:
            state.accepted, state.accepted_id = state.last, rid
        full = state.accepted_id != rid
    body = _full(now, catalogue) if full else _difference(state.accepted, now, catalogue)
    if full:
        state.accepted, state.accepted_id = Snapshot(), -1
    state.sent_id = before % MOST_ID + 1
    state.last = now
    return _written(body, state.sent_id)


def _later(state: SyncState, rid: int, now: Snapshot, catalogue: Catalogue) -> bytes:
    full = True
    if rid > 0 and state.sent_id > 0:
        if state.sent_id == rid:
            state.accepted_id, state.unread = rid, {}
        full = state.accepted_id != rid
    state.sent_id = state.sent_id % MOST_ID + 1
    if full:
        state.unread = {}
        body = _full(now, catalogue)
    else:
        _collect(state.unread, _difference(state.last, now, catalogue))
        body = state.unread
    state.last = now
    return _written(body, state.sent_id)


def _full(now: Snapshot, catalogue: Catalogue) -> dict[str, Any]:
    ending = b"{%b," + catalogue.template
    rows = [b'"%b":' % h.encode() + ending % (entry.sync, *values) for h, (entry, values) in now.torrents.items()]
    parts = {"categories": now.categories, "tags": now.tags, "trackers": now.trackers}
    body: dict[str, Any] = {"full_update": True, "server_state": now.server}
    body |= {name: part for name, part in parts.items() if part}
    if rows:
        body["torrents"] = msgspec.Raw(b"{" + b",".join(rows) + b"}")
    return body


def _difference(before: Snapshot, now: Snapshot, catalogue: Catalogue) -> dict[str, Any]:
    torrents = {}
    for infohash, (entry, values) in now.torrents.items():
        old = before.torrents.get(infohash)
        if old is None:
            torrents[infohash] = entry.fields | _named(catalogue, values)
        elif old[0] is not entry or old[1] != values:
            torrents[infohash] = _changed(catalogue, old, (entry, values))
    body: dict[str, Any] = {
        "categories": {name: one for name, one in now.categories.items() if before.categories.get(name) != one},
        "categories_removed": [name for name in before.categories if name not in now.categories],
        "server_state": {name: one for name, one in now.server.items() if before.server.get(name) != one},
        "tags": [tag for tag in now.tags if tag not in before.tags],
        "tags_removed": [tag for tag in before.tags if tag not in now.tags],
        "torrents": torrents,
        "torrents_removed": [h for h in before.torrents if h not in now.torrents],
    }
    if before.trackers is not now.trackers:
        body["trackers"] = {url: them for url, them in now.trackers.items() if before.trackers.get(url) != them}
        body["trackers_removed"] = [url for url in before.trackers if url not in now.trackers]
    return {name: part for name, part in body.items() if part}


def _changed(
    catalogue: Catalogue, old: tuple[Entry, tuple[Any, ...]], new: tuple[Entry, tuple[Any, ...]]
) -> dict[str, Any]:
    before = old[0].fields | _named(catalogue, old[1])
    after = new[0].fields | _named(catalogue, new[1])
    return {name: value for name, value in after.items() if before.get(name) != value}


def _named(catalogue: Catalogue, values: tuple[Any, ...]) -> dict[str, Any]:
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in zip(catalogue.names, values, strict=True)
    }


def _collect(unread: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put newer changes over those that were not acknowledged; what is there again was not removed."""
    for name in ("categories", "torrents", "trackers", "tags"):
        gone = set(changes.get(f"{name}_removed", ()))
        new = changes.get(name, ())
        if name == "tags":
            unread[name] = [tag for tag in unread.get(name, ()) if tag not in gone] + list(new)
        else:
            kept = {key: value for key, value in unread.get(name, {}).items() if key not in gone}
            unread[name] = kept | dict(new)
        removed = f"{name}_removed"
        unread[removed] = [key for key in unread.get(removed, ()) if key not in new] + sorted(gone)
    unread["server_state"] = unread.get("server_state", {}) | changes.get("server_state", {})
    for name in [name for name, part in unread.items() if not part]:
        del unread[name]


def _written(body: dict[str, Any], rid: int) -> bytes:
    return msgspec.json.encode(body | {"rid": rid})

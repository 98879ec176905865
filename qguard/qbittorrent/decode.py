"""Raw bytes of the Web API -> columns. Only the fields we need, never a dictionary per torrent."""

import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from qguard.qbittorrent.errors import BadAnswerError
from qguard.snapshot import UNLIMITED, Objects, Torrents, empty

T = TypeVar("T")

DOWNLOADING_STATES: Final = frozenset({"downloading", "forcedDL", "stalledDL", "metaDL", "forcedMetaDL"})
"""States in which a torrent downloads or would. A torrent with none left to download is never in one of them."""

_ANNOUNCE: Final = re.compile(r"[?&]tr=([^&]+)")
_INFOHASH: Final = re.compile(r"[0-9a-f]{40}")


class _Torrent(msgspec.Struct, gc=False):
    """The fields of torrents/info that we use. Those without a default are in every version since 4.3."""

    hash: str
    added_on: int
    up_limit: int
    upspeed: int
    uploaded: int
    magnet_uri: str
    state: str
    name: str = ""
    uploaded_session: int = 0
    num_leechs: int = 0
    category: str = ""
    tags: str = ""


class _Names(msgspec.Struct, gc=False):
    """The hashes of one torrent; the last is new in 4.4."""

    hash: str
    infohash_v1: str = ""


class TorrentDetails(msgspec.Struct, frozen=True):
    """What other programs are told about one torrent."""

    hash: str
    name: str = ""
    category: str = ""
    tags: str = ""
    """Separated by comma and space."""
    save_path: str = ""
    """As the client sees it."""
    infohash_v1: str = ""
    """Empty for a torrent without one, and before 4.4."""
    added_on: int = 0
    """Epoch seconds."""
    progress: float = 0.0
    """Of what is wanted of it, 1 when all is there; while it is checked, of the check."""
    state: str = ""
    """As the client calls it."""


class _MainData(msgspec.Struct, gc=False):
    """sync/maindata with rid=0: used only as a second, differently made listing."""

    full_update: bool = False
    torrents: dict[str, msgspec.Raw] = {}


class TransferInfo(msgspec.Struct, frozen=True):
    """transfer/info: the client as a whole."""

    up_rate_limit: int = 0
    """bytes/s in force now (the alternative one in alternative speed mode), 0 for none."""
    up_info_speed: int = 0
    """bytes/s"""
    connection_status: str = ""


class Preferences(msgspec.Struct, frozen=True):
    """The few preferences we read; the answer also holds secrets, which are never decoded."""

    refresh_interval: int = 1500
    """Milliseconds between two updates of rates and counters."""
    autorun_on_torrent_added_enabled: bool | None = None
    """Whether a program is run for each torrent that is added; None before 4.5, which has no such thing."""
    autorun_on_torrent_added_program: str = ""
    autorun_enabled: bool | None = None
    """Whether a program is run for each torrent that is finished."""
    autorun_program: str = ""
    max_uploads: int = -1
    """Upload slots of the client as a whole, -1 for no bound."""
    max_uploads_per_torrent: int = -1
    """Upload slots of one torrent, -1 for no bound."""


_TORRENTS: Final = msgspec.json.Decoder(list[_Torrent])
_MAIN_DATA: Final = msgspec.json.Decoder(_MainData)
_LIMITS: Final = msgspec.json.Decoder(dict[str, int])


def torrents(raw: bytes) -> Torrents:
    """Decode the answer of torrents/info.

    Raises:
        BadAnswerError: not a listing of torrents, cut off, or with an impossible or repeated info-hash.
    """
    rows = _decode(_TORRENTS, raw, "torrents/info")
    if not rows:
        return empty()
    hashes = [row.hash.lower() for row in rows]
    if not all(map(_INFOHASH.fullmatch, hashes)):
        raise BadAnswerError("qBittorrent listed a torrent without a proper info-hash; nothing is changed")
    infohash = np.array(hashes, "S40")
    order = np.argsort(infohash, kind="stable")
    infohash = infohash[order]
    if (infohash[1:] == infohash[:-1]).any():
        raise BadAnswerError("qBittorrent listed the same torrent twice; nothing is changed")
    rows = [rows[i] for i in order]

    def number(name: str) -> Any:  # noqa: ANN401 - numpy's generic array types say no more here
        return np.fromiter((getattr(row, name) for row in rows), np.int64, len(rows))

    return Torrents(
        infohash=infohash,
        added_on=number("added_on"),
        # 4.4 and older say -1 for a torrent that never had a limit.
        up_limit=np.maximum(number("up_limit"), UNLIMITED),
        upspeed=number("upspeed"),
        uploaded=number("uploaded"),
        uploaded_session=number("uploaded_session"),
        leechers=number("num_leechs"),
        downloading=np.fromiter((row.state in DOWNLOADING_STATES for row in rows), np.bool_, len(rows)),
        # Not `tracker`: it is empty until an announce succeeded (up to 5.0) and changes with the working tracker.
        announce=_objects([tuple(_ANNOUNCE.findall(row.magnet_uri)) for row in rows]),
        category=_objects([row.category for row in rows]),
        tags=_objects([row.tags for row in rows]),
        name=_objects([row.name for row in rows]),
    )


def _objects(things: Sequence[object]) -> Objects:
    return np.fromiter(things, np.object_, len(things))


def aliases(raw: bytes) -> dict[str, str]:
    """v1 hash -> torrent ID, for the torrents in an answer of torrents/info that go by another hash than v1."""
    rows = _decode(msgspec.json.Decoder(list[_Names]), raw, "torrents/info")
    return {row.infohash_v1: row.hash for row in rows if row.infohash_v1 not in {"", row.hash}}


def details(raw: bytes) -> TorrentDetails | None:
    """The one torrent in an answer of torrents/info for one info-hash; None when it is not there."""
    rows = _decode(msgspec.json.Decoder(list[TorrentDetails]), raw, "torrents/info")
    return rows[0] if len(rows) == 1 else None


def main_data_hashes(raw: bytes) -> frozenset[str]:
    """Info-hashes in the full answer of sync/maindata."""
    answer = _decode(_MAIN_DATA, raw, "sync/maindata")
    if not answer.full_update:
        raise BadAnswerError("qBittorrent did not give a full update of sync/maindata; nothing is changed")
    return frozenset(answer.torrents)


def limits(raw: bytes) -> dict[str, int]:
    """Upload limits by info-hash: bytes/s, 0 for none, -1 for a torrent that is not there."""
    return _decode(_LIMITS, raw, "torrents/uploadLimit")


def transfer_info(raw: bytes) -> TransferInfo:
    """Decode transfer/info."""
    return _decode(msgspec.json.Decoder(TransferInfo), raw, "transfer/info")


def preferences(raw: bytes) -> Preferences:
    """Decode app/preferences."""
    return _decode(msgspec.json.Decoder(Preferences), raw, "app/preferences")


def alternative_speed(raw: bytes) -> bool:
    """Decode transfer/speedLimitsMode."""
    return _decode(msgspec.json.Decoder(int), raw, "transfer/speedLimitsMode") == 1


def _decode(decoder: "msgspec.json.Decoder[T]", raw: bytes, what: str) -> T:
    try:
        return decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise BadAnswerError(
            f"qBittorrent's answer to {what} cannot be read ({error}; {len(raw)} bytes); nothing is changed. "
            "If this goes on, check that the configured address is qBittorrent's Web UI"
        ) from error

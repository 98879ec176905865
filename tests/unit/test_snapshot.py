"""Columns, merging, and telling one session of the client from the next."""

import numpy as np
import pytest

from qguard.snapshot import Counters, client_restarted, empty, find, merge_active
from tests.support.columns import infohash, torrents

MIB = 2**20


def test_find_says_where_and_where_not() -> None:
    some = torrents([{}, {}, {}])
    assert some.rows_of([infohash(2), infohash(7), infohash(0)]).tolist() == [2, -1, 0]
    assert find(empty().infohash, some.infohash).tolist() == [-1, -1, -1]


def test_an_active_listing_updates_its_rows_and_silences_the_others() -> None:
    before = torrents([{"upspeed": 5, "up_limit": 1}, {"upspeed": 6, "leechers": 3}])
    active = torrents([{"infohash": infohash(0), "upspeed": 9, "up_limit": 2}, {"infohash": infohash(8), "upspeed": 4}])
    merged = merge_active(before, active)
    assert merged.infohash.tolist() == [infohash(n).encode() for n in (0, 1, 8)]
    assert merged.upspeed.tolist() == [9, 0, 4]
    assert merged.up_limit.tolist() == [2, 0, 0]
    assert merged.leechers.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("before", "after", "restarted"),
    [
        ((100 * MIB, 50 * MIB), (110 * MIB, 60 * MIB), False),
        ((100 * MIB, 50 * MIB), (100 * MIB, 50 * MIB), False),
        ((100 * MIB, 50 * MIB), (100 * MIB, 0), True),
        ((100 * MIB, 50 * MIB), (180 * MIB, 80 * MIB), True),  # a restart, and more since than before
        ((100 * MIB, 50 * MIB), (60 * MIB, 60 * MIB), True),  # killed before it saved its counters
        ((100 * MIB, 0), (100 * MIB, 0), None),
        ((100 * MIB, MIB), (102 * MIB, 2 * MIB), None),  # too little to tell
    ],
)
def test_a_restart_shows_in_the_counters(before, after, restarted: bool | None) -> None:
    then = torrents([{"uploaded": before[0], "uploaded_session": before[1]}])
    now = torrents([{"uploaded": after[0], "uploaded_session": after[1]}])
    assert client_restarted(Counters.of(then), now) is restarted


def test_a_torrent_added_again_is_no_restart() -> None:
    then = torrents([{"uploaded": 9 * MIB, "uploaded_session": 9 * MIB}])
    now = torrents([{"uploaded": 0, "uploaded_session": 0, "added_on": 1_800_000_000}])
    assert client_restarted(Counters.of(then), now) is None


def test_counters_survive_a_trip_through_json() -> None:
    many = torrents([{"uploaded": n, "uploaded_session": n} for n in range(30)])
    kept = Counters.from_rows(Counters.of(many, most=16).to_rows())
    assert kept.uploaded.tolist() == list(range(29, 13, -1))
    assert Counters.from_rows([]).infohash.dtype == np.dtype("S40")

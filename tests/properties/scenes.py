"""Any small client: torrents on two capped trackers, one that is not managed and the rest, awake or asleep."""

from hypothesis import strategies as st

from tests.support.columns import infohash, torrents

TRACKERS = """
  - {id: alpha, match: [alpha.example], max_upload_speed: %d}
  - {id: beta, match: [beta.example], max_upload_speed: 50000, max_torrent_upload_speed: 20000}
  - {id: counted, match: [counted.example], max_upload_speed: 1000, manage: false}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""

rows = st.fixed_dictionaries(
    {
        "infohash": st.integers(0, 2**160 - 1).map(infohash),
        "host": st.sampled_from(["alpha.example", "alpha.example", "beta.example", "counted.example", "x.example", ""]),
        "upspeed": st.one_of(st.just(0), st.integers(0, 10**7)),
        "up_limit": st.one_of(st.just(0), st.integers(1, 10**6)),
        "leechers": st.integers(0, 9),
        "downloading": st.booleans(),
    }
)
clients = st.lists(rows, max_size=25, unique_by=lambda row: row["infohash"]).map(torrents)
# Few values, since every one means another configuration to parse.
caps = st.sampled_from([1, 7, 50, 1_000, 30_000, 999_999, 10**7])

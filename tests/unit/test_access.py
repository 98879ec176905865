"""Who may call: the rules, wrong keys and sessions, without a server."""

from pathlib import Path

import pytest

from qguard.answers import RequestError
from qguard.api.access import Access, Need, Peer, is_loopback, is_neighbour, shown_key
from qguard.api.attempts import MOST_ADDRESSES, MOST_FAILURES, WINDOW, Attempts
from qguard.api.connections import Bounds
from qguard.api.doors import Doors, TooManyFailuresError
from qguard.api.keyfile import KeyFileError, generated_key
from qguard.api.sessions import IDLE, LONGEST, MOST_SESSIONS, Sessions

HERE = Peer("127.0.0.1", known=True, direct=True)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Connection:
    """One that notes whether it had to give way."""

    def __init__(self, *, is_answered: bool = False) -> None:
        self.is_answered = is_answered
        self.gave_way = False

    def give_way(self) -> None:
        self.gave_way = True


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost"])
def test_this_machine_is_loopback(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["", "10.0.0.1", "::ffff:10.0.0.1", "localhost.evil.example", "0.0.0.0"])
def test_nothing_else_is_loopback(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "172.17.0.2", "192.168.1.9", "fd00::2", "fe80::1%eth0", "::ffff:192.168.1.9", "127.0.0.1"]
)
def test_private_addresses_are_neighbours(address: str) -> None:
    assert is_neighbour(address)


@pytest.mark.parametrize(
    "address", ["203.0.113.5", "8.8.8.8", "::ffff:8.8.8.8", "172.32.0.1", "2001:db8::1", "100.64.0.1", "240.0.0.1", "x"]
)
def test_the_rest_of_the_internet_is_no_neighbour(address: str) -> None:
    assert not is_neighbour(address)


def test_without_keys_only_this_machine_and_hooks_of_neighbours_come_in() -> None:
    access = Access("token")
    neighbour, stranger = Peer("10.0.0.7", known=True, direct=True), Peer("8.8.8.8", known=True, direct=True)
    hidden = Peer("127.0.0.1", known=False, direct=False)
    opened = {
        (who, need)
        for who, peer in {"here": HERE, "neighbour": neighbour, "stranger": stranger, "hidden": hidden}.items()
        for need in Need
        if access.opens_without_key(peer, need)
    }
    everybody = {(who, Need.NOTHING) for who in ("here", "neighbour", "stranger", "hidden")}
    here = {("here", need) for need in Need}
    assert opened == everybody | here | {("neighbour", Need.HOOK)}


@pytest.mark.parametrize(
    ("address", "headers", "version", "status"),
    [
        ("127.0.0.1", {"host": "localhost:8089"}, "1.1", "all"),
        ("127.0.0.1", {"host": "0.0.0.0:8089"}, "1.1", "all"),
        ("127.0.0.1", {"host": "qguard"}, "1.1", "all"),
        ("::1", {"host": "[::1]:8089"}, "1.1", "all"),
        ("127.0.0.1", {"host": "localhost"}, "1.0", "nothing"),  # nginx, unless told otherwise
        ("127.0.0.1", {"host": "box.example"}, "1.1", "nothing"),  # a proxy that hands the name on
        ("127.0.0.1", {"host": "192.168.1.9:8089"}, "1.1", "nothing"),
        ("127.0.0.1", {"host": "localhost", "via": "1.1 x"}, "1.1", "nothing"),
        ("10.0.0.7", {"host": "box.example"}, "1.1", "hook"),
        ("10.0.0.7", {"host": "10.0.0.2"}, "1.0", "nothing"),
        ("10.0.0.9", {"host": "10.0.0.2", "x-forwarded-for": "10.0.0.7"}, "1.0", "hook"),  # a trusted proxy names it
        ("10.0.0.9", {"host": "10.0.0.2", "x-forwarded-for": "127.0.0.1"}, "1.0", "nothing"),
    ],
)
def test_who_may_come_through_a_proxy_counts_as_nobody(
    address: str, headers: dict[str, str], version: str, status: str
) -> None:
    access = Access("token", trusted_proxies=("10.0.0.9",))
    peer = access.peer(address, headers, http_version=version)
    opened = {need for need in (Need.HOOK, Need.READ, Need.ALL) if access.opens_without_key(peer, need)}
    assert opened == {"all": {Need.HOOK, Need.READ, Need.ALL}, "hook": {Need.HOOK}, "nothing": set()}[status]


def test_an_empty_key_header_does_not_hide_a_good_one() -> None:
    assert shown_key({"x-api-key": "", "authorization": "Bearer good"}) == b"good"


def test_a_hook_key_closes_hooks_and_nothing_else() -> None:
    access = Access("token", hook_key="key")
    assert [need for need in Need if access.opens_without_key(HERE, need)] == [Need.NOTHING, Need.READ, Need.ALL]


def test_an_empty_key_opens_nothing() -> None:
    access = Access("", api_key="", read_key=None)
    assert access.holder(b"") is None


def test_a_key_outside_of_ascii_fits_in_either_encoding_of_its_way() -> None:
    access = Access("token", api_key="schlüssel")
    header = "schlüssel".encode().decode("latin-1")  # how a server hands on the bytes
    assert access.holder(shown_key({"x-api-key": header})) == "api_key"
    assert access.holder("schlüssel".encode()) == "api_key"


def test_no_key_shows_in_the_rules_own_words() -> None:
    assert "secret" not in repr(Access("secret-token", api_key="secret-key"))


@pytest.mark.parametrize(
    ("hops", "caller"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("1.2.3.4, 198.51.100.7 , 10.0.0.2", "198.51.100.7"),
    ],
)
def test_the_last_hop_that_no_trusted_proxy_is_is_the_caller(hops: str, caller: str) -> None:
    access = Access("token", trusted_proxies=("10.0.0.0/24",))
    peer = access.peer("::ffff:10.0.0.1", {"x-forwarded-for": hops})
    assert (peer.address, peer.known, peer.direct) == (caller, True, False)


@pytest.mark.parametrize("hops", ["unknown", "198.51.100.7, unknown", "_hidden", "", "10.0.0.3"])
def test_a_caller_that_is_not_named_is_not_known(hops: str) -> None:
    peer = Access("token", trusted_proxies=("10.0.0.0/24",)).peer("10.0.0.1", {"x-forwarded-for": hops})
    assert (peer.address, peer.known) == ("10.0.0.1", False)


def test_https_and_name_are_believed_of_trusted_proxies_only() -> None:
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "box.example", "x-forwarded-for": "198.51.100.7"}
    trusted = Access("token", trusted_proxies=("10.0.0.1",)).peer("10.0.0.1", headers)
    strange = Access("token").peer("10.0.0.1", headers)
    assert (trusted.secure, trusted.host, strange.secure, strange.host) == (True, "box.example", False, "")


def test_behind_a_proxy_that_renames_us_our_page_is_still_ours() -> None:
    headers = {"host": "127.0.0.1:8089", "origin": "https://box.example"}
    Access.check_origin(headers, Peer("198.51.100.7", known=True, direct=False, host="box.example"), "POST")
    with pytest.raises(RequestError, match="elsewhere"):
        Access.check_origin(headers, HERE, "POST")


def test_an_address_may_fail_ten_times_a_minute() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    assert [attempts.failed("198.51.100.7") for _ in range(MOST_FAILURES)] == [False] * (MOST_FAILURES - 1) + [True]
    assert attempts.wait("198.51.100.7") == WINDOW
    assert attempts.wait("198.51.100.8") == 0.0
    clock.now += WINDOW
    assert attempts.wait("198.51.100.7") == 0.0


def test_all_addresses_of_one_ipv6_host_count_as_one() -> None:
    attempts = Attempts(Clock())
    for number in range(MOST_FAILURES):
        attempts.failed(f"2001:db8:0:1::{number + 1:x}")
    assert attempts.wait("2001:db8:0:1:ffff::1") > 0.0
    assert attempts.wait("2001:db8:0:2::1") == 0.0


def test_the_table_of_addresses_is_bounded() -> None:
    attempts = Attempts(Clock())
    for number in range(MOST_ADDRESSES + 10):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(attempts) == MOST_ADDRESSES


def test_the_right_key_does_not_help_who_guessed_too_often() -> None:
    clock = Clock()
    doors = Doors(lambda: Access("token", api_key="right"), attempts=Attempts(clock))
    for _ in range(MOST_FAILURES):
        with pytest.raises(RequestError, match="opens nothing"):
            doors.admit(HERE, {"x-api-key": "wrong"}, Need.READ)
    clock.now += WINDOW / 2
    with pytest.raises(TooManyFailuresError) as refused:
        doors.admit(HERE, {"x-api-key": "right"}, Need.READ)
    assert refused.value.retry_after == WINDOW / 2
    clock.now += WINDOW / 2
    assert doors.admit(HERE, {"x-api-key": "right"}, Need.READ) == "api_key from 127.0.0.1"


def test_a_session_ends_when_it_is_idle() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token, session = sessions.begin("api_key")
    clock.now += IDLE - 1
    assert sessions.find(token) is session
    clock.now += IDLE
    assert sessions.find(token) is None
    assert len(sessions) == 0


def test_a_session_ends_after_a_day_however_busy() -> None:
    clock = Clock()
    sessions = Sessions(clock)
    token, _ = sessions.begin("api_key")
    ended = clock.now + LONGEST
    while clock.now < ended - IDLE / 2:
        clock.now += IDLE / 2
        if clock.now < ended:
            assert sessions.find(token)
    clock.now = ended
    assert sessions.find(token) is None


def test_sessions_are_bounded_and_the_idlest_goes_first() -> None:
    sessions = Sessions(Clock())
    first, second = sessions.begin("api_key")[0], sessions.begin("api_key")[0]
    assert sessions.find(first)
    for _ in range(MOST_SESSIONS - 1):
        sessions.begin("read_key")
    assert len(sessions) == MOST_SESSIONS
    assert sessions.find(first)
    assert sessions.find(second) is None


def test_tokens_are_never_the_same_and_are_not_kept() -> None:
    sessions = Sessions(Clock())
    begun = [sessions.begin("api_key") for _ in range(MOST_SESSIONS)]
    secrets = {token for token, _ in begun} | {session.csrf for _, session in begun}
    assert len(secrets) == 2 * MOST_SESSIONS
    assert not any(token in repr(vars(sessions)) for token, _ in begun)


def test_a_session_opens_no_hook() -> None:
    doors = Doors.fixed(Access("token", api_key="key", hook_key="hook"))
    _, session = doors.sessions.begin("api_key")
    with pytest.raises(RequestError, match="a key is needed"):
        doors.admit(HERE, {"x-csrf-token": session.csrf}, Need.HOOK, session=session)


def test_new_keys_end_all_sessions_and_other_changes_none() -> None:
    rules = [Access("token", api_key="one")]
    doors = Doors(lambda: rules[-1])
    token, _ = doors.sessions.begin("api_key")
    rules.append(Access("token", api_key="one", allowed_hosts=("box.example",)))
    assert doors.access.allowed_hosts
    assert doors.sessions.find(token)
    rules.append(Access("token", api_key="two"))
    assert doors.access.api_key == "two"
    assert doors.sessions.find(token) is None


def test_one_address_cannot_take_all_connections_and_this_machine_has_some_of_its_own() -> None:
    bounds = Bounds(most=4, per_address=3, reserved=2)
    first = Connection()
    assert bounds.take("10.0.0.7", first)
    assert [bounds.take("10.0.0.7", Connection()) for _ in range(3)] == [True, True, False]
    assert [bounds.take("10.0.0.8", Connection()) for _ in range(2)] == [True, False]
    busy = [Connection(is_answered=True) for _ in range(3)]
    assert [bounds.take("127.0.0.1", one) for one in busy] == [True, True, False]
    assert not bounds.take("10.0.0.9", Connection())
    bounds.give_back("10.0.0.7", first)
    assert bounds.take("10.0.0.9", Connection())


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.3"]])
def test_this_machine_leaves_places_to_others_too(addresses: list[str]) -> None:
    bounds = Bounds(most=4, per_address=3, reserved=1)
    busy = [Connection(is_answered=True) for _ in range(6)]
    taken = [bounds.take(addresses[number % len(addresses)], one) for number, one in enumerate(busy)]
    assert taken == [True, True, True, True, False, False]
    assert bounds.take("10.0.0.7", Connection())


def test_in_the_reserve_the_oldest_that_is_not_being_answered_gives_way() -> None:
    bounds = Bounds(most=0, reserved=3)
    places = [Connection(is_answered=True), Connection(), Connection()]
    assert all(bounds.take("127.0.0.1", one) for one in places)
    late = Connection()
    assert bounds.take("127.0.0.1", late)
    assert [one.gave_way for one in (*places, late)] == [False, True, False, False]
    for one in (places[0], places[2], late):
        bounds.give_back("127.0.0.1", one)
    assert not bounds.extra
    assert not bounds.open


def test_all_addresses_of_one_ipv6_host_share_its_connections() -> None:
    bounds = Bounds(most=10, per_address=2)
    assert [bounds.take(f"2001:db8:0:1::{n}", Connection()) for n in (1, 2, 3)] == [True, True, False]
    assert bounds.take("2001:db8:0:2::1", Connection())


def test_a_key_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"qguard\.api_key: No such file or directory; set server\.api_key"):
        generated_key(tmp_path / "missing" / "qguard.api_key")


def test_a_folder_in_place_of_the_key_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qguard.api_key").mkdir()
    with pytest.raises(KeyFileError, match=r"qguard\.api_key"):
        generated_key(tmp_path / "qguard.api_key")


def test_the_made_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "qguard.api_key"
    assert generated_key(path) == generated_key(path)
    assert list(tmp_path.iterdir()) == [path]

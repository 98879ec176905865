"""Hooks from end to end: a real qBittorrent runs our line for each torrent that is added."""

import hashlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.hooking import Hooked
from tests.support.process import ALPHA, Setup, until
from tests.support.torrents import PIECE, bencode, make_torrent, seed
from tests.support.webapi import WebApi

pytestmark = pytest.mark.qbittorrent

ADDED = ("autorun_on_torrent_added_enabled", "autorun_on_torrent_added_program")
FINISHED = ("autorun_enabled", "autorun_program")


@pytest.fixture(scope="module")
def client(daemon_version: str, module_daemon: Callable[..., Daemon]) -> Daemon:
    return module_daemon(daemon_version)


@pytest.fixture
def api(client: Daemon) -> Iterator[WebApi]:
    with client.api() as session:
        empty = {ADDED[0]: False, ADDED[1]: "", FINISHED[0]: False, FINISHED[1]: ""}
        session.set_preferences(**empty)
        yield session
        session.set_preferences(**empty)


@pytest.fixture
def setup(client: Daemon, tmp_path: Path) -> Setup:
    return Setup(tmp_path, client.url, username=client.username, password=client.password)


def programs(api: WebApi) -> dict[str, Any]:
    there = api.preferences()
    return {name: there[name] for name in (*ADDED, *FINISHED)}


def hybrid(name: str, announce: str) -> tuple[str, str, bytes]:
    """A torrent of one piece of zeros for both versions of the protocol: v1 hash, torrent ID, torrent file."""
    block = hashlib.sha256(bytes(16 * 1024)).digest()
    pair = hashlib.sha256(block * 2).digest()
    info = {
        "file tree": {name: {"": {"length": PIECE, "pieces root": hashlib.sha256(pair * 2).digest()}}},
        "length": PIECE,
        "meta version": 2,
        "name": name,
        "piece length": PIECE,
        "pieces": hashlib.sha1(bytes(PIECE)).digest(),
    }
    raw = bencode(info)
    metainfo = bencode({"announce": announce, "info": info, "piece layers": {}})
    return hashlib.sha1(raw).hexdigest(), hashlib.sha256(raw).hexdigest()[:40], metainfo


# How fast


def test_a_torrent_that_is_added_is_limited_within_a_second_of_its_hook(
    client: Daemon, api: WebApi, tmp_path: Path
) -> None:
    with Hooked(client, tmp_path) as hooked:
        took = [hooked.time_one() for _ in range(50)]
    p95 = statistics.quantiles(took, n=20)[-1]
    assert p95 <= 1.0, sorted(took)


def test_a_burst_of_three_hundred_is_limited_in_five_seconds_and_holds_nobody_up(
    client: Daemon, api: WebApi, tmp_path: Path
) -> None:
    with Hooked(client, tmp_path) as hooked:
        burst = hooked.time_burst(300)
    assert burst.after_last_hook <= 5.0
    assert burst.requests > 10
    assert burst.slowest_request < 2.0


# What is put there, and taken back


def test_install_and_remove_leave_everything_as_it_was(api: WebApi, setup: Setup) -> None:
    before = api.preferences()
    answer = setup.command("hook", "install", "--json").expect().json
    there = programs(api)
    assert (there[ADDED[0]], there[ADDED[1]]) == (True, answer["lines"][0]["line"])
    assert f"http://127.0.0.1:{setup.port}/webhook" in there[ADDED[1]]
    assert (there[FINISHED[0]], there[FINISHED[1]]) == (False, "")
    setup.command("hook", "remove").expect()
    assert api.preferences() == before


def test_install_twice_changes_nothing_the_second_time(api: WebApi, setup: Setup) -> None:
    setup.command("hook", "install", "--finished").expect()
    first = programs(api)
    answer = setup.command("hook", "install", "--finished", "--json").expect().json
    assert [line["state"] for line in answer["lines"]] == ["present", "present"]
    assert programs(api) == first
    setup.command("hook", "remove").expect()
    assert programs(api)[ADDED[0]] is False


def test_a_line_that_was_switched_off_comes_back_to_the_letter(api: WebApi, setup: Setup) -> None:
    theirs = '/usr/bin/true  "%N"  ä'
    api.set_preferences(**{ADDED[0]: False, ADDED[1]: theirs})
    before = programs(api)
    setup.command("hook", "install").expect()
    assert programs(api)[ADDED[0]] is True
    setup.command("hook", "remove").expect()
    assert programs(api) == before


def test_another_program_stays_and_a_script_for_both_is_printed(api: WebApi, setup: Setup) -> None:
    theirs = '/usr/bin/notify --title "new: %N" %L'
    api.set_preferences(**{ADDED[0]: True, ADDED[1]: theirs})
    before = programs(api)
    done = setup.command("hook", "install").expect(1)
    assert programs(api) == before
    assert "#!/bin/sh" in done.out
    assert "/usr/bin/notify" in done.out
    line = setup.command("hook", "install", "--json").expect(1).json["lines"][0]
    assert line["state"] == "occupied"
    # The line of the script counts as ours from then on.
    api.set_preferences(**{ADDED[1]: line["wrapper_line"]})
    again = setup.command("hook", "install", "--json").expect().json
    assert again["lines"][0]["state"] == "present"


def test_a_line_that_somebody_changed_since_is_left_alone(api: WebApi, setup: Setup) -> None:
    setup.command("hook", "install").expect()
    api.set_preferences(**{ADDED[1]: "/usr/bin/true"})
    done = setup.command("hook", "remove").expect(1)
    assert "somebody has changed the line" in done.out
    assert programs(api)[ADDED[1]] == "/usr/bin/true"


def test_with_a_key_the_line_reads_it_from_a_file_of_our_user(api: WebApi, setup: Setup) -> None:
    setup.config["server"] = {"hook_key": "a-key-for-hooks-only"}
    setup.save()
    done = setup.command("hook", "install").expect()
    (path,) = setup.folder.glob("*.curlrc")
    assert path.stat().st_mode & 0o777 == 0o600
    assert "a-key-for-hooks-only" in path.read_text()
    line = programs(api)[ADDED[1]]
    assert f"-K {path}" in line
    assert "a-key-for-hooks-only" not in line + done.out + done.err
    setup.command("hook", "remove").expect()
    assert not path.exists()


def test_the_script_for_both_finds_the_key(api: WebApi, setup: Setup) -> None:
    setup.config["server"] = {"hook_key": "a-key-for-hooks-only"}
    setup.save()
    api.set_preferences(**{ADDED[0]: True, ADDED[1]: "/usr/bin/true"})
    done = setup.command("hook", "install").expect(1)
    (path,) = setup.folder.glob("*.curlrc")
    assert f"-K {path}" in done.out
    assert "a-key-for-hooks-only" not in done.out + done.err


def test_a_client_elsewhere_needs_our_address(api: WebApi, setup: Setup) -> None:
    setup.config["qbittorrent"]["url"] = setup.config["qbittorrent"]["url"].replace("127.0.0.1", "0.0.0.0")
    setup.save()
    before = programs(api)
    done = setup.command("hook", "install").expect(1)
    assert "server.hook_url" in done.err
    assert programs(api) == before


# What doctor says


def test_doctor_finds_the_missing_line_and_the_tight_client_limit(api: WebApi, setup: Setup) -> None:
    def verdicts() -> tuple[int, dict[str, tuple[str, str]]]:
        done = setup.command("doctor", "--json")
        return done.code, {check["topic"]: (check["verdict"], check["words"]) for check in done.json["checks"]}

    code, missing = verdicts()
    assert code == 1
    assert missing["qBittorrent"][0] == missing["ledger"][0] == "good"
    assert missing["hook"][0] == "wrong"
    assert "qguard hook install" in missing["hook"][1]
    setup.command("hook", "install").expect()
    code, good = verdicts()
    assert (code, good["hook"][0], good["client speed limit"][0]) == (0, "good", "good")
    api.post("transfer/setUploadLimit", limit=1_000_000)
    try:
        code, tight = verdicts()
    finally:
        api.post("transfer/setUploadLimit", limit=0)
    assert (code, tight["client speed limit"][0]) == (1, "wrong")
    assert "1000000 B/s" in tight["client speed limit"][1] or "999424 B/s" in tight["client speed limit"][1]


# What a hook may not do


def test_hooks_of_torrents_outside_of_the_rollout_write_nothing(client: Daemon, api: WebApi, tmp_path: Path) -> None:
    with Hooked(client, tmp_path) as hooked:
        hooked.setup.edit(rollout_percentage=0)
        hooked.service.reload()
        hooked.service.cycle()
        torrent = hooked.make(1)[0]
        hooked.add([torrent])
        hooked.proxy.wait_for("/webhook", 1)
        hooked.service.cycle()  # whatever the hook leads to has been done before it, or is done by it
        assert hooked.limits([torrent]) == [0]
        assert hooked.service.health()["last_hook_time"] is not None


def test_the_v1_hash_of_a_hybrid_torrent_names_it(client: Daemon, api: WebApi, setup: Setup) -> None:
    v1, name, metainfo = hybrid("a-hybrid", f"http://{ALPHA}:9/announce")
    setup.edit(poll_interval=60)
    with setup.start() as service:
        api.add([("a-hybrid.torrent", metainfo)], {"savepath": str(client.inside(client.data)), "paused": "true"})
        until(lambda: name in api.torrents(), "the torrent")
        assert v1 not in api.torrents()
        assert service.http.post("/webhook", data={"event": "add", "hash": v1}).status_code == 202
        until(lambda: api.limits([name])[name] > 0, "a limit")


def test_a_torrent_that_is_named_before_the_client_has_it_is_limited_when_it_comes(
    client: Daemon, api: WebApi, setup: Setup
) -> None:
    early = make_torrent("named-early", client.data, tiers=[[f"http://{ALPHA}:9/announce"]])
    setup.edit(poll_interval=60)
    with setup.start() as service:
        assert service.http.post("/webhook", data={"event": "add", "hash": early.infohash}).status_code == 202
        seed(client, api, [early])
        service.wait_health(lambda _: api.limits([early.infohash])[early.infohash] > 0, "a limit", 20.0)

"""Hooks from end to end: a real qBittorrent runs our line for each torrent that is added."""

import hashlib
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.hooking import Hooked
from tests.support.process import ALPHA, Setup, until
from tests.support.proxy import Proxy
from tests.support.torrents import PIECE, Torrent, bencode, make_torrent, seed
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


def test_remove_leaves_a_script_that_runs_ours_too_and_its_key(api: WebApi, setup: Setup) -> None:
    setup.config["server"] = {"hook_key": "a-key-for-hooks-only"}
    setup.save()
    api.set_preferences(**{ADDED[0]: True, ADDED[1]: "/usr/bin/true"})
    line = setup.command("hook", "install", "--json").expect(1).json["lines"][0]
    api.set_preferences(**{ADDED[1]: line["wrapper_line"]})
    before = programs(api)
    done = setup.command("hook", "remove").expect(1)
    assert f"the script {line['wrapper']} is run" in done.out
    assert programs(api) == before
    assert list(setup.folder.glob("*.curlrc")), "the script reads the key from there"


# Who and why, before anything is written


@contextmanager
def no_action_can_be_stored(setup: Setup) -> Iterator[None]:
    with closing(sqlite3.connect(setup.database)) as db:
        db.execute("CREATE TRIGGER refuse BEFORE INSERT ON actions BEGIN SELECT RAISE(ABORT, 'refused'); END")
        yield
        db.execute("DROP TRIGGER refuse")


def hook_actions(setup: Setup) -> list[tuple[str, str, str]]:
    """Kind, who and reason, the oldest first."""
    rows = setup.command("ledger", "--json").expect().json["cycles"]
    return [(row["kind"], row["who"], row["reason"]) for row in reversed(rows) if row["kind"].startswith("hook")]


def test_install_and_remove_stand_in_the_ledger_with_who_and_why(api: WebApi, setup: Setup) -> None:
    setup.command("hook", "install", "--finished", "--reason", "new seedbox").expect()
    setup.command("hook", "install", "--reason", "nothing left to do").expect()
    with setup.start() as service:
        setup.command("hook", "remove", "--reason", f"see http://{ALPHA}/announce?passkey=0123456789abcdef").expect()
        assert service.post("/hook/install", reason="by hand").status_code == 200
        assert service.post("/hook/remove").status_code == 200
        listed = service.http.get("/ledger").json()["cycles"]
    done = hook_actions(setup)
    assert [(kind, who) for kind, who, _ in done[:2]] == [("hook install", "command"), ("hook remove", "command")]
    assert done[0][2] == "added, finished; new seedbox"
    assert done[1][2].startswith("added, finished; see http://")
    assert "0123456789abcdef" not in done[1][2]
    assert [(kind, reason) for kind, _, reason in done[2:]] == [
        ("hook install", "added; by hand"),
        ("hook remove", "added"),
    ]
    assert [row["kind"] for row in listed if row["kind"].startswith("hook")] == [kind for kind, *_ in reversed(done)]
    assert "new seedbox" in setup.command("ledger").expect().out


def test_what_the_ledger_cannot_store_is_not_written(client: Daemon, setup: Setup, api: WebApi) -> None:
    before = programs(api)
    with Proxy(client.port) as proxy:
        setup.config["qbittorrent"]["url"] = proxy.url
        setup.save()
        setup.command("ledger").expect()  # makes the database
        with no_action_can_be_stored(setup):
            assert "refused" in setup.command("hook", "install", "--finished").expect(1).err
        assert (proxy.requests("app/setPreferences"), programs(api)) == ([], before)
        setup.command("hook", "install", "--finished").expect()
        installed = programs(api)
        proxy.log.clear()
        with no_action_can_be_stored(setup):
            assert "refused" in setup.command("hook", "remove").expect(1).err
        assert (proxy.requests("app/setPreferences"), programs(api)) == ([], installed)
        setup.command("hook", "remove").expect()
    assert programs(api) == before


def test_it_is_in_the_ledger_before_it_is_written_and_what_was_there_survives_a_failure(
    client: Daemon, setup: Setup, api: WebApi
) -> None:
    theirs = "/usr/bin/true --of-the-owner"
    api.set_preferences(**{ADDED[0]: False, ADDED[1]: theirs})
    before = programs(api)
    with Proxy(client.port) as proxy:
        setup.config["qbittorrent"]["url"] = proxy.url
        setup.save()
        for word in ("install", "remove"):
            present = programs(api)
            proxy.fail_next("app/setPreferences", 500)
            setup.command("hook", word, "--reason", "fails").expect(3)
            assert programs(api) == present
            assert hook_actions(setup)[-1] == (f"hook {word}", "command", "added; fails")
            setup.command("hook", word, "--reason", "works").expect()
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


# The line, run by qBittorrent


def add(client: Daemon, api: WebApi, torrent: Torrent, **more: str) -> None:
    """Add it, with its content checked; its hooks come whenever qBittorrent runs them."""
    options = {"savepath": str(client.inside(client.data)), "autoTMM": "false", "paused": "false", "stopped": "false"}
    api.add([(f"{torrent.name}.torrent", torrent.metainfo)], options | more)


def logged(client: Daemon, api: WebApi) -> str:
    """All that qBittorrent says of itself: by its Web API, and in files."""
    files = [path.read_text(errors="replace") for path in client.data.parent.rglob("*.log*") if path.is_file()]
    return "\n".join([*(row["message"] for row in api.get("log/main").json()), *files])


def test_the_key_works_and_is_not_in_the_clients_log(client: Daemon, api: WebApi, setup: Setup) -> None:
    key = "a-key-for-hooks-only"
    setup.config["server"] = {"hook_key": key}
    setup.edit(poll_interval=60)
    torrent = make_torrent("with-a-key", client.data, tiers=[[f"http://{ALPHA}:9/announce"]])
    with setup.start() as service:
        setup.command("hook", "install").expect()
        if client.inside(client.data) != client.data:  # as docs/hooks.md says of a client that cannot read our folder
            (path,) = setup.folder.glob("*.curlrc")
            copy = client.data / f"{setup.folder.name}.curlrc"
            copy.write_bytes(path.read_bytes())
            api.set_preferences(**{ADDED[1]: programs(api)[ADDED[1]].replace(str(path), str(client.inside(copy)))})
        assert service.http.post("/webhook", data={"event": "add", "hash": torrent.infohash}).status_code == 401
        add(client, api, torrent)
        service.wait_health(lambda health: health["last_hook_time"], "the hook with its key")
        until(lambda: api.limits([torrent.infohash])[torrent.infohash] > 0, "its limit")
        told = {check["topic"]: check["words"] for check in setup.command("doctor", "--json").json["checks"]}
        assert told["last hook"].startswith("came ")
        said = logged(client, api)
        assert "curl -q" in said, "it logs what it runs, so that this test can fail"
        assert f"hash={torrent.infohash}" in said
        assert key not in said + service.log
    api.delete([torrent.infohash])


def test_the_script_for_two_programs_runs_both(client: Daemon, api: WebApi, setup: Setup) -> None:
    sign = client.data / f"{setup.folder.name}.sign"
    api.set_preferences(**{ADDED[0]: True, ADDED[1]: f'/bin/cp /dev/null "{client.inside(sign)} %N"'})
    setup.edit(poll_interval=60)
    torrent = make_torrent("two; touch programs", client.data, tiers=[[f"http://{ALPHA}:9/announce"]])
    with setup.start() as service:
        line = setup.command("hook", "install", "--json").expect(1).json["lines"][0]
        script = client.data / f"{setup.folder.name}.sh"  # where qBittorrent can run it
        script.write_bytes(Path(line["wrapper"]).read_bytes())
        script.chmod(0o755)
        api.set_preferences(**{ADDED[1]: line["wrapper_line"].replace(line["wrapper"], str(client.inside(script)))})
        add(client, api, torrent)
        until(lambda: sign.with_name(f"{sign.name} {torrent.name}").exists(), "what the other program does")
        until(lambda: api.limits([torrent.infohash])[torrent.infohash] > 0, "what our hook does")
        assert service.health()["last_hook_time"] is not None
    api.delete([torrent.infohash])


def test_a_torrent_that_finishes_is_told_of(client: Daemon, api: WebApi, tmp_path: Path) -> None:
    with Hooked(client, tmp_path, finished=True) as hooked:
        torrent = hooked.make(1)[0]
        add(client, api, torrent)  # its content is there, so that it is finished as soon as that is checked
        until(lambda: len(hooked.hooks()) >= 2, "two hooks")
        events = {one.form()["event"]: one.form()["hash"] for one in hooked.hooks()}
    assert events == {"add": torrent.infohash, "complete": torrent.infohash}


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

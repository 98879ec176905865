"""What the commands say: data on stdout, one clear line on stderr when something is wrong, and the exit code."""

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qguard.cli import cli
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.process import ALPHA, ALPHA_CAP, ORIGINALS, Done, Seeds, Service, Setup, command, sown, until

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens there."""


def assert_one_line(done: Done, code: int, *words: str) -> None:
    """One line on stderr with all of these words, nothing on stdout, and the exit code."""
    assert (done.code, done.out) == (code, ""), done
    assert done.err.count("\n") == 1, done.err
    assert done.err.endswith("\n")
    for word in words:
        assert word in done.err


@pytest.fixture
def lonely(tmp_path: Path) -> Setup:
    """A good configuration of a qBittorrent that is not there."""
    return Setup(tmp_path, NOWHERE, username="qguard", password="not needed")


# Configuration

CAP = "max_upload_speed: 700000"
ROLLOUT = "rollout_percentage: 100"

BAD_FILES = {
    "YAML syntax": (
        "trackers:",
        "trackers: ]",
        ["qguard.yaml:10:11: YAML syntax", "missing quotation mark, colon or bracket"],
    ),
    "unknown key": ("poll_interval: 1", "pol_interval: 1", ["qguard.yaml:3:", "global.pol_interval", "poll_interval?"]),
    "bad regex": (r"127\.0\.11\.1", "'('", ["trackers[0].pattern", '"("', "not a regular expression", "`match`"]),
    "no catch-all": ("pattern: .*", "pattern: x", ["trackers", "no catch-all", "pattern: '.*'"]),
    "cap 0": (CAP, "max_upload_speed: 0", ["trackers[0].max_upload_speed = 0", "0 is not a rate", "unlimited"]),
    "cap above 2^42": (
        CAP,
        f"max_upload_speed: {2**43}",
        [f"max_upload_speed = {2**43}", "more than 2^42", str(2**42)],
    ),
    "bad unit": (CAP, "max_upload_speed: 10 M", ['max_upload_speed = "10 M"', "10 MB/s, 10 MiB/s or 10 Mbit/s"]),
    "unknown strategy": (
        "poll_interval: 1",
        "allocation_strategy: weigted",
        ['global.allocation_strategy = "weigted"', "installed"],
    ),
    "rollout 101": (ROLLOUT, "rollout_percentage: 101", ["global.rollout_percentage = 101", "from 0 to 100"]),
    "rollout true": (ROLLOUT, "rollout_percentage: true", ["global.rollout_percentage = true", "from 0 to 100"]),
    "rollout text": (ROLLOUT, 'rollout_percentage: "x"', ['global.rollout_percentage = "x"', "from 0 to 100"]),
}


@pytest.mark.parametrize(("old", "new", "words"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_configuration_is_named_by_place_key_value_and_remedy(
    lonely: Setup, old: str, new: str, words: list[str]
) -> None:
    good = lonely.path.read_text()
    assert old in good
    lonely.write(good.replace(old, new))
    assert_one_line(lonely.command("check"), 2, f"{lonely.path}:", *words)


@pytest.mark.parametrize("words", [["run"], ["rollback", "--yes"], ["match", "x"]])
def test_every_command_refuses_a_bad_configuration(lonely: Setup, words: list[str]) -> None:
    lonely.write(lonely.path.read_text().replace("pattern: .*", "pattern: x"))
    assert_one_line(lonely.command(*words), 2, "no catch-all")
    assert not lonely.database.exists()


def test_all_faults_of_a_file_are_told_each_in_its_line(lonely: Setup) -> None:
    lonely.write(
        lonely.path.read_text().replace(CAP, "max_upload_speed: 0").replace(ROLLOUT, "rollout_percentage: 101")
    )
    told = lonely.command("check").expect(2).err.splitlines()
    assert ["rollout_percentage" in told[0], "max_upload_speed" in told[1]] == [True, True]
    assert len(told) == 2


def test_a_missing_file_is_named_with_what_named_it(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert_one_line(command("check", "--config", str(missing)), 2, str(missing), "--config names", "copy config/qguard")
    by_variable = command("check", env={"QGUARD_CONFIG": str(missing)})
    assert_one_line(by_variable, 2, str(missing), "$QGUARD_CONFIG names", "copy config/qguard")
    assert_one_line(command("check", cwd=tmp_path), 2, "no configuration; looked at", str(tmp_path), "copy config/")


# Usage


@pytest.mark.parametrize("percentage", ["101", "true", "x", "1.5"])
def test_a_percentage_that_is_none_is_refused(lonely: Setup, percentage: str) -> None:
    assert_one_line(lonely.command("rollout", percentage), 2, percentage, "a whole number from 0 to 100", "--help")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["previw"], ["No such command 'previw'", "qguard --help"]),
        (["pause", "--for", "soon"], ["'soon' is not a length of time", "90s, 30m, 2h or 1d"]),
        (["rollback", "--yes", "--since", "lately"], ["'lately' is not a time", "2026-01-31"]),
        (["rollback"], ["needs a confirmation", "--yes"]),
        (["adopt", "--originals", "as-is"], ["needs a confirmation", "--yes"]),
        (["adopt", "--yes"], ["--originals"]),
        (["explain"], ["HASH"]),
        (["pause", "--for", "2h", "--until", "3h"], ["--for and --until", "give one"]),
        (["pause", "--until", "soon"], ["'soon' is not a time"]),
        (["override"], ["TRACKER"]),
        (["override", "alpha"], ["RATE or --clear"]),
        (["override", "alpha", "1 MiB/s", "--clear"], ["RATE or --clear"]),
        (["override", "alpha", "--clear", "--until", "2h"], ["--until has no meaning"]),
        (["override", "alpha", "10 M"], ["rate '10 M'", "10 MiB/s"]),
        (["override", "alpha", "0"], ["rate 0", "0 is not a rate", "unlimited"]),
        (["override", "alpha", str(2**43)], ["more than 2^42"]),
        (["override", "alpha", "1 MiB/s", "--until", "2001-01-01"], ["'2001-01-01' lies in the past"]),
        (["override", "alpha", "1 MiB/s", "--until", "9" * 20], ["is not a time"]),
        (["override", "alpha", "1 MiB/s", "--until", "9999-12-31"], ["is not a time"]),
        (["override", "alpha", "1 MiB/s", "--until", "9" * 17 + "d"], ["is not a time"]),
        (["pause", "--for", "9" * 17 + "d"], ["no length of time that ends"]),
        (["pause", "--for", "9" * 400], ["no length of time that ends"]),
        (["pause", "--for", "0s"], ["no length of time that ends"]),
        (["rollback", "--yes", "--since", "9" * 17 + "d"], ["is not a time"]),
        (["rollback", "--yes", "--cycle", "9" * 23], ["a whole number from 0 to"]),
        (["ledger", "--cycle", "9" * 23], ["a whole number from 0 to"]),
        (["ledger", "--before", "-1"], ["a whole number from 0 to"]),
        (["resume", "--hash", "zz"], ["is not an info-hash", "40 digits"]),
    ],
    ids=" ".join,
)
def test_a_wrong_use_is_one_line(lonely: Setup, words: list[str], told: list[str]) -> None:
    assert_one_line(lonely.command(*words), 2, *told)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_has_a_help(name: str) -> None:
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Usage: cli {name} " in shown.output
    assert "--help" in shown.output
    assert cli.commands[name].help


def test_the_help_of_all_goes_to_stdout() -> None:
    shown = command("--help").expect()
    assert all(name in shown.out for name in cli.commands)
    assert shown.err == ""


# Starting


def test_a_port_in_use_ends_the_start(lonely: Setup) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", lonely.port))
        other.listen()
        assert_one_line(
            lonely.command("run"), 1, f"127.0.0.1:{lonely.port}", "global.port", "in use", "Choose another global.port"
        )


def test_a_data_folder_that_cannot_be_written_ends_the_start(lonely: Setup) -> None:
    (lonely.folder / "data").write_text("a file in the folder's place")
    lonely.config["rollback"]["database_path"] = "data/ledger.db"
    lonely.save()
    for words in (["run"], ["ledger"]):
        assert_one_line(
            lonely.command(*words), 1, str(lonely.folder / "data"), "its folder is a file", "correct database_path"
        )


def test_a_log_file_that_cannot_be_written_ends_the_start(lonely: Setup) -> None:
    lonely.config["logging"]["file"] = "."
    lonely.save()
    assert_one_line(lonely.command("run"), 1, f"log file {lonely.folder}", "Is a directory", "logging.file")


@pytest.mark.parametrize("words", [["run"], ["ledger"], ["rollback", "--yes"]], ids=" ".join)
def test_a_database_of_another_program_is_left_as_it_is(lonely: Setup, words: list[str]) -> None:
    with closing(sqlite3.connect(lonely.database)) as db:
        db.execute("CREATE TABLE theirs (x)")
    before = lonely.database.read_bytes()
    assert_one_line(lonely.command(*words), 1, str(lonely.database), "database_path")
    assert lonely.database.read_bytes() == before


# Beside a client that does not let us in, or is not there


@pytest.fixture(scope="module")
def planted(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon) as seeds:
        yield seeds


@pytest.fixture
def seeds(planted: Seeds) -> Seeds:
    planted.reset()
    return planted


@pytest.fixture
def setup(seeds: Seeds, tmp_path: Path) -> Setup:
    return Setup.of(tmp_path, seeds)


@pytest.fixture(scope="module")
def running(planted: Seeds, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that only observes."""
    setup = Setup.of(tmp_path_factory.mktemp("running"), planted)
    setup.edit(rollout_percentage=0)
    with setup.start() as service:
        yield service


ASK_THE_CLIENT = [
    ["preview"],
    ["rollback", "--yes"],
    ["trackers"],
    ["explain", "0" * 40],
    ["adopt", "--yes", "--originals", "as-is"],
]


@pytest.mark.parametrize("words", ASK_THE_CLIENT, ids=lambda words: str(words[0]))
def test_without_qbittorrent_they_end_with_3(lonely: Setup, words: list[str]) -> None:
    assert_one_line(lonely.command(*words), 3, f"{NOWHERE} does not answer (connection refused)", "qbittorrent.url")


def test_what_needs_no_qbittorrent_works_without(lonely: Setup) -> None:
    checked = lonely.command("check").expect()
    assert "alpha: 700000 B/s" in checked.out
    matched = lonely.command("match", f"http://{ALPHA}/announce", "--json").expect()
    assert matched.json["matched_tracker"] == "alpha"
    history = lonely.command("ledger", "--json").expect().json
    assert (history["cycles"], history["changes"]) == ([], [])
    assert lonely.command("pause", "--json").expect().json["status"] == "paused"
    assert lonely.command("resume", "--json").expect().json["status"] == "resumed"
    assert lonely.command("rollout", "10", "--json").expect().json["rollout_percentage"] == 10


@pytest.mark.qbittorrent
def test_a_refused_login_ends_with_4(seeds: Seeds, setup: Setup) -> None:
    setup.config["qbittorrent"]["password"] = "wrong"
    setup.save()
    assert_one_line(setup.command("preview"), 4, seeds.proxy.url, "'qguard'", "check qbittorrent.username and password")


@pytest.mark.qbittorrent
def test_through_a_service_that_cannot_reach_its_client_the_codes_are_the_same(seeds: Seeds, setup: Setup) -> None:
    setup.config["qbittorrent"]["url"] = NOWHERE
    setup.save()
    with setup.start(wait=False) as service:
        service.wait_degraded("client")
        assert_one_line(setup.command("preview"), 3, "connection refused", "try again when it answers")
        setup.config["qbittorrent"] |= {"url": seeds.proxy.url, "password": "wrong"}
        setup.save()
        service.wait_health(
            lambda health: (
                "refused" in health["problems"].get("client", "") and "login" in health["problems"]["client"]
            ),
            "a refused login",
        )
        assert_one_line(setup.command("preview"), 4, "refused the login", "correct the credentials")


# Beside a client


@pytest.mark.qbittorrent
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["explain", "0" * 40], ["no torrent has the info-hash", "40 digits"]),
        (["explain", "not-a-hash"], ["no torrent has the info-hash 'not-a-hash'", "40 digits"]),
        (["rollback", "--yes", "--tracker", "gamma"], ["there is no tracker 'gamma'", "there are alpha, beta, rest"]),
        (["pause", "--tracker", "gamma"], ["there is no tracker 'gamma'", "there are alpha, beta, rest"]),
        (["resume", "--tracker", "gamma"], ["there is no tracker 'gamma'", "there are alpha, beta, rest"]),
        (["rollout", "10", "--tracker", "gamma"], ["there is no tracker 'gamma'", "there are alpha, beta, rest"]),
        (["override", "gamma", "1 MiB/s"], ["there is no tracker 'gamma'", "there are alpha, beta, rest"]),
        (["override", "gamma", "--clear"], ["there is no tracker 'gamma'", "there are alpha, beta, rest"]),
        (["resume", "--hash", "F" * 40], ["never changed torrent", "f" * 40, "nothing was done"]),
        (["rollback", "--yes", "--cycle", "999"], ["999"]),
        (["adopt", "--yes", "--originals", "none.jsonl"], ["no originals file", "none.jsonl", ".originals.jsonl"]),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_what_cannot_be_done_is_one_line_with_a_service_and_without(
    running: Service, setup: Setup, words: list[str], told: list[str]
) -> None:
    assert_one_line(running.setup.command(*words), 1, *told)
    assert_one_line(setup.command(*words), 1, *told)


@pytest.mark.qbittorrent
@pytest.mark.parametrize("words", [["resume", "--hash", "zz"], ["pause", "--reason", "x" * 2000]], ids=" ".join)
def test_a_wrong_use_that_only_the_service_sees_ends_with_2_too(running: Service, words: list[str]) -> None:
    assert running.setup.command(*words).expect(2).out == ""


@pytest.mark.qbittorrent
@pytest.mark.parametrize("content", ["", "not an original\n"])
def test_a_wrong_originals_file_is_one_line(running: Service, setup: Setup, content: str) -> None:
    for there in (running.setup, setup):
        (there.folder / "wrong.originals.jsonl").write_text(content)
        told = there.command("adopt", "--yes", "--originals", str(there.folder / "wrong.originals.jsonl"))
        assert_one_line(told, 2, "wrong.originals.jsonl")


ALL = {
    "check": [],
    "preview": [],
    "rollout": ["0"],
    "pause": [],
    "resume": [],
    "override": ["alpha", "--clear"],
    "adopt": ["--yes", "--originals", "as-is"],
    "trackers": [],
    "match": [f"http://{ALPHA}/announce"],
    "explain": [],
    "ledger": [],
    "rollback": ["--dry-run"],
}
"""Commands that answer with data, and what they need to."""


@pytest.mark.qbittorrent
@pytest.mark.parametrize("name", ALL)
def test_json_through_a_service_and_words_without_one(seeds: Seeds, running: Service, setup: Setup, name: str) -> None:
    words = [name, *ALL[name], *([seeds.hashes[0]] if name == "explain" else [])]
    data = running.setup.command(*words, "--json").expect()
    told = setup.command(*words).expect()
    assert isinstance(json.loads(data.out), dict | list)
    assert told.out.strip() != ""
    assert not told.out.startswith("{")
    assert (data.err, told.err) == ("", "")


@pytest.mark.qbittorrent
def test_with_a_service_commands_go_through_it_and_without_one_they_do_it_themselves(
    seeds: Seeds, setup: Setup
) -> None:
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        setup.command("pause", "--tracker", "beta", "--reason", "a test").expect()
        assert len(service.logged("paused beta by command")) == 1
        assert service.health()["paused"] == ["beta"]
        setup.command("rollback", "--yes", "--tracker", "alpha").expect()
        assert len(service.logged("rollback by command")) == 1
        told = service.log
        service.stop()
    setup.command("rollback", "--yes").expect()
    assert service.log.count("rollback by") == told.count("rollback by")
    assert seeds.api.limits() == seeds.originals
    actions = setup.command("ledger", "--json").expect().json["cycles"]
    assert [(action["kind"], action["who"]) for action in actions] == [
        ("rollback", "command"),
        ("rollback", "command"),
        ("pause", "command"),
        ("cycle", "service"),
    ]


def overrides(setup: Setup) -> list[tuple[str, str]]:
    """Who and reason of each override, the oldest first."""
    rows = setup.command("ledger", "--json").expect().json["cycles"]
    return [(row["who"], row["reason"]) for row in reversed(rows) if row["kind"] == "override"]


def test_an_override_needs_neither_service_nor_client_and_stands_in_the_ledger(lonely: Setup) -> None:
    began = time.time()
    done = lonely.command("override", "alpha", "2 MiB/s", "--until", "2h", "--reason", "guests", "--json").expect().json
    assert (done["status"], done["tracker"], done["rate"]) == ("set", "alpha", 2 * 2**20)
    assert began + 7200 <= done["until"] <= time.time() + 7200
    assert "2097152 B/s" in done["cap"]
    end = int(began) + 86400
    whole = lonely.command("override", "beta", "1000000", "--until", str(end), "--json").expect().json
    assert (whole["rate"], whole["until"]) == (1_000_000, end)
    unlimited = lonely.command("override", "beta", "unlimited", "--json").expect().json
    assert (unlimited["rate"], unlimited["until"]) == (None, None)
    date = datetime.fromtimestamp(end).astimezone()
    told = lonely.command("override", "rest", "3 MiB/s", "--until", date.strftime("%Y-%m-%dT%H:%M:%S")).expect()
    assert "set: cap of rest is 3145728 B/s" in told.out
    assert f"until {date.strftime('%Y-%m-%d %H:%M:%S')}" in told.out
    lonely.command("override", "alpha", "--clear", "--reason", "they left").expect()
    assert overrides(lonely) == [
        ("command", f"alpha: {done['cap']}; guests"),
        ("command", f"beta: {whole['cap']}"),
        ("command", f"beta: {unlimited['cap']}"),
        ("command", "rest: 3145728 B/s = 3.15 MB/s = 3.00 MiB/s"),
        ("command", "alpha: cleared; they left"),
    ]


@pytest.mark.qbittorrent
def test_an_override_through_a_service_holds_at_once_and_until_it_is_cleared(seeds: Seeds, setup: Setup) -> None:
    with setup.start() as service:
        seeds.wait_limits(seeds.limited)
        done = setup.command("override", "alpha", str(ALPHA_CAP // 8), "--json").expect().json
        assert (done["status"], done["rate"], done["until"]) == ("set", ALPHA_CAP // 8, None)
        assert len(service.logged("cap of alpha overridden by command")) == 1
        assert service.http.get("/stats/trackers").json()["alpha"]["override"]["rate"] == ALPHA_CAP // 8
        lowered = {name: limit for name, limit in seeds.limited.items() if limit == 4_096}
        until(lambda: max(seeds.api.limits(list(lowered)).values()) < 4_096, "lower standing limits")
        assert setup.command("override", "alpha", "--clear", "--json").expect().json["status"] == "cleared"
        seeds.wait_limits(seeds.limited)
    assert [who for who, _ in overrides(setup)] == ["command", "command"]
    setup.command("rollback", "--yes").expect()  # the client is the same for all tests


@pytest.mark.qbittorrent
def test_pages_of_the_ledger_are_of_actions_and_with_a_filter_of_changes(seeds: Seeds, setup: Setup) -> None:
    with setup.start():
        seeds.wait_limits(seeds.limited)
    setup.command("rollback", "--yes").expect()
    for _ in range(2):
        assert time.time() < setup.command("pause", "--until", "2h", "--json").expect().json["until"]

    def page(*words: str) -> dict[str, Any]:
        found: dict[str, Any] = setup.command("ledger", "--json", *words).expect().json
        return found

    everything = page()
    first = page("--limit", "1")
    assert (first["show"], first["next_before"]) == ("cycles", first["cycles"][0]["id"])
    second = page("--before", str(first["next_before"]))
    assert [*first["cycles"], *second["cycles"]] == everything["cycles"]
    changes = page("--tracker", "beta")["changes"]
    first = page("--tracker", "beta", "--limit", "2")
    assert (first["show"], first["next_before"]) == ("changes", first["changes"][1]["id"])
    second = page("--tracker", "beta", "--before", str(first["next_before"]))
    assert len(changes) > 2
    assert [*first["changes"], *second["changes"]] == changes
    assert (
        f"--before {first['next_before']}" in setup.command("ledger", "--tracker", "beta", "--limit", "2").expect().out
    )


@pytest.mark.qbittorrent
def test_a_second_service_on_the_same_ledger_is_refused_and_the_first_goes_on(running: Service) -> None:
    setup = running.setup
    good = setup.path.read_text()
    second = setup.folder / "second.yaml"
    second.write_text(good.replace(f"port: {setup.port}", f"port: {free_port()}"))
    refused = command("run", "--config", str(second))
    where = f"process {running.pid} at http://127.0.0.1:{setup.port}"
    assert_one_line(refused, 1, str(setup.database), where, "stop that one first, or set another database_path")
    assert running.cycle()["status"]


@pytest.mark.qbittorrent
def test_a_preview_of_another_configuration_beside_a_service_shows_what_that_would_do(running: Service) -> None:
    setup = running.setup
    other = setup.folder / "other.yaml"
    other.write_text(setup.path.read_text().replace("rollout_percentage: 0", "rollout_percentage: 100"))
    shown = command("preview", "--json", "--config", str(other)).expect().json
    capped = sum(len(limits) for host, limits in ORIGINALS.items() if host.endswith((".1", ".2")))
    assert shown["proposed_count"] == capped - 1, "one torrent has less than its standing limit already"
    assert setup.command("preview", "--json").expect().json["proposed_count"] == 0

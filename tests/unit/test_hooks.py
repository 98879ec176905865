"""What the hook line is: which address, which key, whose line it is, and a script for two programs."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qguard.answers import RequestError
from qguard.api.access import Access, Need, Peer
from qguard.config import Settings, parse
from qguard.hooks import commands_of_values, hook_line, hook_url, is_plain, key_file, reaches, split, wrapper, write_key

URL = "http://127.0.0.1:8089/webhook"
RULES = [{"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"}]


def settings(client: str = "http://127.0.0.1:8080", **sections: Any) -> Settings:
    document = {"qbittorrent": {"url": client}, "trackers": RULES, **sections}
    return parse(yaml.safe_dump(document), source=Path("/etc/qguard/qguard.yaml"), environ={}).settings


# The address


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8089/webhook"),
        ("0.0.0.0", "http://127.0.0.1:8089/webhook"),
        ("127.0.0.5", "http://127.0.0.5:8089/webhook"),
        ("::1", "http://[::1]:8089/webhook"),
    ],
)
def test_on_one_machine_our_own_address_does(host: str, url: str) -> None:
    assert hook_url(settings(**{"global": {"host": host}})) == url


@pytest.mark.parametrize("client", ["http://qbittorrent:8080", "http://192.168.1.5:8080", "https://seed.example.org"])
def test_elsewhere_the_address_must_be_said(client: str) -> None:
    with pytest.raises(RequestError, match=r"set server\.hook_url"):
        hook_url(settings(client))


@pytest.mark.parametrize("given", ["http://qguard:8089", "http://qguard:8089/", "http://qguard:8089/webhook"])
def test_what_is_said_counts(given: str) -> None:
    assert hook_url(settings("http://qbittorrent:8080", server={"hook_url": given})) == "http://qguard:8089/webhook"


def test_a_name_that_would_be_refused_is_an_error_until_it_is_allowed() -> None:
    server: dict[str, Any] = {"hook_url": "http://guard.example.org:8089"}
    with pytest.raises(RequestError, match=r"add guard\.example\.org to server\.allowed_hosts"):
        hook_url(settings(server=server))
    server["allowed_hosts"] = ["guard.example.org"]
    assert hook_url(settings(server=server)) == "http://guard.example.org:8089/webhook"


# The key


def test_without_a_hook_key_private_addresses_need_none() -> None:
    assert key_file(settings(server={"api_key": "opens-everything", "hook_url": "http://10.0.0.2:8089"})) is None


# 203.0.113.1 and 198.18.0.1 are private to Python, and nobody's neighbour to the door that the hook comes to.
@pytest.mark.parametrize("host", ["8.8.8.8", "203.0.113.1", "198.18.0.1", "100.64.0.1", "[2606:4700::1]"])
def test_from_a_public_address_a_key_is_asked_for(host: str) -> None:
    with pytest.raises(RequestError, match=r"set server\.hook_key"):
        key_file(settings(server={"hook_url": f"http://{host}:8089"}))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.2",
        "172.31.0.1",
        "172.32.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "fd00::1",
        "fe80::1",
        "8.8.8.8",
        "203.0.113.1",
        "100.64.0.1",
        "2001:db8::1",
        "::ffff:10.0.0.1",
        "::ffff:8.8.8.8",
    ],
)
def test_a_hook_without_key_is_set_up_just_where_the_door_lets_it_in(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    try:
        set_up = key_file(settings(server={"hook_url": f"http://{host}:8089"})) is None
    except RequestError:
        set_up = False
    door = Access("token").opens_without_key(Peer(address, known=True, direct=True), Need.HOOK)
    assert set_up == door


def test_the_key_file_is_for_our_user_alone_and_curl_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "key.curlrc"
    path.write_text("from an earlier time")
    path.chmod(0o644)
    write_key(path, 'with"quote\\and backslash')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == 'header = "X-API-Key: with\\"quote\\\\and backslash"\n'


# The line


def test_the_line_names_the_torrent_and_nothing_else_of_it() -> None:
    line = hook_line("added", URL, api="2.8.19", key=None)
    assert [word for word in split(line) if "%" in word] == ["hash=%K"]
    assert split(line)[-1] == URL
    assert "event=add" in split(line)


@pytest.mark.parametrize(("api", "placeholder"), [("2.8.2", "%I"), ("2.8.4", "%K"), ("2.11.4", "%K"), ("2.9", "%K")])
def test_before_4_4_the_v1_hash_is_all_there_is(api: str, placeholder: str) -> None:
    assert f"hash={placeholder}" in split(hook_line("finished", URL, api=api, key=None))


def test_a_key_file_with_a_space_in_its_path_stays_one_word() -> None:
    words = split(hook_line("added", URL, api="2.8.19", key=Path("/my data/key.curlrc")))
    assert words[words.index("-K") + 1] == "/my data/key.curlrc"


def test_a_path_that_qbittorrent_would_change_is_refused() -> None:
    with pytest.raises(RequestError, match="cannot stand in a hook line"):
        hook_line("added", URL, api="2.8.19", key=Path("/100%Key/key.curlrc"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   ", []),
        ("a  b", ["a", "b"]),
        ('a "b c" d', ["a", "b c", "d"]),
        ('a "" b', ["a", "", "b"]),
        ("a 'b c'", ["a", "'b", "c'"]),
        ('x="y z"', ["x=y z"]),
    ],
)
def test_lines_are_split_as_qbittorrent_splits_them(line: str, words: list[str]) -> None:
    assert split(line) == words


def test_a_person_may_try_the_line_in_a_shell(tmp_path: Path) -> None:
    for name in ("curl", "a", "b"):
        (tmp_path / name).write_text('#!/bin/sh\nprintf "[%s]" "$@"\n')
    (tmp_path / "curl").chmod(0o755)
    line = hook_line("added", URL, api="2.8.19", key=None).replace("%K", "a" * 40)
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == "".join(f"[{word}]" for word in split(line)[1:])
    assert "[--noproxy][*]" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        hook_line("added", URL, api="2.8.19", key=None),
        hook_line("added", URL, api="2.8.19", key=None).replace('"*"', "*"),
        f'curl -X POST -d "event=add" -d "hash=%I" -d "name=%N" {URL}',
        f'/usr/bin/curl -s {URL} -d "hash=%K&event=add"',
    ],
)
def test_our_lines_old_and_new_are_known(line: str) -> None:
    assert is_plain(line, URL)


@pytest.mark.parametrize(
    "line",
    [
        f'sh -c "notify; curl -d hash=%K {URL}"',
        f"curl -d hash=%K {URL} http://127.0.0.1:2468/api/webhook",
        f"curl -d hash=%K {URL} --next http://127.0.0.1:1/",
        "curl -d hash=%K http://127.0.0.1:2468/api/webhook",
        f"curl -d hash=%K {URL}s",
        "",
    ],
)
def test_a_line_that_does_anything_else_is_not_taken_for_ours(line: str) -> None:
    assert not is_plain(line, URL)


def test_an_address_is_not_found_in_a_longer_one() -> None:
    assert reaches(f"x {URL}", URL)
    assert not reaches(f"x {URL}-old", URL)
    assert not reaches("x http://127.0.0.1:80891/webhook", "http://127.0.0.1:8089")


# Two programs


def run_as_qbittorrent(line: str, values: dict[str, str], **environment: str) -> None:
    """Split, then fill in, then run without a shell."""
    words = split(line)
    for name, value in values.items():
        words = [word.replace(name, value) for word in words]
    subprocess.run(words, env={"PATH": os.environ["PATH"], **environment}, check=True, timeout=10)


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", '"quoted"', "$(touch hacked)", "`touch hacked`", "; touch hacked", "-n", ""]
)
def test_the_script_runs_both_and_reads_no_name_as_a_command(tmp_path: Path, name: str) -> None:
    for program in ("ours", "theirs"):
        shown = tmp_path / program
        shown.write_text(
            f'#!/bin/sh\nprintf "[%s]" "$@" >{tmp_path}/{program}.tmp\nmv {tmp_path}/{program}.tmp {shown}.out\n'
        )
        shown.chmod(0o755)
    path = tmp_path / "both of them.sh"
    script, line = wrapper(f'{tmp_path}/theirs --title "new: %N!" "%L"', f"{tmp_path}/ours hash=%K", path)

    # The second program takes the place of the shell; the first is waited for through a copy without exec.
    path.write_text(script.replace("exec ", "") + "wait\n")
    path.chmod(0o700)
    run_as_qbittorrent(line, {"%K": "a" * 40, "%N": name, "%L": "films"})
    assert (tmp_path / "ours.out").read_text() == f"[hash={'a' * 40}]"
    assert (tmp_path / "theirs.out").read_text() == f"[--title][new: {name}!][films]"
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("program", "values"),
    [
        ('sh -c "echo done %N"', ("%N",)),
        ("sh -c %F", ("%F",)),
        ('bash -lc "notify;%N;%L"', ("%N", "%L")),
        ("notify `%N`", ("%N",)),
        ('notify --title "new: %N!" %L', ("%N",)),
        ("notify %N", ()),
        ('notify "%N" --in=%L', ()),
        ('sh -c "echo done"', ()),
        ("", ()),
    ],
)
def test_a_line_that_may_read_a_name_as_a_command_is_told(program: str, values: tuple[str, ...]) -> None:
    assert commands_of_values(program) == values

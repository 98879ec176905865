"""scripts/restore-originals.sh: undoing everything without qguard."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from qguard.ledger import Key, read_originals_file
from qguard.ledger.originals import Original, append, original_lines, release_lines

SCRIPT = Path(__file__).parents[2] / "scripts" / "restore-originals.sh"
PASSWORD = "pa ss&word=%\"'"


class Client(ThreadingHTTPServer):
    """As much of qBittorrent's Web API, under a base path, as the script uses; it remembers what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.limits: dict[str, int] = {}
        self.calls: list[int] = []
        self.wants_cookie = False
        self.wants_key = ""
        self.login_refusal: tuple[int, bytes] = (200, b"Fails.")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/base"


class Answers(BaseHTTPRequestHandler):
    server: Client

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        fields = {name: values[0] for name, values in parse_qs(body, strict_parsing=True).items()}
        status, answer, cookie = self.decide(fields)
        self.send_response(status)
        if cookie:
            self.send_header("Set-Cookie", "SID=secret; HttpOnly; path=/")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def decide(self, fields: dict[str, str]) -> tuple[int, bytes, bool]:
        client = self.server
        if self.path == "/base/api/v2/auth/login":
            if fields == {"username": "ad min", "password": PASSWORD}:
                return 200, b"Ok.", True
            return *client.login_refusal, False
        assert self.path == "/base/api/v2/torrents/setUploadLimit"
        if client.wants_cookie and self.headers["Cookie"] != "SID=secret":
            return 403, b"Forbidden", False
        if client.wants_key and self.headers["Authorization"] != f"Bearer {client.wants_key}":
            return 403, b"Forbidden", False
        hashes = fields["hashes"].split("|")
        client.calls.append(len(hashes))
        client.limits.update(dict.fromkeys(hashes, int(fields["limit"])))
        return 200, b"", False

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my ledger.originals.jsonl"
    append(path, lines({1: 500, 2: 0}))
    return path


def lines(limits: dict[int, int], added_on: int = 1) -> bytes:
    return original_lines((key(n, added_on), Original(limit, "red")) for n, limit in limits.items())


def key(number: int, added_on: int = 1) -> Key:
    return f"{number:040x}", added_on


def restore(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(SCRIPT), *map(str, args)],
        env={"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9"} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_i5_everything_is_restored_in_few_calls(client: Client, tmp_path: Path):
    path = tmp_path / "ledger.originals.jsonl"
    append(path, lines({n: (0, 1000, 2147483646)[n % 3] for n in range(3000)}))
    append(path, lines({7: 77}) + lines({8: 88}) + release_lines([key(8), key(9)]))
    result = restore(client.url + "/", path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "restored 2998 torrents\n", "")
    assert client.limits == {name: limit for (name, _), limit in read_originals_file(path).items()}
    assert len(client.limits) == 2998
    assert len(client.calls) == 4


def test_one_call_holds_at_most_a_thousand_torrents(client: Client, tmp_path: Path):
    path = tmp_path / "ledger.originals.jsonl"
    append(path, lines(dict.fromkeys(range(2500), 5)))
    assert restore(client.url, path).stdout == "restored 2500 torrents\n"
    assert client.calls == [1000, 1000, 500]
    assert client.limits == {key(n)[0]: 5 for n in range(2500)}


def test_a_torn_or_foreign_line_is_passed_over(client: Client, file: Path):
    append(file, b'{"torn":1}\n# a note\n' + lines({3: 12345}))
    file.write_bytes(file.read_bytes() + lines({4: 12345})[:-25])
    assert restore(client.url, file).returncode == 0
    assert client.limits == {key(1)[0]: 500, key(2)[0]: 0, key(3)[0]: 12345}


def test_releasing_an_earlier_torrent_of_a_hash_does_not_release_the_later_one(client: Client, file: Path):
    append(file, lines({1: 900}, added_on=2) + release_lines([key(1, added_on=1)]))
    restore(client.url, file)
    assert client.limits[key(1)[0]] == 900


def test_an_empty_file_restores_nothing(client: Client, tmp_path: Path):
    path = tmp_path / "empty"
    path.touch()
    assert restore(client.url, path).stdout == "restored 0 torrents\n"
    assert not client.calls


def test_it_logs_in_with_a_name_and_a_password(client: Client, file: Path):
    client.wants_cookie = True
    result = restore(client.url, file, QB_USER="ad min", QB_PASS=PASSWORD)
    assert (result.returncode, result.stdout) == (0, "restored 2 torrents\n")


def test_it_takes_an_api_key(client: Client, file: Path):
    client.wants_key = "qbt_0123456789"
    result = restore(client.url, file, QB_API_KEY="qbt_0123456789")
    assert (result.returncode, result.stdout) == (0, "restored 2 torrents\n")


def test_it_hands_further_options_to_curl(client: Client, file: Path):
    client.wants_cookie = True
    assert restore(client.url, file, "--cookie", "SID=secret").returncode == 0


@pytest.mark.parametrize("refusal", [(200, b"Fails."), (401, b""), (403, b"banned")])
def test_a_refused_login_changes_nothing_and_says_so(client: Client, file: Path, refusal: tuple[int, bytes]):
    client.login_refusal = refusal
    result = restore(client.url, file, QB_USER="ad min", QB_PASS="wrong")
    assert result.returncode == 1
    assert "check the URL, QB_USER and QB_PASS" in result.stderr
    assert not client.calls


def test_a_client_that_refuses_or_is_away_is_a_failure(client: Client, file: Path):
    client.wants_cookie = True
    result = restore(client.url, file)
    assert (result.returncode, result.stdout) == (1, "")
    assert "stopped after 0 torrents" in result.stderr
    assert restore("http://127.0.0.1:9", file).returncode == 1


@pytest.mark.parametrize("args", [(), ("http://127.0.0.1:9",), ("http://127.0.0.1:9", "/nonexistent")])
def test_a_wrong_call_explains_the_right_one(args: tuple[str, ...]):
    result = restore(*args)
    assert result.returncode == 2
    assert "scripts/restore-originals.sh URL FILE" in result.stderr


def test_i9_no_secret_is_in_the_list_of_processes_or_left_behind(client: Client, file: Path, tmp_path: Path):
    """A stand-in for curl notes its arguments before it becomes the real one."""
    bin_folder, temporary = tmp_path / "bin", tmp_path / "tmp"
    bin_folder.mkdir()
    temporary.mkdir()
    spy = bin_folder / "curl"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>"{tmp_path}/seen"\nexec {shutil.which("curl")} "$@"\n')
    spy.chmod(0o755)
    around = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "TMPDIR": str(temporary)}
    assert restore(client.url, file, QB_USER="ad min", QB_PASS=PASSWORD, **around).returncode == 0
    assert restore(client.url, file, QB_API_KEY="qbt_0123456789", **around).returncode == 0
    seen = (tmp_path / "seen").read_text()
    assert "setUploadLimit" in seen
    assert PASSWORD not in seen
    assert "qbt_" not in seen
    assert list(temporary.iterdir()) == []

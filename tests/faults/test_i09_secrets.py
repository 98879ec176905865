"""I9: passkeys, passwords and API keys appear in nothing that qguard says or stores."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from qguard.api.endpoints import ENDPOINTS
from tests.support.daemon import Daemon
from tests.support.process import ALPHA, BETA, REST, Seeds, Service, Setup, sown
from tests.support.proxy import Fault, Proxy
from tests.support.torrents import make_torrent, seed

pytestmark = pytest.mark.qbittorrent

CANARY = "c4n4ry"
"""In every secret here; its letters and digits look the same in every encoding."""

ANNOUNCE_URLS = [
    f"http://{ALPHA}:9/{CANARY}Path/announce",
    f"http://{BETA}:9/announce?passkey={CANARY}Query&uk={CANARY}Other",
    f"http://{CANARY}User:{CANARY}Word@{REST}:9/announce.php",
    f"udp://{ALPHA}:9/announce/{CANARY}Udp",
    f"http://{BETA}:9/a%2F{CANARY}%c3%89/announce",
]
PASSWORD = f"{CANARY} Pässword/%+&\"'"
API_KEY, READ_KEY, HOOK_KEY = f"{CANARY}-api+key/", f"{CANARY}-read-key", f"{CANARY}-hook-key"


@pytest.fixture(scope="module")
def seeds(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon) as seeds:
        api, daemon = seeds.api, seeds.daemon
        torrents = [
            make_torrent(f"secret-{number}", daemon.data, tiers=[[url]]) for number, url in enumerate(ANNOUNCE_URLS)
        ]
        seed(daemon, api, torrents)
        api.set_preferences(web_ui_password=PASSWORD)
        daemon.password = PASSWORD
        assert all(CANARY in api.torrents()[torrent.infohash]["magnet_uri"] for torrent in torrents)
        yield seeds


@pytest.fixture
def setup(seeds: Seeds, tmp_path: Path) -> Setup:
    seeds.api.set_limit(seeds.api.torrents(), 0)
    seeds.reset()
    setup = Setup.of(tmp_path, seeds)
    setup.config["server"] = {"api_key": API_KEY, "read_key": READ_KEY, "hook_key": HOOK_KEY}
    setup.config["cross_seed"] = {"enabled": False, "api_key": f"{CANARY}-cross-seed"}
    setup.config["qbittorrent"]["timeout"] = 1
    setup.config["logging"] |= {"level": "DEBUG", "file": "qguard.log"}
    setup.save()
    return setup


def shown(text: str) -> list[str]:
    """Where the canary can be seen."""
    return [text[max(0, at.start() - 60) : at.end() + 30] for at in re.finditer(CANARY, text, re.IGNORECASE)]


def assert_nothing_stored(setup: Setup) -> None:
    """No file of the folder shows a secret, the configuration itself aside."""
    files = [path for path in setup.folder.rglob("*") if path.is_file() and path.suffix != ".yaml"]
    names = {path.name for path in files}
    assert {"ledger.db", "ledger.db.lock", "ledger.originals.jsonl", "qguard.log", "output.log"} <= names
    for path in files:
        assert shown(path.read_bytes().decode("latin-1")) == [], path


def lower(body: bytes) -> bytes:
    return re.sub(rb"%[0-9A-Fa-f]{2}", lambda escape: escape[0].lower(), body)


def upper(body: bytes) -> bytes:
    return re.sub(rb"%[0-9A-Fa-f]{2}", lambda escape: escape[0].upper(), body)


def raw(body: bytes) -> bytes:
    rows = json.loads(body)
    for row in rows:
        row["magnet_uri"] = unquote(row["magnet_uri"])
    return json.dumps(rows).encode()


def answers(service: Service, hashes: list[str]) -> Iterator[httpx.Response]:
    """Every endpoint, asked rightly, wrongly, with the wrong key and with none."""
    bodies: list[dict[str, Any]] = [
        {"confirm": True, "reason": f"see {ANNOUNCE_URLS[0]} or passkey={CANARY}"},
        {"percentage": 100, "reason": f"see {ANNOUNCE_URLS[3]}"},
        {"reason": f"see {ANNOUNCE_URLS[1]}"},
        {"originals": "as-is"},
        {"config": service.setup.path.read_text()},
        {"config": f"qbittorrent: {{passwort: {CANARY}}}"},
    ]
    yield service.http.get("/health")
    for number, endpoint in enumerate(ENDPOINTS):
        if endpoint.path == "/events":
            continue  # never ends; what it tells is what the others answer
        there = endpoint.path.replace("{hash}", hashes[-1])
        query = {"url": ANNOUNCE_URLS[1]} if endpoint.path == "/match/test" else {}
        # A wrong key closes the door to its address after ten tries.
        for key in (API_KEY, "", *([f"{CANARY}-wrong"] if number % 4 == 0 else [])):
            headers = {"X-API-Key": key} if key else {}
            yield service.http.get(there, params=query, headers=headers)
            for body in bodies[: len(bodies) if key == API_KEY else 1] if endpoint.method == "POST" else []:
                yield service.http.request(endpoint.method, there, json=body, headers=headers)


def troubles(proxy: Proxy) -> Iterator[Fault]:
    """One fault of the client after the other."""
    yield proxy.truncate("torrents/info", times=None)
    yield proxy.fail_next("torrents/info", 500, times=None)
    yield proxy.rewrite("torrents/info", lambda body: body[:-40])
    yield proxy.hang("torrents/info")
    yield proxy.fail_next("torrents/info", 403, times=None)


@pytest.mark.parametrize(("form", "encoding"), [("json", lower), ("human", upper)])
def test_a_service_at_debug_level_shows_and_stores_no_secret(
    seeds: Seeds, setup: Setup, form: str, encoding: Callable[[bytes], bytes]
) -> None:
    setup.config["logging"]["format"] = form
    setup.save()
    seeds.proxy.rewrite("torrents/info", encoding)
    with setup.start() as service:
        assert CANARY not in Path(f"/proc/{service.pid}/cmdline").read_text()
        hashes = list(seeds.api.torrents())
        seen = list(answers(service, hashes))
        assert {200, 401, 405, 422} <= {answer.status_code for answer in seen}
        for fault in troubles(seeds.proxy):
            for path, body in (("/cycle/force", {}), ("/rollback", {"confirm": True}), ("/adopt", {"originals": "x"})):
                seen.append(service.http.post(path, headers={"X-API-Key": API_KEY}, json=body))
            fault.release()
        service.http.headers["X-API-Key"] = READ_KEY  # without one, /health says what is wrong and not in words
        setup.config["qbittorrent"]["password"] = f"{CANARY} wrong"
        setup.save()
        service.wait_health(lambda health: "refused the login" in str(health["problems"]), "a refused login")
        setup.write(setup.path.read_text().replace("password:", "passwort:"))
        service.wait_degraded("configuration")
        seen.append(service.http.get("/health"))
        told = service.log
        assert service.stop() == 0
    for answer in seen:
        assert shown(answer.text + str(answer.headers)) == [], f"{answer.request.method} {answer.request.url.path}"
    assert len(told) > 1000
    if form == "json":
        assert all(json.loads(line) for line in told.splitlines())
    assert_nothing_stored(setup)


def commands(seeds: Seeds) -> list[list[str]]:
    hashes = list(seeds.api.torrents())
    return [
        ["check"],
        ["preview"],
        ["trackers"],
        *(["match", url] for url in ANNOUNCE_URLS[:1]),
        ["explain", hashes[-1]],
        ["pause", "--reason", ANNOUNCE_URLS[0]],
        ["resume", "--reason", ANNOUNCE_URLS[1]],
        ["rollout", "50", "--reason", ANNOUNCE_URLS[3]],
        ["rollback", "--yes", "--reason", ANNOUNCE_URLS[2]],
        ["ledger"],
        ["ledger", "--tracker", "alpha"],
    ]


@pytest.mark.parametrize("words", [["--json"], []], ids=["as JSON", "in words"])
def test_commands_with_a_service_and_without_show_and_store_no_secret(
    seeds: Seeds, setup: Setup, words: list[str]
) -> None:
    seeds.proxy.rewrite("torrents/info", raw)
    with setup.start() as service:
        done = [setup.command(*command, *words).expect() for command in commands(seeds)]
        service.stop()
    done += [setup.command(*command, *words).expect() for command in commands(seeds)[1:5]]
    assert [shown(one.out + one.err) for one in done] == [[]] * len(done)
    if words:
        assert all(one.json is not None for one in done)
    assert_nothing_stored(setup)


def test_errors_of_commands_show_no_secret(seeds: Seeds, setup: Setup) -> None:
    good = setup.path.read_text()
    done = []
    for old, new, code in (
        (f"url: {seeds.proxy.url}", "url: http://127.0.0.1:9", 3),
        (f"url: {seeds.proxy.url}", f"url: http://{CANARY}:{CANARY}@127.0.0.1:9", None),
        ("  password:", "  passwort:", 2),
        ("  api_key: c4n4ry-api+key/", f"  api_key: [{CANARY}]", 2),
        ("  read_key:", "  read_kye:", 2),
        ("  username: qguard", f"  username: qguard\n  password: {CANARY}-twice", 2),
        ("  username: qguard", f"  username: qguard\n  password_file: {CANARY}-no-file", 2),
        ("  username: qguard", f"  username: qguard\n  password: {CANARY}: x", 2),
    ):
        assert old in good
        setup.write(good.replace(old, new))
        ended = setup.command("preview")
        assert ended.code in {code, 2}
        assert ended.err != ""
        done.append(ended)
    setup.write(good)
    seeds.proxy.truncate("torrents/info")
    done.append(setup.command("preview").expect(3))
    seeds.proxy.fail_next("auth/login", 403)
    done.append(setup.command("preview").expect(4))
    assert [shown(one.out + one.err.replace(f"{CANARY}-no-file", "")) for one in done] == [[]] * len(done)


def test_the_answers_stay_valid_when_a_secret_looks_like_a_number_in_them(seeds: Seeds, setup: Setup) -> None:
    # Short and plain as no key of ours may be; cross-seed's is made elsewhere.
    setup.config["cross_seed"]["api_key"] = "4096"
    setup.config["server"] = {}
    setup.config["logging"]["format"] = "json"
    setup.save()
    with setup.start() as service:
        limits = {
            change["new"] for change in service.http.get("/ledger", params={"tracker": "alpha"}).json()["changes"]
        }
        assert 4096 in limits
        explained = service.http.get(f"/explain/{seeds.torrents[ALPHA][0].infohash}").json()
        assert 4096 in explained.values()
        assert setup.command("preview", "--json").expect().json["would_write"] is True
        assert all(json.loads(line) for line in service.log.splitlines())

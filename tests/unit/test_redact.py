"""Nothing that opens a tracker or a client leaves the process."""

import json
import threading
from typing import Any
from urllib.parse import quote

import pytest

from qguard.log import printable, redact
from qguard.redact import Redactor

URL = "https://tracker.example:443/CANARY/announce?passkey=CANARY&x=1"


@pytest.mark.parametrize(
    "text",
    [
        f"matched {URL} today",
        f'{{"url": "{URL}"}}',
        f"magnet:?xt=urn:btih:{'0' * 40}&tr={quote(URL, safe='')}",
        f"tr={quote(URL, safe='').lower()}",
        "udp://tracker.example/CANARY",
        "wss://user:CANARY@tracker.example/x",
        "GET /announce?passkey=CANARY&info_hash=1",
        "torrent_pass=CANARY",
    ],
)
def test_passkeys_go_wherever_a_url_is(text: str) -> None:
    assert "CANARY" not in Redactor()(text)


def test_the_host_stays_readable() -> None:
    assert Redactor()(f"see {URL}.") == "see https://tracker.example:443/***"


@pytest.mark.parametrize("text", ["pa/ss wörd+1 was used", quote("pa/ss wörd+1", safe=""), "x=pa%2Fss+w%C3%B6rd%2B1"])
def test_known_secrets_go_in_every_encoding(text: str) -> None:
    hidden = Redactor(["pa/ss wörd+1"])(text)
    assert "***" in hidden
    assert "rd" not in hidden


def test_our_own_addresses_stay() -> None:
    own = Redactor([], ["http://127.0.0.1:8080"])
    assert own("at http://127.0.0.1:8080/api/v2") == "at http://127.0.0.1:8080/api/v2"
    assert own("at http://127.0.0.1:80801/key") == "at http://127.0.0.1:80801/***"


def test_plain_text_is_left_alone() -> None:
    text = "cycle 12: 30 of 30 limits changed in 4 calls raised=3 tracker=alpha 10:30"
    assert Redactor(["abc"])(text) == text


SECRETS = ["pa/ss wörd+1", 'quo"ted\\key', "tab\tkey", "4096abcd", "1234", "a" * 40, "half \ud800"]
TEXTS = [
    *SECRETS[:-1],
    "plain",
    *(f"in {secret} between" for secret in SECRETS[:-1]),
    *(quote(secret, safe="") for secret in SECRETS[:-1]),
    f"see {URL}",
    "magnet:?xt=urn:btih:0&dn=x",
    f"tr={quote(URL, safe='').lower()}",
    "passkey=CANARY",
    "x" * 40,
    "0" * 36 + "1234",
]


@pytest.mark.parametrize("text", TEXTS)
def test_json_that_is_passed_on_as_it_is_has_nothing_to_hide(text: str) -> None:
    before, redact.redactor = redact.redactor, Redactor(SECRETS)
    try:
        shown = json.loads(redact.json({"rows": [{"n": 1, "text": text}]}))["rows"][0]["text"]
        # An info-hash in which a short secret happens to stand is the one thing that stays.
        assert shown == (text if text == "0" * 36 + "1234" else redact(text))
    finally:
        redact.redactor = before


def test_nothing_is_decoded_that_has_nothing_to_hide() -> None:
    redactor = Redactor(["s3cr3t-of-somebody"])
    assert not redactor.may_change_json(b'{"hash":"' + b"a" * 40 + b'","name":"Some.Name-x264"}')
    assert redactor.may_change_json(b'{"name":"s3cr3t-of-somebody"}')


def test_an_infohash_is_hidden_only_where_it_is_a_secret() -> None:
    redactor = Redactor(["1234", "b" * 40])
    found = "1234" + "a" * 36
    assert (redactor.value(found), redactor.value("b" * 40), redactor.value(f"of {found}")) == (
        found,
        "***",
        "of ***" + "a" * 36,
    )


def test_keys_stay_keys() -> None:
    before, redact.redactor = redact.redactor, Redactor(["status"])
    try:
        assert redact.strings({"status": "status"}) == {"status": "***"}
    finally:
        redact.redactor = before


async def test_a_large_answer_holds_nothing_up() -> None:
    """Nothing to hide: it is looked through at once. Else it is made in a thread."""
    rows = [{"hash": f"{number:040x}", "name": f"name {number}"} for number in range(30_000)]
    before, redact.redactor = redact.redactor, Redactor(["s3cr3t-of-somebody"])
    threads: set[str] = set()
    strings = redact.strings

    def noted(thing: Any) -> Any:
        threads.add(threading.current_thread().name)
        return strings(thing)

    redact.strings = noted  # type: ignore[method-assign] # to see where it runs
    try:
        assert json.loads(await redact.json_beside(rows)) == rows
        assert not threads
        shown = await redact.json_beside([*rows, {"name": "s3cr3t-of-somebody"}])
        assert json.loads(shown)[-1] == {"name": "***"}
        assert threads
        assert threading.current_thread().name not in threads
    finally:
        redact.strings = strings  # type: ignore[method-assign]
        redact.redactor = before


def test_a_secret_with_a_control_character_is_hidden_before_that_is_escaped() -> None:
    before, redact.redactor = redact.redactor, Redactor(["tab\tkey"])
    try:
        assert printable("a tab\tkey\n") == "a ***\\n"
    finally:
        redact.redactor = before


def test_numbers_in_answers_stay_numbers_when_a_password_looks_like_one() -> None:
    before, redact.redactor = redact.redactor, Redactor(["8089"])
    try:
        assert redact.strings({"port": 8089, "words": ["listens on 8089"]}) == {
            "port": 8089,
            "words": ["listens on ***"],
        }
    finally:
        redact.redactor = before

"""Nothing that opens a tracker or a client leaves the process."""

from urllib.parse import quote

import pytest

from qguard.log import redact
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


def test_numbers_in_answers_stay_numbers_when_a_password_looks_like_one() -> None:
    before, redact.redactor = redact.redactor, Redactor(["8089"])
    try:
        assert redact.strings({"port": 8089, "words": ["listens on 8089"]}) == {
            "port": 8089,
            "words": ["listens on ***"],
        }
    finally:
        redact.redactor = before

"""Which rule takes a torrent."""

from pathlib import Path

import pytest

from qguard.config import parse
from qguard.questions import match_url
from qguard.trackers import Matcher, host_of
from tests.support.columns import rules, torrents

RULES = """
  - {id: strict, pattern: 'tracker\\.strict', max_upload_speed: 5000}
  - {id: easy, match: [easy.example, "*.wild.example"], max_upload_speed: 9000}
  - {id: films, categories: [films], tags: [seed, slow], max_upload_speed: 7000}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


def matcher(*, strictest: bool = False) -> Matcher:
    settings = parse(
        f"qbittorrent: {{url: 'http://127.0.0.1:1'}}\ntrackers:{RULES}", source=Path("x.yaml"), environ={}
    ).settings
    return Matcher(settings.trackers, strictest=strictest)


@pytest.mark.parametrize(
    ("urls", "category", "tags", "rule"),
    [
        (["http://easy.example/announce"], "", "", 1),
        (["udp://a.b.EASY.example:6969/announce"], "", "", 1),
        (["http://noteasy.example/announce"], "", "", 3),
        (["http://easy.example.org/announce"], "", "", 3),
        (["https://x.wild.example/abc/announce"], "", "", 1),
        (["https://TRACKER.strict.net/announce"], "", "", 0),
        (["http://x/announce?next=easy.example"], "", "", 3),
        ([], "", "", 3),
        ([], "films", "", 2),
        ([], "", "other, slow", 2),
        ([], "film", "slower", 3),
        (["http://easy.example/a"], "films", "", 1),
        (["http://other/a", "http://easy.example/a", "http://tracker.strict/a"], "", "", 0),
        (["http://[::1/a", "http://easy.example/a"], "", "", 1),
    ],
)
def test_first_rule_in_file_order_over_all_urls(urls: list[str], category: str, tags: str, rule: int) -> None:
    assert matcher().choose(urls, category, tags).rule == rule


def test_strictest_takes_the_lowest_cap_of_all_that_match() -> None:
    urls = ["http://easy.example/a"]
    assert matcher(strictest=True).choose(urls, "films", "").rule == 2
    assert matcher(strictest=True).choose(["http://other/a"], "", "").rule == 3


def test_columns_are_matched_by_the_encoded_urls_of_the_magnet_link() -> None:
    some = torrents([{"host": "easy.example"}, {"host": "x.example", "category": "films"}, {"host": ""}])
    assert matcher().match(some).tolist() == [1, 2, 3]


def test_no_reason_shows_more_of_a_url_than_its_host() -> None:
    url = "http://easy.example/announce?passkey=CANARY"
    policy = rules(RULES)
    answer = match_url(policy.settings, policy.matcher, url)
    assert answer.url == "http://easy.example"
    assert "CANARY" not in str(answer)
    assert answer.matched_tracker == "easy"


@pytest.mark.parametrize(
    ("url", "host"), [("udp://Host.Example.:80/x", "host.example"), ("", ""), ("junk", ""), ("http://[::1]:6/", "::1")]
)
def test_hosts(url: str, host: str) -> None:
    assert host_of(url) == host

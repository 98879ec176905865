"""What doctor says of the facts it is given."""

from dataclasses import replace
from typing import Any

import pytest

from qguard.doctor import Check, Facts, examine
from qguard.qbittorrent.client import ClientVersion
from qguard.qbittorrent.decode import Preferences, TransferInfo
from tests.support.columns import ADDED_ON, claim, decide, rules, torrents

NOW = float(ADDED_ON + 1000)
FINE = Facts(
    NOW,
    rules(),
    version=ClientVersion("v5.1.0", "2.11.4", 1.5),
    preferences=Preferences(),
    transfer=TransferInfo(),
    hook_added=True,
    last_hook=NOW - 90,
    service=True,
)


def says(topic: str, **facts: Any) -> Check:
    """What is said about a topic when these facts differ from a fine state."""
    (check,) = [check for check in examine(replace(FINE, **facts)).checks if check.topic == topic]
    return check


def test_a_fine_state_has_nothing_wrong() -> None:
    assert "wrong" not in {check.verdict for check in examine(FINE).checks}
    assert says("last hook").words == "came 2 min ago"


@pytest.mark.parametrize(
    ("topic", "facts", "remedy"),
    [
        ("qBittorrent", {"client_error": "refused: check qbittorrent.password"}, "check qbittorrent.password"),
        ("ledger", {"ledger_error": "disk full"}, "disk full"),
        ("hook", {"hook_added": False}, "qguard hook install"),
        ("hook", {"cross_seed": True}, "qguard hook install --finished"),
        ("hook", {"hook_error": "set server.hook_url"}, "set server.hook_url"),
        ("clock", {"last_action": NOW + 3600}, "set the clocks right"),
        ("caps", {"problems": {"caps": "alpha: too small"}}, "alpha: too small"),
        ("client speed limit", {"transfer": TransferInfo(up_rate_limit=999)}, "global upload limit in force is 999"),
        (
            "client speed limit",
            {"transfer": TransferInfo(up_rate_limit=999), "alternative_speed": True},
            "alternative upload limit",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(topic: str, facts: dict[str, Any], remedy: str) -> None:
    check = says(topic, **facts)
    assert check.verdict == "wrong"
    assert remedy in check.words
    assert examine(replace(FINE, **facts)).status == "wrong"


@pytest.mark.parametrize(
    ("topic", "facts"),
    [
        ("last hook", {"last_hook": None}),
        ("upload slots", {"preferences": Preferences(max_uploads_per_torrent=1)}),
        ("client speed limit", {"alternative_speed": True}),
    ],
)
def test_what_may_be_meant_is_advice(topic: str, facts: dict[str, Any]) -> None:
    assert says(topic, **facts).verdict == "advice"


def test_a_global_limit_that_the_caps_fit_into_is_good() -> None:
    total = int(FINE.policy.cap[FINE.policy.cap > 0].sum())
    assert says("client speed limit", transfer=TransferInfo(up_rate_limit=total)).verdict == "good"


def test_rules_without_torrents_and_foreign_limits_are_counted() -> None:
    client = torrents([{"up_limit": 77}, {}])
    decided = decide(client, rules(), dict([claim(0, written=500, hold="foreign", hold_value=77)]))
    assert says("other programs", decision=decided).words.startswith("1 torrents")
    assert says("rules", decision=decided).verdict == "good"


def test_a_rule_that_no_torrent_matches_is_named() -> None:
    lonely = """
      - {id: alpha, match: [no-such.example], max_upload_speed: 1000000}
      - {id: rest, pattern: '.*', max_upload_speed: unlimited}"""
    check = says("rules", decision=decide(torrents([{}]), rules(lonely)))
    assert (check.verdict, check.words.split(":")[0]) == ("advice", "alpha")


@pytest.mark.parametrize(
    ("facts", "named"),
    [
        ({}, ()),
        ({"last_action": NOW - 60}, ("ledger",)),
        ({"decision": decide(torrents([{}]), rules())}, ("qBittorrent",)),
        ({"last_action": NOW - 60, "decision": decide(torrents([{}]), rules())}, ("ledger", "qBittorrent")),
    ],
)
def test_clocks_are_said_to_agree_only_where_they_were_compared(facts: dict[str, Any], named: tuple[str, ...]) -> None:
    told = [check.words for check in examine(replace(FINE, **facts)).checks if check.topic == "clock"]
    assert [name for name in ("ledger", "qBittorrent") if any(name in words for words in told)] == list(named)
    assert len(told) == bool(named)


def test_without_an_answer_of_the_client_nothing_is_said_about_it() -> None:
    topics = {c.topic for c in examine(replace(FINE, client_error="away", preferences=None)).checks}
    assert topics.isdisjoint({"hook", "client speed limit", "upload slots"})

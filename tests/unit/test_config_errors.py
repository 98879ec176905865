"""Every way to get a configuration wrong says where, what and what to do, and never says a secret."""

from pathlib import Path

import pytest

from qguard.config import ConfigError, Problem, parse

CANARY = "canary-hunter2"

GOOD = f"""\
global:
  rollout_percentage: 10
qbittorrent:
  host: localhost
  password: {CANARY}
trackers:
  - id: one
    match: [one.example.org]
    max_upload_speed: 10 MiB/s
  - id: default
    pattern: '.*'
    max_upload_speed: unlimited
"""

SOURCE = Path("folder/qguard.yaml")


def problems(text: str, environ: dict[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, source=SOURCE, environ=environ or {}, strategies=("equal", "weighted"))
    error = caught.value
    everything = "\n".join([str(error), repr(error), *map(repr, error.problems)])
    assert CANARY not in everything
    assert error.__context__ is None, "an exception underneath may carry values of the file"
    assert len(str(error).splitlines()) == len(error.problems)
    return error.problems


def only_problem(text: str, environ: dict[str, str] | None = None) -> Problem:
    (problem,) = problems(text, environ)
    return problem


def test_the_good_file_these_tests_spoil_is_good() -> None:
    assert parse(GOOD, source=SOURCE, environ={}, strategies=("equal",)).warnings == ()


RULE = "    max_upload_speed: 10 MiB/s"
ROLLOUT = "  rollout_percentage: 10"
HOST = "  host: localhost"

ONE_WRONG_VALUE = {
    "rollout above 100": (ROLLOUT, "  rollout_percentage: 101", "2:23", "101", "is too large", "from 0 to 100"),
    "rollout below 0": (ROLLOUT, "  rollout_percentage: -1", "2:23", "-1", "is too small", "from 0 to 100"),
    "rollout true": (ROLLOUT, "  rollout_percentage: true", "2:23", "true", "not a whole number", "from 0 to 100"),
    "rollout text": (ROLLOUT, '  rollout_percentage: "x"', "2:23", '"x"', "not a whole number", "without quotes"),
    "rollout fraction": (ROLLOUT, "  rollout_percentage: 10.5", "2:23", "10.5", "not a whole number", "from 0 to 100"),
    "rollout octal": (ROLLOUT, "  rollout_percentage: 010", "2:23", '"010"', "not a whole number", "from 0 to 100"),
    "unknown strategy": (
        ROLLOUT, "  allocation_strategy: weigthed",
        "2:24", '"weigthed"', "not an installed", "weighted?"),
    "interval too short": (
        ROLLOUT, "  poll_interval: 10ms",
        "2:18", '"10ms"', "is too small", "write auto, or a number of seconds from 1 to 3600"),
    "interval infinite": (ROLLOUT, "  poll_interval: .inf", "2:18", "Infinity", "not a number", "from 1 to 3600"),
    "interval no duration": (ROLLOUT, "  poll_interval: soon", "2:18", '"soon"', "not a duration", "ms, s, m, h"),
    "older interval too long": (ROLLOUT, "  update_interval: 2h", "2:20", '"2h"', "is too large", "from 1 to 3600"),
    "fraction not a number": (ROLLOUT, "  smoothing_alpha: .nan", "2:20", "NaN", "not a number", "from 0 to 1"),
    "choice": (ROLLOUT, "  on_shutdown: stop", "2:16", '"stop"', "not a choice", "keep, restore"),
    "number for a truth value": (ROLLOUT, "  dry_run: 1", "2:12", "1", "not true or false", "true or false"),
    "floor unlimited": (
        ROLLOUT, "  downloading_floor: unlimited",
        "2:22", '"unlimited"', "cannot be unlimited", "bytes/s"),
    "port": (HOST, "  port: 65536", "4:9", "65536", "is too large", "from 1 to 65535"),
    "quoted port": (HOST, '  port: "8080"', "4:9", '"8080"', "not a whole number", "without quotes"),
    "host with scheme": (HOST, "  host: http://localhost", "4:9", '"http://localhost"', "not a host name", "`url`"),
    "url without scheme": (
        HOST, "  url: localhost:8080",
        "4:8", '"localhost:8080"', "not an http URL", "http://host:port"),
    "tls": (HOST, '  verify_tls: "no"', "4:15", '"no"', "no such file", "no quotes"),
    "username a number": (HOST, "  username: 1234", "4:13", "1234", "not text", "in quotes"),
    "timeout": (HOST, "  timeout: 3m", "4:12", '"3m"', "is too large", "of seconds from 1 to 120"),
    "cap 0": (RULE, "    max_upload_speed: 0", "9:23", "0", "0 is not a rate", "-1 or unlimited"),
    "cap 0 with unit": (RULE, "    max_upload_speed: 0 MB/s", "9:23", '"0 MB/s"', "0 is not a rate", "manage: false"),
    "cap negative": (RULE, "    max_upload_speed: -2", "9:23", "-2", "is negative", "-1 or unlimited"),
    "cap above 2^42": (RULE, f"    max_upload_speed: {2**43}", "9:23", str(2**43), "more than 2^42", str(2**42)),
    "cap without unit": (
        RULE, "    max_upload_speed: '10'",
        "9:23", '"10"', "has no unit", "10 MB/s, 10 MiB/s or 10 Mbit/s"),
    "cap bad unit": (RULE, "    max_upload_speed: 10 M", "9:23", '"10 M"', "unit", "10 MB/s, 10 MiB/s or 10 Mbit/s"),
    "cap of bits or bytes": (
        RULE, "    max_upload_speed: 9 gb/s",
        "9:23", '"9 gb/s"', "ambiguous", "9 GB/s, 9 GiB/s or 9 Gbit/s"),
    "cap a truth value": (RULE, "    max_upload_speed: true", "9:23", "true", "is not a rate", "bytes/s"),
    "cap a fraction": (RULE, "    max_upload_speed: 1.5", "9:23", "1.5", "is not a rate", "bytes/s"),
    "cap empty": (RULE, "    max_upload_speed:", "9:22", "null", "is empty", "or unlimited"),
    "cap below a byte": (RULE, "    max_upload_speed: 1 bit/s", "9:23", '"1 bit/s"', "less than 1 byte/s", "unlimited"),
    "guarantee above the cap": (
        RULE, f"{RULE}\n    guaranteed_upload_speed: 11 MiB/s", "10:30", '"11 MiB/s"',
        "more than the cap of 10485760", "raise"),
    "priority": (RULE, f"{RULE}\n    priority: 11", "10:15", "11", "is too large", "from 1 to 10"),
    "rule's rollout": (RULE, f"{RULE}\n    rollout_percentage: 101", "10:25", "101", "is too large", "from 0 to 100"),
    "tag with a comma": (RULE, f"{RULE}\n    tags: a, b", "10:11", '"a, b"', "has a comma", "[one, two]"),
    "second id": ("id: default", "id: one", "10:9", '"one"', "is the id of trackers[0]", "another"),
    "bad id": ("id: one", "id: o n e", "7:9", '"o n e"', "characters", "letters, digits"),
    "bad regex": ("'.*'", "'foo('", "11:14", '"foo("', "not a regular expression: missing )", "`match`"),
    "empty pattern": ("'.*'", "''", "11:14", '""', "is empty", "give a value"),
    "domain with port": (
        "[one.example.org]", "[a.example, b.example:80]",
        "8:24", '"b.example:80"', "not a domain", "without port"),
    "domain with a wildcard": ("[one.example.org]", "'*one.org'", "8:12", '"*one.org"', "not a domain", "`pattern`"),
    "network": (
        "trackers:", "server: {trusted_proxies: [10.0.0.1/8]}\ntrackers:",
        "6:28", '"10.0.0.1/8"', "mask", "10.0.0.0/8"),
    "cross-seed nowhere": (
        "trackers:", "cross_seed: {enabled: true}\ntrackers:", "6:23", "true",
        "needs a url", "cross_seed.url"),
    "log level": ("trackers:", "logging: {level: LOUD}\ntrackers:", "6:18", '"LOUD"', "not a log level", "DEBUG, INFO"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_WRONG_VALUE)
def test_a_wrong_value_is_told_with_place_value_and_remedy(name: str) -> None:
    old, new, place, value, message, remedy = ONE_WRONG_VALUE[name]
    assert GOOD.count(old) == 1
    found = [p for p in problems(GOOD.replace(old, new)) if p.message != "there is no catch-all rule"]
    assert len(found) == 1
    problem = found[0]
    assert (f"{problem.line}:{problem.column}", problem.value) == (place, value)
    assert message in problem.message
    assert remedy in problem.remedy
    assert str(problem).startswith(f"{SOURCE}:{place}: {problem.key} = {value}: ")


@pytest.mark.parametrize(
    ("line", "key", "near"),
    [
        ("  rollout_percent: 10", "global.rollout_percent", "did you mean rollout_percentage?"),
        ("  api_key: 10", "global.api_key", "it belongs to qbittorrent or cross_seed or server"),
        ("  zzz: 10", "global.zzz", "keys here are active_torrent_threshold_kb, "),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest(line: str, key: str, near: str) -> None:
    problem = only_problem(GOOD.replace(ROLLOUT, line))
    assert (problem.line, problem.column, problem.key) == (2, 3, key)
    assert near in problem.remedy


def test_an_unknown_section_is_told_with_the_nearest() -> None:
    problem = only_problem(GOOD + "loging:\n  level: INFO\n")
    assert (problem.line, problem.column, problem.key, problem.value) == (13, 1, "loging", None)
    assert problem.remedy == "did you mean logging?"


@pytest.mark.parametrize("section", ["qbittorrent", "trackers"])
def test_a_missing_section_is_an_error(section: str) -> None:
    text = (
        GOOD.replace(f"{section}:\n", f"server:\n# {section}\n")
        if section == "qbittorrent"
        else GOOD[: GOOD.index("trackers")]
    )
    missing = next(p for p in problems(text) if p.message == "is missing")
    assert (missing.line, missing.column, missing.key, missing.value) == (1, 1, section, None)
    assert missing.remedy.startswith("add ")


def test_a_missing_cap_is_told_at_its_rule() -> None:
    problem = only_problem(GOOD.replace(RULE + "\n", ""))
    assert (problem.line, problem.column, problem.key) == (7, 5, "trackers[0].max_upload_speed")
    assert problem.message == "is missing"
    assert "unlimited" in problem.remedy


def test_a_rule_that_matches_nothing_is_an_error_even_beside_others() -> None:
    text = GOOD.replace("    match: [one.example.org]\n", "    match: []\n    priority: 0\n")
    assert {p.key: p.message for p in problems(text)} == {
        "trackers[0]": "matches nothing",
        "trackers[0].priority": "is too small",
    }


def test_no_catch_all_is_an_error() -> None:
    problem = only_problem(GOOD.replace("'.*'", "two"))
    assert (problem.line, problem.column, problem.key) == (7, 3, "trackers")
    assert problem.message == "there is no catch-all rule"
    assert "pattern: '.*'" in problem.remedy


def test_no_rules_at_all_is_no_catch_all() -> None:
    assert only_problem(GOOD[: GOOD.index("trackers")] + "trackers: []").message == "there is no catch-all rule"


def test_a_catch_all_before_other_rules_is_an_error() -> None:
    problem = only_problem(GOOD + "  - {id: late, match: late.example, max_upload_speed: 1}\n")
    assert (problem.line, problem.column, problem.key, problem.value) == (11, 14, "trackers[1].pattern", '".*"')
    assert "end of the list" in problem.remedy


def test_a_second_catch_all_is_an_error() -> None:
    problem = only_problem(GOOD.replace("match: [one.example.org]", "pattern: .*"))
    assert (problem.key, problem.message) == ("trackers[0].pattern", "is not the only catch-all rule")


def test_all_problems_of_a_file_come_together_in_its_order() -> None:
    text = (
        GOOD.replace(ROLLOUT, "  rollout_percentage: 101\n  prot: 1")
        .replace("localhost", "${NOWHERE}")
        .replace(RULE, "    max_upload_speed: 0")
        .replace("'.*'", "'('")
    )
    assert [p.key for p in problems(text)] == [
        "global.rollout_percentage",
        "global.prot",
        "qbittorrent.host",
        "trackers",
        "trackers[0].max_upload_speed",
        "trackers[1].pattern",
    ]


SYNTAX = {
    "tab": ("global:\n\tport: 1\n", "2:1", "tab", "spaces"),
    "open quote": ('global:\n  host: "x\n', "3:1", "quotation mark", "close"),
    "open bracket": ("trackers: [a, b\n", "2:1", "bracket", "close"),
    "colon in a value": ("global:\n  host: a: b\n", "2:10", "no key may be", "quote"),
    "indentation": ("global:\n  host: a\n port: 1\n", "3:2", "does not fit", "indent"),
    "regex in double quotes": ('trackers:\n  - pattern: "a\\.b"\n', "2:17", "backslash", "single quotes"),
    "reserved character": (f"qbittorrent:\n  password: @{CANARY}\n", "2:13", "reserves", "quotes"),
    "alias": (f"qbittorrent:\n  password: *{CANARY}\n", "2:13", "alias", "quotes"),
    "tag": (f"qbittorrent:\n  password: !{CANARY}!x y\n", "2:13", "begins with !", "quotes"),
    "two documents": ("a: 1\n---\nb: 1\n", "2:1", "second document", "one document"),
    "control character": ("global:\n  host: a\x01b\n", "2:10", "U+0001", "remove"),
    "empty file": ("", "1:1", "is empty", "config/qguard.example.yaml"),
    "only comments": ("# nothing\n", "1:1", "is empty", "config/qguard.example.yaml"),
    "a list": ("- a\n", "1:1", "not a set of sections", "at the top"),
    "a word": (f"{CANARY}\n", "1:1", "not a set of sections", "at the top"),
    "deep nesting": ("[" * 5000, "1:1", "nested too deeply", "brackets"),
    "contains itself": ("&a [*a]\n", "1:1", "contains itself", "remove the alias"),
}


@pytest.mark.parametrize("name", SYNTAX)
def test_what_is_no_configuration_at_all_is_one_line_with_its_place(name: str) -> None:
    text, place, message, remedy = SYNTAX[name]
    problem = only_problem(text)
    assert f"{problem.line}:{problem.column}" == place
    assert message in problem.message
    assert remedy in problem.remedy
    assert str(problem) == f"{SOURCE}:{place}: {problem.message}; {problem.remedy}"


def test_a_key_given_twice_is_an_error() -> None:
    problem = only_problem(GOOD.replace(ROLLOUT, f"{ROLLOUT}\n  port: 1\n  port: 2"))
    assert (problem.line, problem.column, problem.key) == (4, 3, "global.port")
    assert (problem.message, problem.remedy) == ("is given twice (first in line 3)", "keep one of the two")


def test_half_of_a_character_is_an_error() -> None:
    problem = only_problem(GOOD.replace(CANARY, f'"{CANARY}\\ud800"'))
    assert (problem.line, problem.column, problem.message) == (5, 13, "has half of a character")


def test_aliases_that_multiply_are_stopped() -> None:
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]\n" for i in range(1, 10))
    assert "is too large" in only_problem("l0: &l0 [x]\n" + levels).message


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("  password: 123456789", "password"),
        (f"  password: [{CANARY}]", "password"),
        (f"  password: {{a: {CANARY}}}", "password"),
        (f"  password: !x {CANARY}", "password"),
        (f"  pasword: {CANARY}", "pasword"),
        (f"  creds: {CANARY}", "creds"),
        (f"  url: http://me:{CANARY}@localhost:8080", "url"),
        (f"  url: me:{CANARY}@localhost:8080", "url"),
        (f"  url: http://localhost:8080?key={CANARY}", "url"),
        (f"  password: ${{{CANARY}}}", "password"),
        (f"  password: x\n  username: [{CANARY}]", "username"),
    ],
)
def test_a_secret_in_the_wrong_shape_or_place_is_not_repeated(line: str, key: str) -> None:
    problem = only_problem(GOOD.replace(f"  password: {CANARY}", line))
    assert problem.key == f"qbittorrent.{key}"
    assert "123456789" not in str(problem)


def test_text_in_place_of_a_section_is_not_repeated() -> None:
    text = GOOD.replace(f"qbittorrent:\n{HOST}\n  password: {CANARY}\n", f"qbittorrent: {CANARY}\n")
    assert only_problem(text).message == "is not a section"


def test_what_the_environment_holds_is_not_repeated() -> None:
    problem = only_problem(GOOD.replace(ROLLOUT, "  port: ${OTHER}"), {"OTHER": CANARY})
    assert (problem.value, problem.message) == ('"${OTHER}"', "is not a whole number")


def test_a_known_secret_is_not_repeated_under_another_key() -> None:
    problem = only_problem(GOOD.replace("[one.example.org]", f"['{CANARY}:80']"))
    assert problem.value == '"***:80"'


@pytest.mark.parametrize(
    "text", ["https://a.example/abcdef0123/announce", "https://a.example/announce?passkey=abcdef0123"]
)
def test_a_passkey_in_a_rule_is_not_repeated(text: str) -> None:
    problem = only_problem(GOOD.replace("[one.example.org]", f"'{text}'"))
    assert problem.message == "is a URL, not a domain"
    assert "abcdef0123" not in str(problem)


def test_neither_a_key_nor_a_value_can_break_the_line() -> None:
    text = GOOD.replace("[one.example.org]", '"a\\nb\\e[31m"').replace("    match", '    "i\\nd": one\n    match')
    found = problems(text)
    assert [p.message for p in found] == ["there is no such key in trackers[0]", "is not a domain"]
    assert all(str(problem).isprintable() for problem in found)

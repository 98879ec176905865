"""A configuration file that is good: what its values become, where it is looked for, what is shown of it."""

import json
from pathlib import Path

import pytest

from qguard.config import (
    ConfigError,
    Loaded,
    describe_cap,
    find,
    load,
    parse,
    redacted,
    restart_needed,
    secret_values,
)

ROOT = Path(__file__).resolve().parents[2]

QGUARDARR = """\
global:
  update_interval: 300
  active_torrent_threshold_kb: 20
  max_api_calls_per_cycle: 500
  differential_threshold: 0.2
  rollout_percentage: 10
  cache_ttl_seconds: 1800
  host: "0.0.0.0"
  port: ${APP_PORT}
  allocation_strategy: soft
  max_managed_torrents: 900
  borrow_threshold_ratio: 0.8
  max_borrow_fraction: 0.4
  smoothing_alpha: 0.3
  min_effective_delta: 0.05
  dry_run: false
  dry_run_store_path: "./data/dry_run_limits.json"
  auto_unlimit_on_inactive: false
qbittorrent:
  host: "${QBIT_HOST}"
  port: ${QBIT_PORT}
  username: "${QBIT_USERNAME}"
  password: "${QBIT_PASSWORD}"
  timeout: 20
cross_seed:
  enabled: false
  url: "${CROSS_SEED_URL}"
  api_key: "${CROSS_SEED_API_KEY}"
  timeout: 15
trackers:
  - id: "premium"
    name: "Premium"
    pattern: ".*premium\\\\.example.*"
    max_upload_speed: 10485760
    priority: 10
  - id: "default"
    name: "Default"
    pattern: ".*"
    max_upload_speed: -1
    priority: 1
rollback:
  database_path: "./data/rollback.db"
  track_all_changes: false
logging:
  level: "debug"
  file: "./logs/qguardarr.log"
  max_size_mb: 40
  backup_count: 4
"""
QGUARDARR_ENVIRON = {
    "APP_PORT": "8090",
    "QBIT_HOST": "client",
    "QBIT_PORT": "8081",
    "QBIT_USERNAME": "me",
    "QBIT_PASSWORD": "0123",
}


def config(
    *, top: str = "", q: str = "{}", rule: str = "", environ: dict[str, str] | None = None, folder: Path = Path("/f")
) -> Loaded:
    """A small good file with something added to it."""
    text = f"""\
qbittorrent: {q}
trackers:
  - {{id: one, match: one.example, max_upload_speed: 1 MB/s{rule and f", {rule}"}}}
  - {{id: default, pattern: '.*', max_upload_speed: unlimited}}
{top}"""
    return parse(text, source=folder / "qguard.yaml", environ=environ or {}, strategies=("equal", "soft"))


def test_a_qguardarr_file_loads_with_warnings_only_for_keys_without_use() -> None:
    loaded = parse(QGUARDARR, source=Path("/etc/q/qguard.yaml"), environ=QGUARDARR_ENVIRON, strategies=("soft",))
    assert [(line.split(" = ")[0], "has no effect here" in line) for line in loaded.warnings] == [
        ("/etc/q/qguard.yaml:4:28: global.max_api_calls_per_cycle", True),
        ("/etc/q/qguard.yaml:7:22: global.cache_ttl_seconds", True),
        ("/etc/q/qguard.yaml:17:23: global.dry_run_store_path", True),
        ("/etc/q/qguard.yaml:18:29: global.auto_unlimit_on_inactive", True),
        ("/etc/q/qguard.yaml:43:22: rollback.track_all_changes", True),
    ]


def test_a_qguardarr_file_keeps_its_meaning() -> None:
    settings = parse(
        QGUARDARR, source=Path("/etc/q/qguard.yaml"), environ=QGUARDARR_ENVIRON, strategies=("soft",)
    ).settings
    g = settings.global_
    assert (g.poll_interval, g.active_threshold, g.rollout_percentage, g.host, g.port) == (
        300.0,
        20480,
        10,
        "0.0.0.0",
        8090,
    )
    assert (g.borrow_threshold_ratio, g.max_borrow_fraction, g.smoothing_alpha, g.min_effective_delta) == (
        0.8,
        0.4,
        0.3,
        0.05,
    )
    q = settings.qbittorrent
    assert (q.base_url, q.username, q.secret_password, q.timeout) == ("http://client:8081", "me", "0123", 20)
    assert [(t.id, t.max_upload_speed, t.is_catch_all) for t in settings.trackers] == [
        ("premium", 10485760, False),
        ("default", None, True),
    ]
    assert settings.trackers[0].pattern == r".*premium\.example.*"
    assert settings.rollback.database_path == Path("/etc/q/data/rollback.db")
    assert settings.logging.level == "DEBUG"
    assert settings.logging.file == Path("/etc/q/logs/qguardarr.log")


def test_an_absent_rollout_percentage_observes_only() -> None:
    assert config().settings.global_.rollout_percentage == 0


@pytest.mark.parametrize(
    ("keys", "seconds"),
    [
        ("", "auto"),
        ("poll_interval: Auto", "auto"),
        ("poll_interval: 1", 1),
        ("update_interval: 60", 60),
        ("update_interval: 60, poll_interval: 2m", 120),
        ("update_interval: 60, poll_interval: auto", "auto"),
    ],
)
def test_update_interval_counts_only_without_poll_interval(keys: str, seconds: float | str) -> None:
    assert config(top=f"global: {{{keys}}}").settings.global_.poll_interval == seconds


def test_two_keys_of_which_one_counts_are_warned_about() -> None:
    (warning,) = config(top="global: {update_interval: 60, poll_interval: 5}").warnings
    assert "global.update_interval = 60: has no effect: global.poll_interval is given" in warning
    (warning,) = config(q="{url: 'http://a:1', port: 2}").warnings
    assert "qbittorrent.port = 2: has no effect: qbittorrent.url is given" in warning


def test_sections_without_keys_are_empty() -> None:
    loaded = config(top="global:\nlogging:\nserver:\ncross_seed:\nrollback:\n")
    assert loaded.settings == config().settings


def test_merged_keys_yield_to_those_written_out() -> None:
    text = """\
qbittorrent: {}
trackers:
  - &base {id: one, match: a.example, max_upload_speed: 1, priority: 3}
  - {<<: *base, id: two, max_upload_speed: 2}
  - {id: default, pattern: .*, max_upload_speed: -1}
"""
    rules = parse(text, source=Path("c.yaml"), environ={}, strategies=("equal",)).settings.trackers
    assert [(r.id, r.max_upload_speed, r.priority) for r in rules[:2]] == [("one", 1, 3), ("two", 2, 3)]


def test_a_rule_may_give_single_values_for_lists() -> None:
    rule = config(rule="categories: tv, tags: [a, b]").settings.trackers[0]
    assert (rule.name, rule.match, rule.categories, rule.tags) == ("one", ("one.example",), ("tv",), ("a", "b"))


@pytest.mark.parametrize("written", ["One.Example", ".one.example", "'*.one.example'", "one.example."])
def test_the_ways_to_write_a_domain_are_one(written: str) -> None:
    assert config(rule="").settings.trackers[0].match == ("one.example",)
    text = f"""\
qbittorrent: {{}}
trackers: [{{id: a, match: [{written}], max_upload_speed: 1}}, {{id: b, pattern: '.*', max_upload_speed: -1}}]
"""
    loaded = parse(text, source=Path("c.yaml"), environ={}, strategies=("equal",))
    assert loaded.settings.trackers[0].match == ("one.example",)


@pytest.mark.parametrize(
    ("keys", "url"),
    [
        ("{}", "http://localhost:8080"),
        ("{host: '::1', port: 1}", "http://[::1]:1"),
        ("{url: 'https://box.example/qbt/'}", "https://box.example/qbt"),
        ("{url: 'http://[::1]:8080'}", "http://[::1]:8080"),
        ("{url: 'http://q_b:8080'}", "http://q_b:8080"),
    ],
)
def test_the_address_of_the_client(keys: str, url: str) -> None:
    assert config(q=keys).settings.qbittorrent.base_url == url


def test_a_variable_as_a_whole_value_may_be_a_number() -> None:
    top = "global: {port: '${P}', dry_run: '${D}', poll_interval: '${I}', link_upload_speed: '${L}'}"
    g = config(top=top, environ={"P": "81", "D": "true", "I": "7", "L": "10485760"}).settings.global_
    assert (g.port, g.dry_run, g.poll_interval, g.link_upload_speed) == (81, True, 7, 10485760)


def test_a_variable_stays_text_where_text_is_wanted() -> None:
    q = config(q="{username: '${U}', password: '${P}'}", environ={"U": "123", "P": "true"}).settings.qbittorrent
    assert (q.username, q.secret_password) == ("123", "true")


@pytest.mark.parametrize(
    ("written", "environ", "value"),
    [
        ("${A}", {"A": "x"}, "x"),
        ("${A:-y}", {}, "y"),
        ("${A:-y}", {"A": ""}, "y"),
        ("${A:-y}", {"A": "x"}, "x"),
        ("a-${A}-${B:-c}", {"A": "x"}, "a-x-c"),
        ("$${A}", {"A": "x"}, "${A}"),
        ("${A}", {"A": "${B}", "B": "x"}, "${B}"),
        ("$A and }", {"A": "x"}, "$A and }"),
        ("${A:-}", {}, None),
        ("${A}", {"A": ""}, None),
    ],
)
def test_variables_are_put_in_once(written: str, environ: dict[str, str], value: str | None) -> None:
    assert config(q=f"{{username: '{written}'}}", environ=environ).settings.qbittorrent.username == value


def test_an_unset_variable_is_an_error_that_names_it() -> None:
    with pytest.raises(ConfigError, match=r"variable NAME is not set; set NAME, or .* \$\{NAME:-default\}"):
        config(q="{username: '${NAME}'}")


def test_a_variable_that_is_no_text_is_an_error() -> None:
    with pytest.raises(ConfigError, match="variable NAME is not UTF-8; set NAME to text"):
        config(q="{password: '${NAME}'}", environ={"NAME": "a\udcff"})


def test_an_unset_variable_matters_to_cross_seed_only_once_it_is_enabled() -> None:
    assert config(top="cross_seed: {enabled: false, url: '${NAME}'}").settings.cross_seed.url is None
    with pytest.raises(ConfigError, match=r"qbittorrent\.username .* variable NAME is not set"):
        config(q="{username: '${NAME}'}", top="cross_seed: {enabled: false, url: '${NAME}'}")
    with pytest.raises(ConfigError, match=r"cross_seed\.url .* variable NAME is not set"):
        config(top="cross_seed: {enabled: '${ON}', url: '${NAME}'}", environ={"ON": "true"})


def test_secrets_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret-words\n")
    settings = config(
        q="{password_file: secret, api_key_file: ./secret}", top="server: {read_key_file: secret}", folder=tmp_path
    ).settings
    assert settings.qbittorrent.secret_password == "s3cret-words"
    assert settings.qbittorrent.secret_api_key == "s3cret-words"
    assert settings.server.secret_read_key == "s3cret-words"
    assert settings.server.secret_hook_key is None
    assert settings.qbittorrent.password_file == tmp_path / "secret"


@pytest.mark.parametrize(
    ("content", "keys", "said"),
    [
        (None, "password_file: secret", "cannot be read: No such file or directory"),
        (b" \n", "password_file: secret", "is an empty file"),
        (b"\xff", "password_file: secret", "is not a file of text"),
        (b"one\ntwo\n", "password_file: secret", "holds more than one line"),
        (b"x" * 5000, "password_file: secret", "holds more than one line"),
        (b"x", "password: y, password_file: secret", "is given together with password"),
    ],
)
def test_a_secret_file_without_a_secret_is_an_error_with_its_place(
    content: bytes | None, keys: str, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config(q=f"{{{keys}}}", folder=tmp_path)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line, problem.value) == ("qbittorrent.password_file", 1, '"secret"')
    assert said in problem.message


SECRETS = "server: {api_key: canary-a, read_key: canary-r, hook_key: canary-h}\ncross_seed: {api_key: canary-c}"


def test_secrets_are_not_shown() -> None:
    settings = config(q="{password: canary-p, api_key: canary-k}", top=SECRETS).settings
    shown = redacted(settings)
    assert "canary" not in json.dumps(shown) + repr(settings) + str(settings)
    assert shown["server"]["hook_key"] == shown["qbittorrent"]["password"] == "***"
    assert redacted(config().settings)["qbittorrent"]["password"] is None


def test_secret_values_are_all_secrets() -> None:
    settings = config(q="{password: canary-p, api_key: canary-k}", top=SECRETS).settings
    assert sorted(secret_values(settings)) == [f"canary-{c}" for c in "achkpr"]
    assert secret_values(config().settings) == ()


def test_what_is_shown_has_the_keys_of_the_file() -> None:
    settings = config(top="global: {poll_interval: 7}").settings
    shown = redacted(settings)
    assert list(shown) == ["global", "qbittorrent", "cross_seed", "trackers", "rollback", "logging", "server"]
    assert shown["trackers"][1]["max_upload_speed"] is None
    assert shown["global"]["poll_interval"] == 7
    assert shown["rollback"]["database_path"] == "/f/data/rollback.db"


def test_only_the_listener_and_the_ledger_need_a_restart() -> None:
    old = config().settings
    new = config(
        top="global: {host: 0.0.0.0, port: 1, poll_interval: 9}\nrollback: {database_path: /x.db, keep_days: 1}",
        q="{timeout: 5}",
    ).settings
    assert restart_needed(old, new) == ("global.host", "global.port", "rollback.database_path")
    assert restart_needed(old, config(q="{timeout: 5}").settings) == ()


def test_the_strategies_are_those_installed(tmp_path: Path) -> None:
    text = (
        "qbittorrent: {}\ntrackers: [{id: b, pattern: '.*', max_upload_speed: -1}]\nglobal: {allocation_strategy: %s}"
    )
    assert parse(text % "equal", source=tmp_path / "c", environ={}).settings.global_.allocation_strategy == "equal"
    with pytest.raises(ConfigError, match=r'= "magic": is not an installed strategy; installed are .*equal'):
        parse(text % "magic", source=tmp_path / "c", environ={})


@pytest.mark.parametrize(
    ("cap", "words"),
    [
        (10485760, "10485760 B/s = 10.49 MB/s = 10.00 MiB/s"),
        (1, "1 B/s = 0.00 MB/s = 0.00 MiB/s"),
        (None, "unlimited"),
    ],
)
def test_a_cap_is_described_in_three_units(cap: int | None, words: str) -> None:
    assert describe_cap(cap) == words


def good_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("qbittorrent: {}\ntrackers: [{id: b, pattern: '.*', max_upload_speed: -1}]\n")
    return path


def test_a_file_is_loaded_with_its_own_folder_for_relative_paths(tmp_path: Path) -> None:
    path = good_file(tmp_path / "conf" / "my.yaml")
    loaded = load(path, {}, strategies=("equal",))
    assert loaded.path == path
    assert loaded.settings.rollback.database_path == tmp_path / "conf" / "data" / "rollback.db"


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    path = good_file(tmp_path / "my.yaml")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load(path, {}, strategies=("equal",)).warnings == ()


def test_the_file_is_looked_for_in_order(tmp_path: Path) -> None:
    usual = good_file(tmp_path / "config" / "qguard.yaml")
    by_variable = good_file(tmp_path / "variable.yaml")
    by_option = good_file(tmp_path / "option.yaml")
    environ = {"QGUARD_CONFIG": "variable.yaml"}
    assert find(Path("option.yaml"), environ, tmp_path) == by_option
    assert find(None, environ, tmp_path) == by_variable
    assert find(None, {}, tmp_path) == usual


@pytest.mark.skipif(Path("/config/qguard.yaml").exists(), reason="there is a configuration in the last usual place")
def test_no_file_at_all_names_every_place_and_the_example(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        find(None, {}, tmp_path)
    (line,) = str(caught.value).splitlines()
    for part in ("--config", "$QGUARD_CONFIG", str(tmp_path / "config/qguard.yaml"), "/config/qguard.yaml"):
        assert part in line
    assert line.endswith(f"copy config/qguard.example.yaml to {tmp_path}/config/qguard.yaml and edit it")


@pytest.mark.parametrize(("explicit", "how"), [(Path("no.yaml"), "--config"), (None, "$QGUARD_CONFIG")])
def test_a_file_asked_for_by_name_is_not_replaced_by_another(explicit: Path | None, how: str, tmp_path: Path) -> None:
    good_file(tmp_path / "config" / "qguard.yaml")
    with pytest.raises(ConfigError) as caught:
        find(explicit, {"QGUARD_CONFIG": "no.yaml"}, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/no.yaml: there is no such file, which {how} names; copy ")


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"global:\n  host: \xe4\n")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (4 * 2**20 + 1))
    said = {
        tmp_path / "none.yaml": "{}: there is no such file; copy config/qguard.example.yaml there",
        tmp_path: "{}: is a folder; name the file in it",
        latin: "{}:2:9: is not UTF-8; save the file as UTF-8",
        huge: "{}: is too large for a configuration; check the path",
    }
    for path, line in said.items():
        with pytest.raises(ConfigError) as caught:
            load(path, {})
        assert str(caught.value).startswith(line.format(path))
        assert len(caught.value.problems) == 1


def test_the_example_loads_without_any_variable_and_observes_only() -> None:
    loaded = load(ROOT / "config" / "qguard.example.yaml", {}, strategies=("adaptive", "equal"))
    assert loaded.warnings == ()
    assert loaded.settings.global_.rollout_percentage == 0
    assert loaded.settings.qbittorrent.is_embedded
    assert [(t.max_upload_speed, t.hard) for t in loaded.settings.trackers] == [
        (10 * 2**20, True),
        (5_000_000, False),
        (None, False),
    ]


def test_the_example_names_its_schema_in_the_first_line() -> None:
    first, *_ = (ROOT / "config" / "qguard.example.yaml").read_text(encoding="utf-8").splitlines()
    comment, _, schema = first.partition("$schema=")
    assert comment == "# yaml-language-server: "
    assert (ROOT / "config" / schema).is_file()

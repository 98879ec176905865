"""Keys of our own doors are long enough that nobody guesses them; what other programs ask for is theirs to judge."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from qguard.config import ConfigError, Settings, parse
from qguard.config.checks import SHORTEST_KEY

SHORT = "x4V9" + "z" * (SHORTEST_KEY - 5)
"""One character less than it takes."""

KEYS = ("api_key", "read_key", "hook_key")


def settings(folder: Path, environ: dict[str, str] | None = None, **sections: Any) -> Settings:
    rules = [{"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"}]
    document = {"qbittorrent": {"url": "http://127.0.0.1:1"}, "trackers": rules, **sections}
    return parse(yaml.safe_dump(document), source=folder / "qguard.yaml", environ=environ or {}).settings


def refusal(folder: Path, environ: dict[str, str] | None = None, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        settings(folder, environ, **sections)
    return str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_short_key_is_refused_without_being_quoted(tmp_path: Path, key: str) -> None:
    words = refusal(tmp_path, server={key: SHORT})
    assert f"server.{key} = ***" in words
    assert f"has fewer than {SHORTEST_KEY} characters" in words
    assert "openssl rand" in words
    assert SHORT not in words
    assert settings(tmp_path, server={key: SHORT + "z"}).server


@pytest.mark.parametrize("key", KEYS)
def test_so_is_one_from_a_file_or_a_variable(tmp_path: Path, key: str) -> None:
    (tmp_path / "secret").write_text(SHORT + "\n")
    assert f"server.{key}_file" in refusal(tmp_path, server={f"{key}_file": "secret"})
    assert f"server.{key}" in refusal(tmp_path, {"SHORT": SHORT}, server={key: "${SHORT}"})


def test_no_key_is_no_short_key(tmp_path: Path) -> None:
    assert settings(tmp_path, server={"api_key": ""}).server.secret_api_key is None
    assert settings(tmp_path, {"NONE": ""}, server={"api_key": "${NONE}"}).server.secret_api_key is None


def test_passwords_of_other_programs_may_be_short(tmp_path: Path) -> None:
    there = {"url": "http://127.0.0.1:1", "username": "a", "password": "b"}
    assert settings(tmp_path, qbittorrent=there).qbittorrent.secret_password == "b"
    cross_seed = {"enabled": True, "url": "http://127.0.0.1:1", "api_key": "c"}
    assert settings(tmp_path, cross_seed=cross_seed).cross_seed.secret_api_key == "c"

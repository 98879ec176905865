"""A request makes us read neither variables nor files of this machine; a command without a service may."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from qguard.answers import RequestError
from qguard.config import ConfigError, load
from qguard.config.proposed import parse_proposed
from qguard.ledger import Ledger
from qguard.service import Service
from tests.support.columns import torrents
from tests.support.fake_client import FakeClient
from tests.support.http_service import HttpService
from tests.support.process import Setup

SECRET = "12345678"  # a rate, too, so that it would show in a cap
BUSY = {"upspeed": 51_200, "uploaded_session": 10**7}
CONFIG = """
global: {rollout_percentage: 100}
qbittorrent: {url: 'http://127.0.0.1:1', username: someone, password: '${CLIENT_PASSWORD}'}
server: {read_key_file: read.key}
trackers:
  - {id: alpha, match: [alpha.example], max_upload_speed: '${ALPHA_CAP}'}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpService]:
    monkeypatch.setenv("CLIENT_PASSWORD", SECRET)
    monkeypatch.setenv("ALPHA_CAP", "1 MiB/s")
    (tmp_path / "read.key").write_text("opens-reading")
    with HttpService(tmp_path, FakeClient(torrents([BUSY, BUSY])), CONFIG) as running:
        yield running


def preview(service: HttpService, text: str) -> tuple[int, str]:
    """Status and message."""
    answer = service.http.post("/preview/next-cycle", json={"config": text})
    return answer.status_code, answer.json().get("error", {}).get("message", "")


OTHERS = {
    "in a cap": ("'${ALPHA_CAP}'", "'${%s}'", "trackers[0].max_upload_speed"),
    "in a text": ("someone", "'x${%s}'", "qbittorrent.username"),
    "in a list": ("alpha.example", "'${%s}'", "trackers[0].match[0]"),
    "with a default": ("'.*'", "'${%s:-.*}'", "trackers[1].pattern"),
    "in another key": ("rollout_percentage: 100", "rollout_percentage: '${%s}'", "global.rollout_percentage"),
}


@pytest.mark.parametrize(("old", "new", "key"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("name", ["CLIENT_PASSWORD", "HOME", "QGUARD_IS_NOT_SET"])
def test_a_variable_that_the_file_does_not_use_there_is_refused_and_not_looked_up(
    service: HttpService, old: str, new: str, key: str, name: str
) -> None:
    text = CONFIG.replace('".*"', "'.*'").replace(old, new % name)
    status, words = preview(service, text)
    assert status == 422
    assert f": {key} = " in words
    assert "refers to the environment or to a file" in words
    assert "not set" not in words
    assert SECRET not in words
    assert len(words.splitlines()) == 1


@pytest.mark.parametrize("file", ["/etc/passwd", "/nowhere/at/all", "${HOME}/x", "./read.key", "../read.key"])
@pytest.mark.parametrize("key", ["password_file", "api_key_file"])
def test_a_file_that_the_configuration_does_not_name_there_is_refused_and_not_looked_at(
    service: HttpService, key: str, file: str
) -> None:
    text = CONFIG.replace("password: '${CLIENT_PASSWORD}'", f"{key}: '{file}'")
    status, words = preview(service, text)
    assert status == 422
    assert f"qbittorrent.{key}" in words
    assert "refers to the environment or to a file" in words
    assert len(words.splitlines()) == 1


def test_what_the_file_refers_to_itself_may_stand_in_a_preview_too(service: HttpService) -> None:
    assert preview(service, CONFIG) == (200, "")
    document = yaml.safe_load(CONFIG)
    document["trackers"].insert(0, {"id": "beta", "match": ["beta.example"], "max_upload_speed": "$${x}"})
    status, words = preview(service, yaml.safe_dump(document))
    assert (status, "is not understood" in words or "max_upload_speed" in words) == (422, True)  # `${x}` is no rate
    assert "refers to" not in words
    document["trackers"][0]["max_upload_speed"] = 1
    answer = service.http.post("/preview/next-cycle", json={"config": yaml.safe_dump(document)})
    assert answer.json()["trackers"]["alpha"]["base_cap"] == 2**20


def test_without_a_file_to_compare_with_nothing_may_be_referred_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="refers to the environment"):
        parse_proposed(CONFIG, source=tmp_path / "gone.yaml", environ={"CLIENT_PASSWORD": "x", "ALPHA_CAP": "1"})


def test_a_command_without_a_service_may_use_any_variable(tmp_path: Path) -> None:
    setup = Setup(tmp_path, "http://127.0.0.1:9", username="u", password="${OF_MY_OWN}")
    setup.command("preview", env={"OF_MY_OWN": SECRET}).expect(3)  # the configuration is good, qBittorrent is away
    setup.command("preview").expect(2)


# Originals


def adopt(service: HttpService, name: str) -> tuple[int, str]:
    """Status and what is said."""
    answer = service.http.post("/adopt", json={"originals": name})
    return answer.status_code, answer.json().get("error", {}).get("message", "")


def test_originals_come_only_from_the_folder_of_the_ledger(service: HttpService, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside.originals.jsonl"
    outside.write_text("")
    (tmp_path / "link.jsonl").symlink_to(outside)
    (tmp_path / "circle.jsonl").symlink_to(tmp_path / "circle.jsonl")
    (tmp_path / "saved.originals.jsonl").write_text("")
    (tmp_path / "inner.jsonl").symlink_to(tmp_path / "saved.originals.jsonl")
    for name in (
        str(outside),
        f"../{outside.name}",
        f"{tmp_path}/../{outside.name}",
        f"{tmp_path}/link.jsonl",
        "link.jsonl",
        "circle.jsonl",
        "/etc/passwd",
        "/nowhere",
        str(tmp_path),
        "",
        "x" * 5000,
        "a\0b",
    ):
        assert adopt(service, name) == (404, f"there is no originals file {name!r}")
    for name in (f"{tmp_path}/saved.originals.jsonl", "saved.originals.jsonl", "inner.jsonl"):
        # Read, and found to be empty.
        assert adopt(service, name) == (422, f"{name!r} holds no originals; nothing was adopted")


async def test_a_service_of_a_command_adopts_from_anywhere(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere.jsonl"
    data.mkdir()
    elsewhere.write_text("")
    (data / "qguard.yaml").write_text(CONFIG.replace("${CLIENT_PASSWORD}", "x").replace("${ALPHA_CAP}", "1 MiB/s"))
    (data / "read.key").write_text("opens-reading")
    loaded = load(data / "qguard.yaml")
    service = Service(loaded, await Ledger.open(data / "ledger.db"), client_factory=lambda _: FakeClient(torrents([])))
    with pytest.raises(RequestError, match="holds no originals"):  # so it was read
        await service.adopt(str(elsewhere), who="test")
    await service.close()

"""Whatever stands in the file, it is read or refused in whole lines; nothing else happens."""

import json
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from qguard.config import ConfigError, Loaded, Settings, parse
from qguard.config.explain import by_key, section_model

GOOD: dict[str, Any] = {
    "qbittorrent": {},
    "trackers": [
        {"id": "one", "match": ["one.example"], "max_upload_speed": 1},
        {"id": "default", "pattern": ".*", "max_upload_speed": -1},
    ],
}
SECTIONS = {key: (key, 0) if key == "trackers" else (key,) for key in by_key(Settings)}
PLACES = [(*path, key) for path in SECTIONS.values() for key in by_key(section_model(path) or Settings)]

unhurried = settings(deadline=None)  # the machine may be busy with something else

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["${A}", "${", "${A:-1}", "http://[", "http://a:99999", "1 MB/s", "5s", "~nobody/x", "\0", "10.0.0.1/8"]
    ),
)
values = st.recursive(
    scalars, lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3)
)


def read(text: str) -> Loaded | str:
    try:
        return parse(text, source=Path("/f/c.yaml"), environ={"A": "\0"}, strategies=("equal",))
    except ConfigError as error:
        said = error
    assert all(line.startswith("/f/c.yaml:") and line.isprintable() for line in str(said).splitlines())
    assert len(str(said).split("\n")) == len(said.problems) > 0
    return str(said)


@unhurried
@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    assert isinstance(read(text), str), "no text without sections and rules is a configuration"


@unhurried
@given(st.lists(st.tuples(st.sampled_from(PLACES), values), max_size=4))
def test_any_value_under_any_key_is_read_or_refused(spoiled: list[tuple[tuple[Any, ...], Any]]) -> None:
    document = json.loads(json.dumps(GOOD))
    for (section, *inside, key), value in spoiled:
        around = document.setdefault(section, {})
        (around[inside[0]] if inside else around)[key] = value
    found = read(json.dumps(document))
    if isinstance(found, Loaded):
        assert all(t.max_upload_speed is None or 1 <= t.max_upload_speed <= 2**42 for t in found.settings.trackers)
        assert 0 <= found.settings.global_.rollout_percentage <= 100


@unhurried
@given(values, st.sampled_from(["password", "pasword", "\ud800"]))
@example("\ud800", "password")
def test_any_secret_is_read_or_refused(value: Any, key: str) -> None:
    read(json.dumps({**GOOD, "qbittorrent": {key: value, "port": 0}}))


@unhurried
@given(values)
def test_any_value_in_place_of_the_rules_is_refused(value: Any) -> None:
    assert isinstance(read(json.dumps({**GOOD, "trackers": value})), str)

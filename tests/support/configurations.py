"""Good configurations of any kind, as texts: what POST /preview/next-cycle takes."""

import json
from math import ceil, floor
from typing import Any, Final

import yaml
from hypothesis import strategies as st

from qguard.config import json_schema

_MODELS: Final[dict[str, Any]] = json_schema()["$defs"]
_MADE_BY_HAND: Final = ("id", "max_upload_speed", "guaranteed_upload_speed")
"""Keys of a rule whose values must fit others."""

RATES: Final = st.integers(1, 2**42) | st.builds(
    "{}{}{}".format,
    st.integers(1, 999),
    st.sampled_from(["", " "]),
    st.sampled_from(["B/s", "KB/s", "KiB/s", "MB/s", "MiB/s", "GiB/s", "kbit/s", "Mbit/s"]),
)
CAPS: Final = RATES | st.sampled_from([-1, "unlimited"])
# They begin with a letter: PyYAML writes the text 1e0 without quotes, which newer YAML reads as a number.
WORDS: Final = st.from_regex(r"[a-z][a-z0-9_-]{0,11}", fullmatch=True)
HOSTS: Final = st.from_regex(r"[a-z][a-z0-9]{0,11}\.example", fullmatch=True)


def _way(way: dict[str, Any]) -> st.SearchStrategy[Any] | None:
    """The values of one alternative of a field, where its schema alone says which are good."""
    match way:
        case {"enum": list(values)}:
            return st.sampled_from(values)
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "null"}:
            return st.none()
        case {"type": "integer"}:
            return st.integers(way.get("minimum"), way.get("maximum"))
        # Thousandths: YAML 1.1 reads 1e-05, as JSON writes it, as text.
        case {"type": "number", "minimum": low, "maximum": high}:
            return st.integers(ceil(low * 1000), floor(high * 1000)).map(lambda number: number / 1000)
        case {"type": "number", "exclusiveMinimum": low, "maximum": high}:
            return st.integers(floor(low * 1000) + 1, floor(high * 1000)).map(lambda number: number / 1000)
    return None


def section(model: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any of the keys of a section whose schema says all about them, with values that are good."""
    keys = {}
    for name, field in _MODELS[model]["properties"].items():
        ways = [found for way in field.get("anyOf", [field]) if (found := _way(way)) is not None]
        if ways and name not in _MADE_BY_HAND:
            keys[name] = st.one_of(ways)
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def rules(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The section `trackers`: rules with ids of their own; the last takes what is left."""
    ids = draw(st.lists(WORDS, min_size=1, max_size=4, unique=True))
    made = []
    for name in ids:
        rule = draw(section("TrackerRule")) | {"id": name, "max_upload_speed": draw(CAPS)}
        matched = draw(st.sampled_from(["match", "categories", "tags", "pattern"]))
        rule[matched] = draw(HOSTS if matched == "pattern" else st.lists(HOSTS, min_size=1, max_size=3))
        if draw(st.booleans()) and rule["max_upload_speed"] in {-1, "unlimited"}:
            rule["guaranteed_upload_speed"] = draw(RATES)
        made.append(rule)
    made[-1]["pattern"] = ".*"
    return made


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Whole configurations, as data."""
    document: dict[str, Any] = {
        "qbittorrent": draw(st.fixed_dictionaries({}, optional={"username": WORDS, "password": WORDS})),
        "trackers": draw(rules()),
    }
    for name, model in (("global", "Global"), ("logging", "Logging"), ("rollback", "Rollback")):
        if draw(st.booleans()):
            document[name] = draw(section(model) | st.none())
    return document


def texts() -> st.SearchStrategy[str]:
    """Whole configurations, as YAML; JSON is YAML, too."""
    plain = documents()
    return plain.map(json.dumps) | plain.map(lambda document: yaml.safe_dump(document, sort_keys=False))

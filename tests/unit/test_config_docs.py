"""docs/configuration.md and the JSON schema say what the settings say."""

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from qguard.config import Settings, json_schema
from qguard.config.explain import by_key, section_model
from qguard.config.units import RATE_UNITS

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / "config" / "qguard.example.yaml").read_text(encoding="utf-8")


def sections() -> dict[str, type[BaseModel]]:
    """The model of each section by its key; for the trackers, that of one rule."""
    paths: dict[str, tuple[str | int, ...]] = {key: (key,) for key in by_key(Settings)}
    paths["trackers"] = ("trackers", 0)
    models = {key: section_model(path) for key, path in paths.items()}
    assert None not in models.values()
    return {key: model for key, model in models.items() if model is not None}


FIELDS = [(section, key) for section, model in sections().items() for key in model.model_fields]


def documented(section: str) -> str:
    """The part of the page under a section's heading."""
    return DOCS.partition(f"\n## `{section}`\n")[2].partition("\n## ")[0]


def row(section: str, key: str) -> list[str]:
    """The cells of a key's row: key, default, meaning."""
    rows = [line for line in documented(section).splitlines() if line.startswith(f"| `{key}` |")]
    assert len(rows) == 1
    return [cell.strip() for cell in rows[0].strip("|").split(" | ")]


@pytest.mark.parametrize(("section", "key"), FIELDS)
def test_every_key_is_documented_with_its_default_and_meaning(section: str, key: str) -> None:
    field = sections()[section].model_fields[key]
    _, default, meaning = row(section, key)
    assert meaning == field.description
    if field.is_required():
        assert default == "required"
    elif field.default is None or field.default == ():
        assert default == "none"
    elif field.default_factory is None:
        expected = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        assert default == f"`{expected}`"
    else:
        assert (key, default) in {("poll_interval", "`auto`"), ("name", "the id")}


@pytest.mark.parametrize(("section", "key"), FIELDS)
def test_every_description_says_the_range(section: str, key: str) -> None:
    schema = sections()[section].model_json_schema()["properties"][key]
    bounds = [schema[bound] for bound in ("minimum", "maximum") if bound in schema]
    numbers = re.findall(r"\d+(?:\.\d+)?", schema["description"])
    for bound in bounds:
        assert f"{bound:g}" in numbers or str(bound) in numbers


def test_no_key_is_documented_that_does_not_exist() -> None:
    for section, model in sections().items():
        keys = re.findall(r"^\| `(\w+)` \|", documented(section), re.MULTILINE)
        assert keys == list(model.model_fields)
    assert set(re.findall(r"^## `(\w+)`$", DOCS, re.MULTILINE)) == set(sections())


def test_every_unit_is_documented() -> None:
    assert all(f"`{unit}`" in DOCS for unit in RATE_UNITS)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_schema", ROOT / "scripts" / "make_schema.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_files_are_current() -> None:
    made = generator()
    how = "run scripts/make_schema.py"
    assert (ROOT / "config" / "qguard.schema.json").read_text(encoding="utf-8") == made.schema_text(), how
    assert made.with_tables(DOCS) == DOCS, how


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether `value` is valid, for the part of JSON schema that ours uses; an unknown keyword is an error."""
    types: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float),
        "null": type(None),
    }  # fmt: skip

    def is_a(name: str) -> bool:
        return isinstance(value, types[name]) and not (isinstance(value, bool) and name in {"integer", "number"})

    checks: dict[str, Callable[[Any], bool]] = {
        "$ref": lambda ref: accepts(root["$defs"][ref.rpartition("/")[2]], value, root),
        "type": lambda names: any(map(is_a, [names] if isinstance(names, str) else names)),
        "enum": lambda choices: value in choices,
        "anyOf": lambda ways: any(accepts(way, value, root) for way in ways),
        "minimum": lambda bound: value >= bound,
        "maximum": lambda bound: value <= bound,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "items": lambda item: all(accepts(item, each, root) for each in value),
        "required": lambda keys: set(keys) <= set(value),
        "properties": lambda known: all(accepts(known[key], value[key], root) for key in known.keys() & value.keys()),
        "additionalProperties": lambda _: set(value) <= set(schema["properties"]),
    }
    about = {"$schema", "$defs", "title", "description", "default", "format", "writeOnly"}
    order = ["type", *sorted(schema.keys() - about - {"type"})]
    return all(checks[keyword](schema[keyword]) for keyword in order if keyword in schema)


def test_the_schema_accepts_the_example() -> None:
    assert accepts(json_schema(), yaml.safe_load(EXAMPLE), json_schema())


@pytest.mark.parametrize(
    "line",
    [
        "poll_interval: 2m",
        "port: ${PORT:-1}",
        "poll_interval: 3",
        "poll_interval: ${EVERY:-auto}",
        "link_upload_speed: 80 Mbit/s",
        "dry_run: true",
    ],
)
def test_the_schema_accepts_what_the_loader_accepts(line: str) -> None:
    assert accepts(json_schema(), yaml.safe_load(EXAMPLE.replace("poll_interval: auto", line)), json_schema())


@pytest.mark.parametrize(
    "line",
    [
        "prot: 1",
        "port: 0",
        "port: x",
        "poll_interval: 0.5",
        "poll_interval: often",
        "link_upload_speed: 10 M",
        "link_upload_speed: 0",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(line: str) -> None:
    assert not accepts(json_schema(), yaml.safe_load(EXAMPLE.replace("poll_interval: auto", line)), json_schema())


def test_the_schema_refuses_a_rule_that_matches_nothing() -> None:
    text = EXAMPLE.replace("    match: [strict.example.org] ", "    #")
    assert text != EXAMPLE
    assert not accepts(json_schema(), yaml.safe_load(text), json_schema())

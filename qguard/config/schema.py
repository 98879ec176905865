"""Settings seen from outside: as JSON schema, as an answer without secrets, and against their successors."""

from collections.abc import Mapping
from typing import Any, Final

from qguard.config.checks import SECRET_FILES
from qguard.config.environment import WHOLE_PATTERN
from qguard.config.explain import SECRETS
from qguard.config.fields import DURATION, KIND
from qguard.config.model import Settings
from qguard.config.units import DURATION_PATTERN
from qguard.redact import HIDDEN


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of the configuration file, for editors and docs."""
    schema = Settings.model_json_schema(by_alias=True)
    models = schema["$defs"]
    for model in (schema, *models.values()):
        del model["title"]
        model["properties"] = {key: _field(field) for key, field in model["properties"].items()}
    for name in schema["properties"].keys() - set(schema["required"]):
        # A section whose keys are all commented out is nothing, and good.
        schema["properties"][name] = {"anyOf": [schema["properties"][name], {"type": "null"}]}
    models["TrackerRule"]["anyOf"] = [{"required": [key]} for key in ("pattern", "match", "categories", "tags")]
    models["Reference"] = {
        "description": "A value from the environment.",
        "type": "string",
        "pattern": WHOLE_PATTERN,
    }
    models["Duration"] = {
        "description": "A number with its unit: ms, s, m or h.",
        "type": "string",
        "pattern": DURATION_PATTERN,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "qguard configuration",
        **schema,
    }


_KEYWORDS: Final[Mapping[str, str]] = {"ge": "minimum", "le": "maximum"}
"""pydantic's names of bounds inside of an optional value -> JSON schema's."""


def _field(field: dict[str, Any]) -> dict[str, Any]:
    """Without titles, and with `${VAR}` and "5s" allowed where a number is wanted."""
    field.pop("title", None)
    about: dict[str, Any] = {}
    for key in ("default", "description"):
        if field.get(key) is not None:
            about[key] = field[key]
        field.pop(key, None)
    if "$ref" in field or field.get("type") == "array":
        return {**field, **about}
    ways: list[dict[str, Any]] = []
    for way in field.pop("anyOf", None) or [field]:
        ways.append({_KEYWORDS.get(key, key): value for key, value in way.items() if key != KIND})
        if way.get(KIND) == DURATION:
            ways.append({"$ref": "#/$defs/Duration"})
    takes_any_text = any(way == {"type": "string"} or way.get("format") == "password" for way in ways)
    if not takes_any_text:
        ways.append({"$ref": "#/$defs/Reference"})
    return {**(ways[0] if len(ways) == 1 else {"anyOf": ways}), **about}


def redacted(settings: Settings) -> dict[str, Any]:
    """The settings under the keys of the file, ready for JSON, with `***` for each secret that is set."""
    shown: dict[str, Any] = settings.model_dump(mode="json", by_alias=True)
    for section in shown.values():
        for key in SECRETS & section.keys() if isinstance(section, dict) else ():
            section[key] = None if section[key] is None else HIDDEN
    return shown


def secret_values(settings: Settings) -> tuple[str, ...]:
    """Every secret of the settings in the clear, for the redactor of logs and answers."""
    sections = {"cross_seed": ("api_key",), **SECRET_FILES}
    found = (getattr(getattr(settings, name), f"secret_{key}") for name, keys in sections.items() for key in keys)
    return tuple(secret for secret in found if secret is not None)


def restart_needed(old: Settings, new: Settings) -> tuple[str, ...]:
    """The keys that differ and that only a restart can change."""
    differs = {
        "global.host": old.global_.host != new.global_.host,
        "global.port": old.global_.port != new.global_.port,
        "rollback.database_path": old.rollback.database_path != new.rollback.database_path,
    }
    return tuple(key for key, changed in differs.items() if changed)

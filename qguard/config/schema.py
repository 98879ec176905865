"""Settings seen from outside: as JSON schema, as an answer without secrets, and against their successors."""

from typing import Any, Final

from qguard.config.checks import SECRET_FILES
from qguard.config.environment import WHOLE_PATTERN
from qguard.config.explain import SECRETS
from qguard.config.model import Settings
from qguard.redact import HIDDEN

_REFERENCE: Final = {"type": "string", "pattern": WHOLE_PATTERN}


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of the configuration file, for editors and docs."""
    schema = Settings.model_json_schema(by_alias=True)
    for model in (schema, *schema["$defs"].values()):
        for key, field in model["properties"].items():
            model["properties"][key] = _field(field)
    rule = schema["$defs"]["TrackerRule"]
    rule["anyOf"] = [{"required": [key]} for key in ("pattern", "match", "categories", "tags")]
    for model in schema["$defs"].values():
        del model["title"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "qguard configuration",
    }


def _field(field: dict[str, Any]) -> dict[str, Any]:
    """Without titles, and with `${VAR}` allowed where something else than text is wanted."""
    field.pop("title", None)
    if field.get("default", "") is None:
        del field["default"]
    ways = field.pop("anyOf", None)
    if ways is None and "type" in field and field["type"] in {"integer", "number", "boolean", "string"}:
        about: dict[str, Any] = {key: field.pop(key) for key in ("default", "description") if key in field}
        if field["type"] == "string" and "enum" not in field and "pattern" not in field:
            return {**field, **about}
        ways, field = [field], about
    if ways is None:
        return field
    return {"anyOf": [*ways, _REFERENCE], **field}


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

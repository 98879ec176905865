"""Faults, from wherever they come, -> problems with place, key, value and remedy."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from qguard.config import yamltree
from qguard.config.errors import BadValueError, Problem
from qguard.config.fields import nearest
from qguard.config.model import Settings, TrackerRule
from qguard.redact import HIDDEN, Redactor

SECRETS: Final = frozenset({"password", "api_key", "read_key", "hook_key"})
_SUSPECT: Final = ("pass", "pw", "secret", "key", "token", "auth", "cookie")
_LONGEST_VALUE: Final = 80

_MISSING: Final[Mapping[str, str]] = {
    "qbittorrent": "add the section, with url (or host and port), username and password",
    "trackers": "add a list of tracker rules that ends with the catch-all (pattern: '.*')",
    "id": "add a unique one of letters, digits, dot, hyphen and underscore",
    "max_upload_speed": 'add a rate such as "10 MiB/s", or unlimited for no cap',
}

_SAID_BY_PYDANTIC: Final[Mapping[str, tuple[str, str]]] = {
    "greater_than_equal": ("is too small", "write {wanted}"),
    "less_than_equal": ("is too large", "write {wanted}"),
    "literal_error": ("is not a choice", "write {wanted}"),
    "model_type": ("is not a section", "write its keys below it, indented, each as `key: value`"),
    "tuple_type": ("is not a list", "write one rule per `- ` below it"),
}
"""Its error types -> our message and remedy."""

_OF_ANOTHER_TYPE: Final = ("is not {wanted}", "write {wanted}, without quotes")

Path_ = yamltree.Path


def dotted(path: Path_) -> str:
    """A path as people write it: `trackers[0].pattern`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def section_model(path: Path_) -> type[BaseModel] | None:
    """The model of the section that `path` leads to."""
    match path:
        case ():
            return Settings
        case ("trackers", int()):
            return TrackerRule
        case (name,):
            field = by_key(Settings).get(str(name))
            model = field.annotation if field else None
            return model if isinstance(model, type) and issubclass(model, BaseModel) else None
        case _:
            return None


def by_key(model: type[BaseModel]) -> dict[str, Any]:
    """Field descriptions by the key they have in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


class Explainer:
    """Turns the faults of one file into problems, the first one per key."""

    def __init__(self, file: Path, tree: yamltree.Tree, secrets: Iterable[str]) -> None:
        self.file = file
        self.tree = tree
        self.problems: list[Problem] = []
        self._redact = Redactor(secrets)
        self._reported: set[Path_] = set()

    def add(self, path: Path_, fault: BadValueError, *, at_key: bool = False, value: bool = True) -> None:
        """Report `fault` unless its key, or something below it, is at fault already.

        Args:
            path: where it is.
            fault: what it is.
            at_key: the place is that of the key rather than of its value.
            value: whether the problem shows the value.
        """
        if any(path == reported[: len(path)] for reported in self._reported):
            return
        self._reported.add(path)
        self.problems.append(self.problem(path, fault, at_key=at_key, value=value))

    def problem(self, path: Path_, fault: BadValueError, *, at_key: bool = False, value: bool = True) -> Problem:
        """The problem that `fault` is at `path`."""
        place = self.tree.place(path)
        line, column = (place.key_line, place.key_column) if at_key else (place.line, place.column)
        shown = self.shown(path) if value else None
        return Problem(self.file, line, column, dotted(path), shown, self._redact(fault.message), fault.remedy)

    def flaw(self, flaw: yamltree.Flaw) -> None:
        """Report what the YAML reader found."""
        self._reported.add(flaw.path)
        fault = flaw.fault
        self.problems.append(
            Problem(self.file, flaw.line, flaw.column, dotted(flaw.path), None, fault.message, fault.remedy)
        )

    def shown(self, path: Path_) -> str | None:
        """The value at `path` as the file has it, hidden where it is or may be a secret; None where there is none."""
        value = self.tree.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        if isinstance(value, dict):
            return None
        if any(part in SECRETS for part in path):
            return HIDDEN
        if isinstance(value, list):
            return "[...]" if value else "[]"
        if isinstance(value, str):
            if str(path[-1]).endswith("url") and "@" in value:
                value = f"{HIDDEN}@{value.rpartition('@')[2]}"
            value = self._redact(value)
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."

    def unknown_key(self, path: Path_) -> None:
        """Report a key that no section of this name has."""
        *around, word = path
        model = section_model(tuple(around))
        known = sorted(by_key(model)) if model else []
        near = nearest(str(word), known)
        elsewhere = [section for section in by_key(Settings) if str(word) in _keys_of(section)]
        if near is None and elsewhere:
            remedy = f"it belongs to {' or '.join(elsewhere)}"
        elif near is not None:
            remedy = f"did you mean {near}?"
        else:
            remedy = f"keys here are {', '.join(known)}"
        where = f"in {dotted(tuple(around))}" if around else "at the top of the file"
        fault = BadValueError(f"there is no such key {where}", remedy)
        suspect = near in SECRETS or any(part in str(word).lower() for part in _SUSPECT)
        shown = self.shown(path)
        # Whatever text stands under a wrong name may be a password.
        hide = shown is not None and (suspect or shown.startswith('"'))
        problem = self.problem(path, fault, at_key=True)
        self._reported.add(path)
        self.problems.append(
            Problem(
                problem.file,
                problem.line,
                problem.column,
                problem.key,
                HIDDEN if hide else shown,
                problem.message,
                remedy,
            )
        )

    def validation(self, error: ValidationError) -> None:
        """Report everything that pydantic found."""
        for detail in error.errors(include_url=False, include_input=False):
            path = tuple(detail["loc"])
            match detail["type"]:
                case "default_factory_not_called":
                    # Only says that another field of the section is at fault.
                    continue
                case "extra_forbidden":
                    self.unknown_key(path)
                case "missing":
                    fault = BadValueError("is missing", _MISSING.get(str(path[-1]), "add it"))
                    self.add(path, fault, value=False)
                case _:
                    self.add(path, self._fault(path, detail))

    def _fault(self, path: Path_, detail: Mapping[str, Any]) -> BadValueError:
        raised = detail.get("ctx", {}).get("error")
        if isinstance(raised, BadValueError):
            return raised
        message, remedy = _SAID_BY_PYDANTIC.get(detail["type"], _OF_ANOTHER_TYPE)
        wanted = _wanted(path)
        return BadValueError(message.format(wanted=wanted), remedy.format(wanted=wanted))


def _keys_of(section: str) -> Iterable[str]:
    model = section_model((section, 0) if section == "trackers" else (section,))
    return by_key(model) if model else ()


def _wanted(path: Path_) -> str:
    """In words, what the schema wants at `path`."""
    model = section_model(path[:-1])
    if model is None:
        return "a valid value"
    schema = model.model_json_schema()["properties"].get(path[-1], {})
    schema = {**next((way for way in schema.get("anyOf", ()) if way.get("type") != "null"), {}), **schema}
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    words = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(
        schema.get("type", ""), "a valid value"
    )
    bounds = schema.get("minimum"), schema.get("maximum")
    if schema.get("x-kind") == "duration":
        words = "a duration in seconds"
    match bounds:
        case None, None:
            return words
        case low, None:
            return f"{words}, {low} or more"
        case low, high:
            return f"{words} from {low} to {high}"

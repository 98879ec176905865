"""Faults, from wherever they come, -> problems with place, key, value and remedy."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from qguard.config import yamltree
from qguard.config.errors import BadValueError, Problem
from qguard.config.fields import DURATION, KIND, nearest
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

_NOT_A_SECTION: Final = BadValueError("is not a section", "write its keys below it, indented, each as `key: value`")
_KINDS: Final[Mapping[str, str]] = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}

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


def by_key(model: type[BaseModel]) -> dict[str, FieldInfo]:
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
        """Report `fault` unless its key, or an item of its list, is at fault already.

        Args:
            path: where it is.
            fault: what it is.
            at_key: the place is that of the key rather than of its value.
            value: whether the problem shows the value.
        """
        if path in self._reported:
            return
        self._reported.add(path)
        if len(path) > 1 and isinstance(path[-1], int) and path[-2] != "trackers":
            self._reported.add(path[:-1])
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
            path = self._written(tuple(detail["loc"]))
            match detail["type"]:
                case "default_factory_not_called":
                    # Only says that another field of the section is at fault.
                    continue
                case "extra_forbidden":
                    self.unknown_key(path)
                case "missing":
                    fault = BadValueError("is missing", _MISSING.get(str(path[-1]), "add it"))
                    self.add(path, fault, value=False)
                case "model_type":
                    self.add(path, _NOT_A_SECTION, value=False)
                case _:
                    self.add(path, self._fault(path, detail))

    def _written(self, path: Path_) -> Path_:
        """`path` without the position in a list that was written as a single value."""
        return path[:-1] if isinstance(path[-1], int) and path not in self.tree.places else path

    def _fault(self, path: Path_, detail: Mapping[str, Any]) -> BadValueError:
        raised = detail.get("ctx", {}).get("error")
        if isinstance(raised, BadValueError):
            return raised
        kind, bounds = _wanted(path)
        wanted = f"write {kind}{bounds}"
        match detail["type"]:
            case "greater_than_equal":
                return BadValueError("is too small", wanted)
            case "less_than_equal":
                return BadValueError("is too large", wanted)
            case "tuple_type":
                return BadValueError("is not a list", "write one rule per `- ` below it")
            case "literal_error":
                return BadValueError("is not a choice here", wanted)
            case _:
                quoted = (self.shown(path) or "").startswith('"') and kind in _KINDS.values()
                return BadValueError(f"is not {kind}", f"{wanted}, without quotes" if quoted else wanted)


def _keys_of(section: str) -> Iterable[str]:
    model = section_model((section, 0) if section == "trackers" else (section,))
    return by_key(model) if model else ()


def _wanted(path: Path_) -> tuple[str, str]:
    """In words, the kind of value that the schema wants at `path`, and its bounds."""
    model = section_model(path[:-1])
    schema = model.model_json_schema()["properties"].get(path[-1], {}) if model else {}
    schema = {**next((way for way in schema.get("anyOf", ()) if way.get("type") != "null"), {}), **schema}
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"]), ""
    # pydantic leaves its own names inside of optional values.
    low, high = (schema.get(word, schema.get(own)) for word, own in (("minimum", "ge"), ("maximum", "le")))
    kind = _KINDS.get(schema.get("type", ""), "a valid value")
    if schema.get(KIND) == DURATION:
        return kind, f" of seconds from {low} to {high}"
    return kind, "" if low is None else f" from {low} to {high}"

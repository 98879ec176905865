"""YAML text -> plain values, with the line and column of every key and value.

Numbers are read as YAML 1.2 has them: `1:30` and `010` are text here, not 90 and 8.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from qguard.config.errors import BadValueError

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the document."""

MAX_NODES: Final = 200_000
"""Far above any real file; stops a few lines of nested aliases from filling the memory."""

_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = (
    ("bool", re.compile(r"^(?:yes|no|true|false|on|off)$", re.IGNORECASE)),
    ("null", re.compile(r"^(?:~|null|)$", re.IGNORECASE)),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]{0,40}|0x[0-9a-fA-F]{1,16})$")),
    (
        "float",
        re.compile(
            r"^[-+]?(?:(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+|[1-9][0-9]*(?=e))(?:e[-+]?[0-9]+)?|\.inf)$|^\.nan$",
            re.IGNORECASE,
        ),
    ),
    ("merge", re.compile(r"^<<$")),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key and its value begin; lines and columns from 1."""

    line: int
    column: int
    key_line: int
    key_column: int


@dataclass(frozen=True, slots=True)
class Flaw:
    """A BadValueError with its place; `path` is empty when the document itself is at fault."""

    path: Path
    line: int
    column: int
    fault: BadValueError


@dataclass(slots=True)
class Tree:
    """A document."""

    value: Any = None
    places: dict[Path, Place] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Where `path` stands; for something that is missing, the nearest thing around it that is there."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, Place(1, 1, 1, 1))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # PyYAML's own attribute


for _name, _pattern in _SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, None)


def is_text(text: str) -> bool:
    """Whether `text` can be written as UTF-8; lone surrogates, from escapes or undecodable bytes, cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_scalar(text: str) -> bool | float | str | None:
    """What an unquoted YAML scalar means."""
    text = text.strip()
    name = next((name for name, pattern in _SCALARS if pattern.match(text)), "str")
    return _construct(name, text)


def _construct(name: str, text: str) -> bool | float | str | None:
    match name:
        case "null":
            return None
        case "bool":
            return text.lower() in {"yes", "true", "on"}
        case "int":
            return int(text.replace("_", ""), 16 if "x" in text.lower() else 10)
        case "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        case _:
            return text


def read_yaml(text: str) -> Tree:
    """Read one document.

    Returns:
        A tree; its `value` is None when there is no document, its `flaws` say what could not be read.
    """
    tree = Tree()
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        tree.flaws.append(Flaw((), line, column, _syntax(error)))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        fault = BadValueError(
            f"character U+{int(error.character):04X} is not allowed in YAML", "remove it, save as plain UTF-8"
        )
        tree.flaws.append(Flaw((), line, column, fault))
    except RecursionError:
        tree.flaws.append(
            Flaw((), 1, 1, BadValueError("is nested too deeply", "correct the brackets and the indentation"))
        )
    else:
        if root is not None:
            _Walk(tree).run(root)
    return tree


class _Walk:
    """One pass over the nodes of a document."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.nodes = 0
        self.around: list[int] = []

    def run(self, root: yaml.Node) -> None:
        self.tree.places[()] = _place(root, root)
        try:
            self.tree.value = self.value(root, ())
        except BadValueError as fault:
            self.flaw((), root, fault)

    def flaw(self, path: Path, node: yaml.Node, fault: BadValueError) -> None:
        self.tree.flaws.append(Flaw(path, node.start_mark.line + 1, node.start_mark.column + 1, fault))

    def value(self, node: yaml.Node, path: Path) -> object:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise BadValueError("is too large", "write out less with aliases")
        if id(node) in self.around:
            self.flaw(path, node, BadValueError("contains itself", "remove the alias"))
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.around.append(id(node))
        try:
            return self.mapping(node, path) if isinstance(node, yaml.MappingNode) else self.sequence(node, path)
        finally:
            self.around.pop()

    def scalar(self, node: yaml.ScalarNode, path: Path) -> object:
        name = node.tag.removeprefix(_TAG)
        if not is_text(node.value):
            self.flaw(
                path, node, BadValueError("has half of a character", "remove the \\u escape, or write both halves")
            )
            return None
        try:
            if name in {"str", "merge", "null", "bool", "int", "float"}:
                return _construct(name, node.value)
        except ValueError:
            pass
        self.flaw(
            path,
            node,
            BadValueError("has a type that is not understood", "remove the ! tag, or put the value in quotes"),
        )
        return None

    def sequence(self, node: yaml.Node, path: Path) -> list[object]:
        items = []
        for i, item in enumerate(node.value):
            self.tree.places[*path, i] = _place(item, item)
            items.append(self.value(item, (*path, i)))
        return items

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        found: dict[str, object] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _TAG + "merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                self.flaw(path, key_node, BadValueError("has a key that is not a word", "write `key: value`"))
                continue
            key = str(key_node.value)
            if key in found:
                fault = BadValueError(f"is given twice (first in line {lines[key]})", "keep one of the two")
                self.flaw((*path, key), key_node, fault)
                continue
            lines[key] = key_node.start_mark.line + 1
            self.tree.places[*path, key] = _place(value_node, key_node)
            found[key] = self.value(value_node, (*path, key))
        for source in _merged(node):
            if id(source) in self.around:
                self.flaw(path, source, BadValueError("contains itself", "remove the alias"))
                continue
            if not isinstance(source, yaml.MappingNode):
                self.flaw(path, source, BadValueError("merges something without keys", "let << name a mapping"))
                continue
            # What a merged mapping brings yields to the keys that are written here.
            kept = {p: place for p, place in self.tree.places.items() if p[: len(path)] == path}
            merged = self.value(source, path)
            found = {**merged, **found} if isinstance(merged, dict) else found
            self.tree.places.update(kept)
        return found


def _merged(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    for key_node, value_node in node.value:
        if key_node.tag == _TAG + "merge":
            yield from value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]


def _place(node: yaml.Node, key: yaml.Node) -> Place:
    return Place(
        node.start_mark.line + 1, node.start_mark.column + 1, key.start_mark.line + 1, key.start_mark.column + 1
    )


_SYNTAX: Final = (
    (r"'\\t' that cannot start", "a tab stands where only spaces may", "indent with spaces"),
    (r"unknown escape character", "a backslash in double quotes begins an escape", "use single quotes, as in '\\.'"),
    (r"undefined alias|scanning an alias", "a value begins with *, which YAML takes for an alias", "put it in quotes"),
    (r"scanning an anchor", "a value begins with &, which YAML takes for an anchor", "put it in quotes"),
    (
        r"duplicate anchor",
        "an anchor is defined twice",
        "rename one, or put the value in quotes if no anchor was meant",
    ),
    (r"undefined tag handle|parsing a tag|scanning a tag", "a value begins with !", "put it in quotes"),
    (r"that cannot start any token", "a value begins with a character that YAML reserves", "put the value in quotes"),
    (
        r"mapping values are not allowed",
        "a `: ` stands where no key may be",
        "correct the indentation, or quote the value",
    ),
    (
        r"could not find expected ':'",
        "a key without `:`",
        "write `key: value`, and put text with special characters in quotes",
    ),
    (r"quoted scalar", "a quotation mark is not closed", "close it"),
    (r"expected ',' or", "a bracket is not closed, or a comma is missing", "close it"),
    (r"single document", "there is a second document after `---`", "keep one document per file"),
    (r"block (?:end|mapping|collection)", "a line does not fit the ones around it", "indent keys of one section alike"),
)
"""PyYAML's words, which quote the file, secrets included -> ours, which do not."""


def _syntax(error: yaml.MarkedYAMLError) -> BadValueError:
    said = f"{error.context or ''} {error.problem or ''}"
    for pattern, message, remedy in _SYNTAX:
        if re.search(pattern, said):
            return BadValueError(f"YAML syntax: {message}", remedy)
    return BadValueError(
        "YAML syntax: this cannot be read", "look for a missing quotation mark, colon or bracket here or just above"
    )

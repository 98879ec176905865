"""`${VAR}` and `${VAR:-default}` in the values of a configuration file."""

import re
from collections.abc import Mapping
from typing import Final, Self

from qguard.config.errors import BadValueError
from qguard.config.yamltree import is_text, read_scalar

_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_INSIDE: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
WHOLE_PATTERN: Final = r"^\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}$"
"""A value that is nothing but one reference; a regular expression that JSON schema and Python both read."""


class FromEnvironment(str):
    """A value that was one `${VAR}` as a whole: text where text is wanted, else read again as YAML (`8080`, `true`)."""

    __slots__ = ("variable",)

    variable: str

    def __new__(cls, text: str, variable: str) -> Self:
        """Remember which variable `text` came from."""
        made = super().__new__(cls, text)
        made.variable = variable
        return made


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Put the variables into `text`; a default counts when a variable is unset or empty, `$${` stands for `${`.

    What a variable holds is not expanded again.

    Raises:
        BadValueError: a variable without default is not set, or a reference is malformed.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        inside = _INSIDE.fullmatch(match[1])
        if inside is None or not match[0].endswith("}"):
            raise BadValueError(
                "has a reference that is not understood", "write ${VAR} or ${VAR:-default}; $${ stands for ${"
            )
        name, default = inside[1], inside[2]
        found = environ.get(name)
        if found and not is_text(found):
            raise BadValueError(f"environment variable {name} is not UTF-8", f"set {name} to text")
        if default is not None:
            return found or str(default)
        if found is None:
            raise BadValueError(
                f"environment variable {name} is not set",
                f"set {name}, or give it a default here: ${{{name}:-default}}",
            )
        return found

    expanded = _REFERENCE.sub(value, text)
    if re.fullmatch(WHOLE_PATTERN, text):
        return FromEnvironment(expanded, text[2:-1].partition(":-")[0])
    return expanded


def reread(value: object) -> object:
    """The number, truth value or nothing that a value from the environment spells, where text is not wanted."""
    return read_scalar(value) if isinstance(value, FromEnvironment) else value

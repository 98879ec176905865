"""What can be wrong with a configuration file: where, what, and what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


class BadValueError(ValueError):
    """One value is not acceptable; who knows its place turns this into a `Problem`."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or useless, in a configuration file."""

    file: Path
    line: int | None
    """From 1; None when the file itself is the problem."""
    column: int | None
    """From 1, in characters."""
    key: str
    """As in `trackers[0].pattern`, numbered from 0; empty when no key is concerned."""
    value: str | None
    """In YAML flow notation, `***` for a secret; None when there is none."""
    message: str
    remedy: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}:{self.column}"
        key = self.key if self.value is None else f"{self.key} = {self.value}"
        line = ": ".join(part for part in (place, key, f"{self.message}; {self.remedy}") if part)
        return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)


class ConfigError(Exception):
    """The configuration cannot be used; carries every problem found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.column or 0)))
        super().__init__("\n".join(map(str, self.problems)))

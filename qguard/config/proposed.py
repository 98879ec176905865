"""A configuration that came with a request: it may refer to what the owner's file refers to, and to nothing else.

Otherwise whoever may ask for a preview could read variables and files of this machine, by way of errors and effects.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from qguard.config.checks import SECRET_FILES
from qguard.config.environment import expand
from qguard.config.errors import BadValueError, ConfigError
from qguard.config.explain import Explainer
from qguard.config.load import MAX_FILE, Loaded, parse
from qguard.config.yamltree import Path as Path_
from qguard.config.yamltree import read_yaml

_REFUSED: Final = BadValueError(
    "refers to the environment or to a file, and the configuration file does not do so for this key",
    "write the value itself, or what the configuration file has for this key",
)


def parse_proposed(text: str, *, source: Path, environ: Mapping[str, str]) -> Loaded:
    """Check a configuration that somebody sent.

    Args:
        text: the YAML document.
        source: the owner's file, which it is to take the place of.
        environ: what `${VAR}` refers to.

    Raises:
        ConfigError: with everything that is wrong, or all that it may not refer to; then nothing was looked up.
    """
    ours = {(_key(path), value) for path, value in _references(read_yaml(_owners(source)).value)}
    tree = read_yaml(text)
    explainer = Explainer(source, tree, ())
    for path, value in _references(tree.value):
        if (_key(path), value) not in ours:
            explainer.add(path, _REFUSED)
    if explainer.problems:
        raise ConfigError(explainer.problems)
    return parse(text, source=source, environ=environ)


def _owners(source: Path) -> str:
    """The owner's file; empty when it cannot be read, so that nothing may be referred to."""
    try:
        with source.open("rb") as stream:
            return stream.read(MAX_FILE).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""


def _references(value: object, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """Every value that would be replaced by a variable or by what is in a file."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _references(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _references(item, (*path, i))
    elif isinstance(value, str) and (_is_file(path) or _refers(value)):
        yield path, value


def _key(path: Path_) -> Path_:
    """The path without positions: a rule may move within its list."""
    return tuple(part for part in path if isinstance(part, str))


def _is_file(path: Path_) -> bool:
    keys = SECRET_FILES.get(str(path[0]), ()) if len(path) == 2 else ()
    return any(path[1] == f"{key}_file" for key in keys)


class _RefersError(Exception):
    """A variable was asked for."""


class _Watched(Mapping[str, str]):
    """An environment that must not be looked at."""

    def __getitem__(self, name: str) -> str:
        raise _RefersError

    def __iter__(self) -> Iterator[str]:
        raise _RefersError

    def __len__(self) -> int:
        raise _RefersError


def _refers(text: str) -> bool:
    try:
        expand(text, _Watched())
    except _RefersError:
        return True
    except BadValueError:  # a malformed reference looks nothing up; `parse` says what is wrong with it
        pass
    return False

"""Find, read and check the configuration file."""

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from allocators.base import installed_strategies
from qguard.config import checks, yamltree
from qguard.config.environment import expand
from qguard.config.errors import BadValueError, ConfigError, Problem
from qguard.config.explain import SECRETS, Explainer, by_key
from qguard.config.model import Settings

EXAMPLE: Final = "config/qguard.example.yaml"
VARIABLE: Final = "QGUARD_CONFIG"
MAX_FILE: Final = 4 * 2**20
"""Bytes; hundreds of times the largest file that makes sense."""

_UNREADABLE: Final = {
    errno.ENOENT: ("there is no such file", f"copy {EXAMPLE} there and edit it, or name another with --config"),
    errno.EISDIR: ("is a folder", "name the file in it"),
    errno.EACCES: ("may not be read", "give the user that runs qguard the right to read it"),
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that is good."""

    settings: Settings
    warnings: tuple[str, ...]
    """One line each: what is accepted and has no effect."""
    path: Path


def find(explicit: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """Choose the configuration file: `explicit`, else $QGUARD_CONFIG, else the usual places.

    A file that is asked for by name is the one, whether it exists or not; `load` then says what is wrong with it.

    Raises:
        ConfigError: nothing is asked for and there is none in the usual places, or what is asked for does not exist.
    """
    by_name = explicit or (Path(environ[VARIABLE]) if environ.get(VARIABLE) else None)
    if by_name is not None:
        path = cwd / by_name
        if not path.exists():
            how = "--config" if explicit else f"${VARIABLE}"
            raise ConfigError(
                [_of_file(path, BadValueError(f"there is no such file, which {how} names", _copy_to(path)))]
            )
        return path
    usual = [cwd / "config" / "qguard.yaml", Path("/config/qguard.yaml")]
    for path in usual:
        if path.is_file():
            return path
    looked_at = f"--config (not given), ${VARIABLE} (not set), {', '.join(map(str, usual))}"
    raise ConfigError(
        [_of_file(usual[0], BadValueError(f"no configuration; looked at {looked_at}", _copy_to(usual[0])))]
    )


def load(path: Path, environ: Mapping[str, str] = os.environ, *, strategies: Collection[str] | None = None) -> Loaded:
    """Read and check a configuration file.

    Args:
        path: the file.
        environ: what `${VAR}` refers to.
        strategies: names of the installed strategies; None asks the entry points.

    Raises:
        ConfigError: with everything that is wrong.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE + 1)
    except OSError as error:
        message, remedy = _UNREADABLE.get(error.errno or 0, (f"cannot be read: {error.strerror}", "check the path"))
        problem = _of_file(path, BadValueError(message, remedy))
    else:
        if len(content) > MAX_FILE:
            problem = _of_file(path, BadValueError("is too large for a configuration", "check the path"))
        else:
            text, problem_or_none = _decode(content, path)
            if problem_or_none is None:
                return parse(text, source=path, environ=environ, strategies=strategies)
            problem = problem_or_none
    # Raised out here, so that no exception underneath carries text of the file along.
    raise ConfigError([problem])


def parse(text: str, *, source: Path, environ: Mapping[str, str], strategies: Collection[str] | None = None) -> Loaded:
    """Check a configuration given as text; relative paths in it are relative to `source.parent`.

    Args:
        text: the YAML document.
        source: the file it is from, or stands for.
        environ: what `${VAR}` refers to.
        strategies: names of the installed strategies; None asks the entry points.

    Raises:
        ConfigError: with everything that is wrong.
    """
    tree = yamltree.read_yaml(text)
    if not isinstance(tree.value, dict):
        raise ConfigError([_of_document(source, tree)])
    document, unset = _expand(tree.value, environ)
    folder = source.parent.absolute()
    clashes: list[tuple[yamltree.Path, BadValueError]] = []

    def report(path: yamltree.Path, fault: BadValueError) -> None:
        clashes.append((path, fault))

    checks.read_secret_files(document, folder, report)
    checks.check_rules(document, report)
    checks.check_strategy(document, installed_strategies() if strategies is None else strategies, report)
    checks.check_cross_seed(document, report)
    checks.check_own_keys(document, report)

    explainer = Explainer(source, tree, _secret_texts(document))
    for flaw in tree.flaws:
        explainer.flaw(flaw)
    for path, fault in unset:
        explainer.add(path, fault)
    settings, invalid = _validate(document, folder)
    if invalid is not None:
        explainer.validation(invalid)
    for path, fault in clashes:
        explainer.add(path, fault)
    if settings is None or explainer.problems:
        raise ConfigError(explainer.problems)
    warnings = [explainer.problem(path, fault) for path, fault in checks.useless_keys(document)]
    warnings.sort(key=lambda warning: (warning.line or 0, warning.column or 0))
    return Loaded(settings, tuple(map(str, warnings)), source)


def _validate(document: Mapping[str, Any], folder: Path) -> tuple[Settings | None, ValidationError | None]:
    # A section that is absent, or whose keys are all commented out, is an empty one.
    filled = dict(document)
    for key, field in by_key(Settings).items():
        if not field.is_required() and filled.get(key) is None:
            filled[key] = {}
    try:
        return Settings.model_validate(filled, context={"folder": folder}), None
    except ValidationError as error:
        return None, error


def _expand(
    document: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[dict[str, Any], list[tuple[yamltree.Path, BadValueError]]]:
    """Put the variables in; what cannot be put in stays as it is written, or goes where nothing uses it."""
    faults: list[tuple[yamltree.Path, BadValueError]] = []

    def walk(value: object, path: yamltree.Path) -> object:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, i)) for i, item in enumerate(value)]
        if isinstance(value, str):
            try:
                return expand(value, environ)
            except BadValueError as fault:
                faults.append((path, fault))
        return value

    expanded = {key: walk(value, (key,)) for key, value in document.items()}
    cross_seed = expanded.get("cross_seed")
    if isinstance(cross_seed, dict) and not checks.is_enabled(cross_seed):
        unused = [path for path, _ in faults if path[0] == "cross_seed" and path[1:] != ("enabled",)]
        for path in unused:
            cross_seed.pop(path[1], None)
        faults = [(path, fault) for path, fault in faults if path not in unused]
    return expanded, faults


def _secret_texts(value: object, *, secret: bool = False) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secret_texts(item, secret=secret or key in SECRETS)
    elif isinstance(value, list):
        for item in value:
            yield from _secret_texts(item, secret=secret)
    elif secret and value is not None and not isinstance(value, bool):
        yield str(value)


def _decode(content: bytes, path: Path) -> tuple[str, Problem | None]:
    try:
        return content.decode("utf-8-sig"), None
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, len(before) - before.rfind(b"\n")
    return "", Problem(path, line, column, "", None, "is not UTF-8", "save the file as UTF-8")


def _of_document(source: Path, tree: yamltree.Tree) -> Problem:
    if tree.flaws:
        flaw = tree.flaws[0]
        return Problem(source, flaw.line, flaw.column, "", None, flaw.fault.message, flaw.fault.remedy)
    place = tree.place(())
    if tree.value is None:
        return Problem(source, place.line, place.column, "", None, "is empty", f"start from {EXAMPLE}")
    return Problem(
        source,
        place.line,
        place.column,
        "",
        None,
        "is not a set of sections",
        "write sections such as `trackers:` at the top",
    )


def _of_file(path: Path, fault: BadValueError) -> Problem:
    return Problem(path, None, None, "", None, fault.message, fault.remedy)


def _copy_to(path: Path) -> str:
    return f"copy {EXAMPLE} to {path} and edit it"

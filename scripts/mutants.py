"""Change the allocators in some three thousand small ways and see which changes no test notices: `make mutants`.

mutmut makes the mutants of functions and runs, of the tests that reach each of them, the fastest first, until one
fails: at first unit tests, then properties for what those left alive. Constants of modules, which it leaves alone, are
raised and lowered here. All runs in a copy.

A mutant that no test can notice, because it gives the same answers, is listed in `equivalent-mutants.txt` with the
reason.
"""

import argparse
import ast
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("allocators", "config", "qguard", "tests", "pyproject.toml")
UNIT_TESTS = (
    "tests/unit/test_adaptive_borders.py",
    "tests/unit/test_allocators.py",
    "tests/unit/test_allocators_borders.py",
    "tests/unit/test_grid.py",
)
PROPERTIES = (
    "tests/properties/test_waterfill.py",
    "tests/properties/test_i01_cap.py",
    "tests/properties/test_strategies.py",
    "tests/properties/test_grid.py",
)
OFF = ("cacheprovider", "xdist", "schemathesis")
PYTEST = ("--timeout=10", "--timeout-method=signal", *(f"-pno:{plugin}" for plugin in OFF))
"""Arguments: an endless loop fails the test that it is in; plugins with no use here take time to start."""

EQUIVALENT = ROOT / "scripts" / "equivalent-mutants.txt"
SEPARATOR = " || "
NEEDED = 0.95
SLOWEST = 300
"""Seconds until the tests of a changed constant are ended; they take a tenth of that."""

SURVIVED = {0, 5, 33}
"""What mutmut notes of a mutant that passed its tests (0) or that none reaches (5, 33)."""

NOT_RUN = {None, 34}


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, and what the code was and became."""

    place: str
    """module.function, module.Class.method, or module for a constant."""
    old: str
    new: str

    def __str__(self) -> str:
        return SEPARATOR.join((self.place, self.old or "(nothing)", self.new or "(nothing)"))


def main() -> None:
    """Exit 1 when too few are noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", help="names or patterns of mutants, as mutmut has them: allocators.settle.*"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FILE", help="mutants and constants of these files only: allocators/settle.py"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="tests at the same time (one per processor)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "mutants", help="where the copy is made")
    options = parser.parse_args()
    only = modules(options.only or (), parser)
    names = [*options.names, *(f"allocators.{module}.*" for module in only)]
    began = time.monotonic()
    os.environ["QGUARD_HYPOTHESIS"] = "mutants"
    listed = equivalent(EQUIVALENT.read_text())
    copy_tree(options.folder)
    found = run_mutmut(options.folder, options.jobs, UNIT_TESTS, names)
    left = [
        name
        for name, (mutant, noticed) in found.items()
        if not noticed and not any(pattern.fullmatch(str(mutant)) for pattern in listed.values())
    ]
    print(f"{len(left)} of {len(found)} are left for the properties, {time.monotonic() - began:.0f} s", flush=True)
    if left:
        found |= run_mutmut(options.folder, options.jobs, UNIT_TESTS + PROPERTIES, left)
    changed = [] if options.names else constants(options.folder, options.jobs, only)
    complete = None if options.names else tuple(f"allocators.{module}" for module in only) or ("",)
    failed = report([*found.values(), *changed], listed, complete)
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    sys.exit(failed)


def modules(files: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The names of these files' modules."""
    there = {path.stem for path in (ROOT / "allocators").glob("*.py")}
    found = [Path(file).stem for file in files]
    for file, module in zip(files, found, strict=True):
        if module not in there:
            parser.error(f"--only: {file} is none of allocators/: {', '.join(sorted(there - {'__init__'}))}")
    return found


def run_mutmut(folder: Path, jobs: int, tests: Sequence[str], names: Sequence[str]) -> dict[str, tuple[Mutant, bool]]:
    """The mutants of these names, or all, and whether one of the tests noticed each."""
    settings = {
        "source_paths": ["allocators"],
        "also_copy": ["config", "qguard"],
        "pytest_add_cli_args": PYTEST,
        "pytest_add_cli_args_test_selection": tests,
        # Only where a loop ends no test: multiples of the time that all tests of a mutant take, and seconds on top.
        "timeout_multiplier": "2",
        "timeout_constant": "30",
        "use_git_change_detection": "false",
        # From a process that has run no test: what tests cache would hide mutants.
        "process_isolation": "forkserver",
    }
    lines = [f"{key} = " + (of if isinstance(of, str) else "\n    ".join(["", *of])) for key, of in settings.items()]
    (folder / "setup.cfg").write_text("\n".join(["[mutmut]", *lines]) + "\n")
    shutil.rmtree(folder / "mutants", ignore_errors=True)
    command = [str(Path(sys.executable).with_name("mutmut")), "run", "--max-children", str(jobs), *names]
    with (folder / "mutmut.log").open("wb") as log:
        if subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=False).returncode:
            raise SystemExit(f"mutmut could not run the tests; see the end of {log.name}")
    return dict(functions(folder / "mutants"))


def copy_tree(folder: Path, source: Path = ROOT) -> None:
    """A fresh copy: nothing that an earlier run found out is taken over."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
        else:
            shutil.copy(source / name, folder / name)


def functions(folder: Path) -> Iterator[tuple[str, tuple[Mutant, bool]]]:
    """Each mutant that mutmut has run, by its name there, and whether a test noticed it."""
    for meta in sorted(folder.rglob("*.py.meta")):
        source = meta.with_suffix("").read_text()
        lines = source.splitlines()
        texts = {node.name: lines[node.lineno - 1 : node.end_lineno] for node in _functions(ast.parse(source))}
        for name, code in json.loads(meta.read_text())["exit_code_by_key"].items():
            if code in NOT_RUN:
                continue
            module, _, mangled = name.rpartition(".")
            function = mangled.partition("__mutmut_")[0]
            old, new = difference(texts[f"{function}__mutmut_orig"], texts[mangled])
            readable = function.replace("xǁ", "").replace("ǁ", ".").removeprefix("x_")
            yield name, (Mutant(f"{module}.{readable}", old, new), code not in SURVIVED)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def difference(old: list[str], new: list[str]) -> tuple[str, str]:
    """The lines that differ, each side in one line; the name of the function is no difference."""
    before, after = ([text[0].partition("(")[2], *(line.strip() for line in text[1:])] for text in (old, new))
    while before and after and before[0] == after[0]:
        del before[0], after[0]
    while before and after and before[-1] == after[-1]:
        del before[-1], after[-1]
    return " ".join(before), " ".join(after)


def constants(folder: Path, jobs: int, only: Sequence[str] = ()) -> list[tuple[Mutant, bool]]:
    """Each constant of these modules, or all, a little higher and a little lower, and whether a test noticed it."""
    trees: queue.Queue[Path] = queue.Queue()
    for job in range(jobs):
        trees.put(folder / f"constants-{job}")
        copy_tree(folder / f"constants-{job}", source=folder)

    def noticed(change: tuple[str, Mutant]) -> bool:
        name, mutant = change
        tree = trees.get()
        path = tree / name
        text = path.read_text()
        try:
            path.write_text(text.replace(f"\n{mutant.old}", f"\n{mutant.new}"))
            return fails(tree)
        finally:
            path.write_text(text)
            trees.put(tree)

    changes = [
        (f"allocators/{path.name}", mutant)
        for path in sorted((folder / "allocators").glob("*.py"))
        if not only or path.stem in only
        for mutant in changed_constants(f"allocators.{path.stem}", path.read_text())
    ]
    with ThreadPoolExecutor(jobs) as pool:
        return [(mutant, seen) for (_, mutant), seen in zip(changes, pool.map(noticed, changes), strict=True)]


def changed_constants(module: str, source: str) -> Iterator[Mutant]:
    """The lines `NAME: Final = ...`, with another number for each number."""
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or ast.unparse(node.annotation) != "Final" or node.value is None:
            continue
        line = ast.get_source_segment(source, node) or ""
        for number in ast.walk(node.value):
            # Bytes, as `ast` counts them: a line with a number holds nothing but ASCII here.
            if isinstance(number, ast.Constant) and isinstance(number.value, int | float) and "\n" not in line:
                for value in near(number.value):
                    yield Mutant(module, line, f"{line[: number.col_offset]}{value}{line[number.end_col_offset :]}")


def near(number: float) -> tuple[str, str]:
    """The next integers, or a twentieth less and more."""
    if isinstance(number, int):
        return str(number - 1), str(number + 1)
    return f"{0.95 * number:.6g}", f"{1.05 * number:.6g}"


def fails(tree: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", *PYTEST, *UNIT_TESTS, *PROPERTIES]
    try:
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=SLOWEST, check=False)
    except subprocess.TimeoutExpired:
        return True
    if done.returncode not in {0, 1, 2}:  # 2: a test file could not even be read
        raise SystemExit(done.stdout[-3000:] + done.stderr[-2000:])
    return done.returncode != 0


def equivalent(text: str) -> dict[str, re.Pattern[str]]:
    """The mutants that are listed: lines of place, old, new and reason, where … stands for anything."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        if line.count(SEPARATOR) != 3:
            raise SystemExit(f"{EQUIVALENT.name}: not place, old, new and reason, between {SEPARATOR!r}: {line}")
    listed = (line.rpartition(SEPARATOR)[0] for line in lines)
    return {line: re.compile(".*".join(map(re.escape, line.split("…")))) for line in listed}


def report(
    results: list[tuple[Mutant, bool]], listed: dict[str, re.Pattern[str]], complete: tuple[str, ...] | None
) -> int:
    """Say what was noticed, by module, and what was not; the exit code.

    Args:
        results: the mutants, and whether a test noticed each.
        listed: the mutants that are listed as equivalent.
        complete: what the places begin with of which all mutants are among `results`, None where that is not known.
    """
    counts: dict[str, Counter[str]] = {}
    missed, used, contradicted = [], set(), set()
    for mutant, noticed in results:
        lines = {line for line, pattern in listed.items() if pattern.fullmatch(str(mutant))}
        kind = "noticed" if noticed else "equivalent" if lines else "not noticed"
        counts.setdefault(mutant.place.split(".")[1], Counter())[kind] += 1
        used |= lines
        contradicted |= {line for line in lines if noticed and "…" not in line}
        missed += [str(mutant)] if kind == "not noticed" else []
    if missed:
        print("\n".join(["not noticed:", *sorted(missed)]))
    for line in sorted(contradicted):
        print(f"listed as equivalent, but a test notices it, or another of the same words: {line}")
    for line in sorted(line for line in listed.keys() - used if complete and line.startswith(complete)):
        print(f"listed as equivalent, but there is no such mutant: {line}")
    kinds = ("noticed", "equivalent", "not noticed")
    total = sum(counts.values(), Counter())
    print(f"{'':12}" + "".join(f"{kind:>13}" for kind in kinds))
    for title, count in (*sorted(counts.items()), ("all", total)):
        print(f"{title:12}" + "".join(f"{count[kind]:13}" for kind in kinds))
    part = total["noticed"] / max(total["noticed"] + total["not noticed"], 1)
    print(f"{part:.1%} noticed of those that are not equivalent; needed: {NEEDED:.0%}")
    return int(part < NEEDED)


if __name__ == "__main__":
    main()

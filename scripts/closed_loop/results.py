"""What runs gave: one JSON line each in a file that later runs add to, and their traces beside it."""

import hashlib
import json
import statistics
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from scripts.closed_loop.drives import NATIVE
from scripts.closed_loop.figures import Figures, back_after, judge, limited_after, limits_over_time, writes_per_minute
from scripts.closed_loop.running import Run
from scripts.closed_loop.scenes import SCENES, STRATEGIES, WARM_UP, Scene

ROOT: Final = Path(__file__).resolve().parents[2]
FORMS: Final = {
    **dict.fromkeys(("use", "v1", "v5", "v10", "v60", "unfairness"), "{:.3f}"),
    "excess": "{:.2f}",
    "back": "{:.1f}",
    "hook": "{:.2f}",
    **dict.fromkeys(("changed", "calls"), "{:.0f}"),
    "load": "{:.1f}",
}
"""The figures in the order of the table, and how they are written."""

UNITS: Final = {"excess": " s", "back": " s", "hook": " s", "changed": "/min", "calls": "/min"}
RARE: Final = ("back", "hook")
"""Figures of some scenes alone; the table has them where a row has one."""


@dataclass(frozen=True)
class Key:
    """What makes two runs the same, so that the second need not be made."""

    scene: str
    drive: str
    version: str
    seed: int
    seconds: int
    settings: str = "{}"
    """Of qguard, as JSON."""
    code: str = ""
    """Fingerprint of qguard and its strategies, where they drive."""

    @property
    def name(self) -> str:
        """For files."""
        rest = hashlib.sha256(f"{self.settings}{self.code}".encode()).hexdigest()[:8]
        return f"{self.scene}-{self.drive}-{self.version}-{self.seed}-{self.seconds}-{rest}"


def key_of(scene: str, drive: str, version: str, seed: int, seconds: int, settings: Mapping[str, Any]) -> Key:
    """The key of a run that would begin now."""
    if drive in STRATEGIES:
        return Key(scene, drive, version, seed, seconds, json.dumps(settings, sort_keys=True), fingerprint())
    return Key(scene, drive, NATIVE if drive == NATIVE else version, seed, seconds)


def fingerprint(root: Path = ROOT) -> str:
    """Of the code that drives: another one when any line of it changes."""
    digest = hashlib.sha256()
    for folder in ("allocators", "qguard"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:8]


def commit(root: Path = ROOT) -> str:
    """The commit that is checked out."""
    words = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def seeds(name: str, count: int) -> list[int]:
    """So many seeds, derived from the name of a commit."""
    return [int(hashlib.sha256(f"{name} {number}".encode()).hexdigest()[:6], 16) for number in range(count)]


def row_of(key: Key, scene: Scene, run: Run) -> dict[str, Any]:
    """The line of one run."""
    figures: Figures = judge(run.sent, run.demand, scene.allowed(key.seconds), WARM_UP)
    back = None
    if scene.returns is not None:
        tracker, at = scene.returns
        back = back_after(run.sent[scene.rows_of(tracker)], scene.caps[tracker], WARM_UP + at)
    changed, calls = writes_per_minute(run.writes, WARM_UP, WARM_UP + key.seconds)
    return {
        **asdict(key),
        "about": run.about,
        "commit": commit(),
        **asdict(figures),
        "back": back,
        "hook": limited_after(run.hooks, run.writes, WARM_UP + key.seconds),
        "changed": changed,
        "calls": calls,
        "load": run.load,
        "late": run.late,
    }


class Results:
    """A folder with `results.jsonl`, and in `traces` for each run its arrays and what the control printed.

    Args:
        folder: is made when it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._lines, self._traces = folder / "results.jsonl", folder / "traces"
        self._traces.mkdir(parents=True, exist_ok=True)

    def rows(self) -> dict[Key, dict[str, Any]]:
        """Every run by its key; of equal keys the last counts."""
        if not self._lines.exists():
            return {}
        rows = [json.loads(line) for line in self._lines.read_text().splitlines()]
        return {Key(**{name: row[name] for name in Key.__dataclass_fields__}): row for row in rows}

    def trace(self, key: Key) -> Path:
        """Where the arrays of a run are."""
        return self._traces / f"{key.name}.npz"

    def add(self, key: Key, scene: Scene, run: Run) -> dict[str, Any]:
        """Keep a run: arrays first, so that a line never lacks them."""
        row = row_of(key, scene, run)
        np.savez_compressed(
            self.trace(key),
            hashes=run.hashes,
            cap=scene.cap,
            allowed=scene.allowed(key.seconds),
            trackers=scene.trackers,
            warm_up=WARM_UP,
            demand=run.demand,
            sent=run.sent,
            limit=limits_over_time(run.writes, run.hashes, run.demand.shape[1]),
        )
        if run.log:
            self.trace(key).with_suffix(".log").write_text(run.log)
        with self._lines.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in Markdown; after several seeds of the same run follow their mean and their worst."""
    names = [name for name in FORMS if name not in RARE or any(row.get(name) is not None for row in rows)]
    figures = [name + UNITS.get(name, "") for name in names]
    heads = ["scene", "drive", "client", "seed", *figures, "missed", "code, settings"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[name]) for name in ("scene", "drive", "about", "settings", "code")), []).append(
            row
        )
    for group in groups.values():
        lines += [_line(row, names, str(row["seed"])) for row in group]
        if len(group) > 1:
            both = {
                "mean": _all(group, statistics.fmean),
                "worst": {**_all(group, max), "use": _all(group, min)["use"]},
            }
            lines += [_line(found, names, f"**{kind}**") for kind, found in both.items()]
    return "\n".join(lines)


def missed(row: Mapping[str, Any]) -> list[str]:
    """The goals of its scene that a row misses, such as `use < 0.95`."""
    scene = SCENES.get(row["scene"])
    if scene is None:  # of earlier code
        return []
    return [
        f"{goal.figure} {'<' if goal.figure == 'use' else '>'} {goal.bound:g}"
        for goal in scene.goals
        if row["drive"] in goal.drives and row.get(goal.figure) is not None and goal.missed(row[goal.figure])
    ]


def _all(group: Sequence[Mapping[str, Any]], together: Callable[[list[float]], float]) -> dict[str, Any]:
    """The first row, with figures of all rows put together."""
    values = {name: [row[name] for row in group if row.get(name) is not None] for name in FORMS}
    return {**group[0], **{name: together(found) for name, found in values.items() if found}}


def _line(row: Mapping[str, Any], names: Sequence[str], seed: str) -> str:
    cells = ("-" if row.get(name) is None else FORMS[name].format(row[name]) for name in names)
    settings = (f"{name}={value}" for name, value in json.loads(row["settings"]).items())
    made_by = " ".join([row["code"], *settings]).strip() or "-"
    words = [row["scene"], row["drive"], row["about"], seed, *cells, ", ".join(missed(row)) or "-", made_by]
    return f"| {' | '.join(words)} |"

"""Compare the simulated plant with a real qBittorrent, side by side: `make calibrate` (about 8 minutes).

One programme runs on both: limits held for three minutes, limits changed, torrents that fall idle and wake, a limit of
the client as a whole. What is judged are windows of ten and of sixty seconds, because caps are judged by them. The
real client runs once, the simulated one several times with seeds that nothing was fitted to.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from allocators.base import Float64
from qguard.simulator.plant import TICK
from scripts.benches import STEP, Bench, Group, RealBench, SimulatedBench
from tests.support.daemon import VERSIONS, Daemon, unavailable_reason
from tests.support.swarm import Swarm

TOLERANCE: Final = 0.15
"""By how much a judged figure of the simulated client may differ from the real one's, as a part of that."""

SEEDS: Final = range(2_000, 2_024)
"""Of the simulated runs, whose figures are averaged."""

KIB, MIB = 1024, 1024 * 1024
EAGER: Final = 3
"""Demand of a limited torrent, times its limit."""

WARM_UP, STEADY, AFTER, SETTLE = 20.0, 180.0, 30.0, 25.0
"""Seconds: until rates are steady; of the long measurement; of what follows a change; before changes."""

IDLE: Final = 15.0
ROUNDS: Final = 2
WHOLE_LIMIT, WHOLE_SETTLE, WHOLE_FOR = MIB, 15.0, 75.0

Figures = dict[tuple[str, str], float]
"""By row and column."""

Values = dict[tuple[str, str], list[float]]
"""What figures are means of."""


@dataclass(frozen=True, slots=True)
class Change:
    """A limit that is changed, bytes/s."""

    label: str
    new: int


def _held(limit: int, count: int, leechers: int = 1) -> Group:
    return Group(count, limit, EAGER * limit, leechers)


LIMITS: Final = {10 * KIB: "10 KiB/s", 100 * KIB: "100 KiB/s", MIB: "1 MiB/s", 4 * MIB: "4 MiB/s"}
"""Limits of torrents that are measured one by one, with one leecher and with three."""

SINGLES: Final = {
    label: {
        f"{label} x1": _held(limit, 2 if limit <= MIB else 1),
        **({f"{label} x3": _held(limit, 2 if limit < MIB else 1, 3)} if limit <= MIB else {}),
    }
    for limit, label in LIMITS.items()
}

CHANGES: Final = {
    "raise": Change("raised, 100 KiB/s to 1 MiB/s", MIB),
    "small": Change("cut a little, 1 to 0.8 MiB/s", MIB * 8 // 10),
    "half": Change("cut by half, 1 to 0.5 MiB/s", MIB // 2),
    "deep": Change("cut deeply, 2 to 0.2 MiB/s", 2 * MIB // 10),
    "first": Change("first limit, 1 to 0.2 MiB/s", 2 * MIB // 10),
}

WAKING: Final = {"idle": "in demand again after 15 s", "wake": "first leecher of a limited torrent"}

GROUPS: Final[Mapping[str, Group]] = {
    **{name: group for groups in SINGLES.values() for name, group in groups.items()},
    "many": _held(2 * MIB // 60, 60),
    "raise": Group(2, 100 * KIB, EAGER * MIB),
    "small": _held(MIB, 2),
    "half": _held(MIB, 2),
    "deep": _held(2 * MIB, 2),
    "first": Group(2, 0, MIB),
    "idle": _held(MIB, 2),
    "wake": Group(2 * ROUNDS, MIB, EAGER * MIB, fresh=True),
    "whole": _held(256 * KIB, 8),
}

JUDGED: Final = ("10 s", "60 s")
HELD: Final = ("mean", "1 s", *JUDGED)
FOLLOWING: Final = ("2 s", "5 s", "10 s", "10 to 30 s", "above, s", "silence, s")
SAID: Final = ("2 s later", "5 s later", "10 s later", "20 s later")
TABLES: Final = {
    "Largest windows, times the limit": HELD,
    "The first seconds after it, times the new limit": FOLLOWING,
    "upspeed, times the larger rate": SAID,
}


def programme(bench: Bench) -> Figures:
    """Run everything once; several torrents and rounds are averaged."""
    values: Values = defaultdict(list)
    steady = [*(name for groups in SINGLES.values() for name in groups), "many"]
    for name in steady:
        bench.set_demand(name, on=True)
    bench.run(WARM_UP)
    start = bench.now()
    bench.run(STEADY)
    for label, groups in SINGLES.items():
        for name, group in groups.items():
            for number in range(group.count):
                sent = bench.sent(name, number, start, start + STEADY)
                _windows(values, f"limit {label}", sent / group.limit)
    _together(bench, values, "many", "60 torrents together", start, STEADY, 60 * GROUPS["many"].limit)
    for name in steady:
        bench.set_demand(name, on=False)
    for turn in range(ROUNDS):
        _changes(bench, values, turn)
    for name in (*CHANGES, "idle"):
        bench.set_demand(name, on=False)
    bench.set_whole_limit(WHOLE_LIMIT)
    bench.set_demand("whole", on=True)
    bench.run(WHOLE_SETTLE)
    start = bench.now()
    bench.run(WHOLE_FOR)
    _together(bench, values, "whole", "client-wide limit, half of the sum", start, WHOLE_FOR, WHOLE_LIMIT)
    return {place: float(np.mean(all_of_it)) for place, all_of_it in values.items()}


def _windows(values: Values, row: str, sent: Float64) -> None:
    values[row, "mean"].append(sent.sum() / (len(sent) * STEP))
    for seconds in (1, 10, 60):
        values[row, f"{seconds} s"].append(largest(sent, seconds))


def _together(bench: Bench, values: Values, name: str, row: str, start: float, seconds: float, limit: int) -> None:
    every = [bench.sent(name, number, start, start + seconds) for number in range(GROUPS[name].count)]
    _windows(values, row, np.sum(every, axis=0) / limit)


def largest(sent: Float64, seconds: float) -> float:
    """The largest mean rate in any window of that length."""
    width = round(seconds / STEP)
    total = np.concatenate(([0.0], np.cumsum(sent)))
    return float((total[width:] - total[:-width]).max() / seconds)


def _changes(bench: Bench, values: Values, turn: int) -> None:
    """Everything is changed at one moment, on torrents of its own; then limits are as they were."""
    for name in (*CHANGES, "idle"):
        bench.set_demand(name, on=True)
    bench.run(SETTLE - IDLE)
    bench.set_demand("idle", on=False)
    bench.run(IDLE)
    at = bench.now()
    for name, change in CHANGES.items():
        bench.set_limit(name, change.new)
    fresh = [2 * turn, 2 * turn + 1]
    bench.set_demand("idle", on=True)
    bench.set_demand("wake", on=True, numbers=fresh)
    bench.run(AFTER)
    for name, change in CHANGES.items():
        for number in range(GROUPS[name].count):
            _changed(bench, values, name, change, number, at)
        bench.set_limit(name, GROUPS[name].limit)
    for name, row in WAKING.items():
        for number in fresh if name == "wake" else range(GROUPS[name].count):
            sent = bench.sent(name, number, at, at + AFTER) / GROUPS[name].limit
            _first_seconds(values, row, sent[np.flatnonzero(sent)[0] :])
    bench.set_demand("wake", on=False)


def _first_seconds(values: Values, row: str, sent: Float64) -> None:
    for seconds in (2, 5, 10):
        values[row, f"{seconds} s"].append(sent[: round(seconds / STEP)].sum() / seconds)


def _changed(bench: Bench, values: Values, name: str, change: Change, number: int, at: float) -> None:
    old = bench.sent(name, number, at - 10, at).sum() / 10
    sent = bench.sent(name, number, at, at + AFTER)
    ten = round(10 / STEP)
    _first_seconds(values, change.label, sent / change.new)
    values[change.label, "10 to 30 s"].append(sent[ten:].sum() / (AFTER - 10) / change.new)
    if change.new < old:
        values[change.label, "above, s"].append((sent[:ten].sum() - 10 * change.new) / old)
        values[change.label, "silence, s"].append(silence(sent[: 2 * ten]))
    for column in SAID:
        said = bench.upspeed(name, number, at + int(column.split()[0]))
        values[change.label, column].append(said / max(old, change.new))


def silence(sent: Float64) -> float:
    """Seconds of the longest time without a byte, the pause between two turns left out."""
    marks = np.concatenate(([-1], np.flatnonzero(sent), [len(sent)]))
    return max(0.0, float(np.diff(marks).max() - 1) * STEP - TICK)


def simulate(version: str, seeds: Sequence[int] = SEEDS) -> Figures:
    """Mean of several simulated runs."""
    every = [programme(SimulatedBench(version, number, GROUPS)) for number in seeds]
    return {place: float(np.mean([figures[place] for figures in every])) for place in every[0]}


def measure(version: str) -> tuple[str, Figures]:
    """The real client: which it is and under what load, and its figures."""
    with Daemon(version) as daemon, daemon.api() as api, Swarm(daemon.bt_port) as swarm:
        bench = RealBench(daemon, api, swarm, GROUPS, list(CHANGES))
        figures = programme(bench)
        load = f"{bench.load():.1f} processes wanted a processor, of {os.cpu_count()}"
        return f"qBittorrent {daemon.full_version}; {load}", figures


def misses(real: Figures, simulated: Figures) -> list[str]:
    """The judged figures that differ by too much, in words."""
    return [
        f"{row}, {column}: {simulated[row, column]:.3f} instead of {real[row, column]:.3f}"
        for row, column in real
        if column in JUDGED and abs(simulated[row, column] / real[row, column] - 1) > TOLERANCE
    ]


def tables(real: Figures, simulated: Figures) -> str:
    """In Markdown, each cell real and simulated."""
    lines = []
    for title, columns in TABLES.items():
        rows = dict.fromkeys(row for row, column in real if (row, columns[0]) in real and column in columns)
        heads = [f"**{column}**" if column in JUDGED else column for column in columns]
        lines += ["", f"| {title} | {' | '.join(heads)} |", f"|---|{'---|' * len(columns)}"]
        for row in rows:
            cells = [
                f"{real[row, column]:.2f} / {simulated[row, column]:.2f}" if (row, column) in real else ""
                for column in columns
            ]
            lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables; exit with 1 when a judged figure differs by too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", choices=VERSIONS, default="4.5", help="of qBittorrent (4.5)")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write the real figures, to fit the plant to")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with kept figures: a fit, no judgement")
    options = parser.parse_args()
    if options.against:
        about, kept = json.loads(options.against.read_text())
        real: Figures = {(row, column): value for row, column, value in kept}
    elif reason := unavailable_reason(options.version):
        sys.exit(reason)
    else:
        about, real = measure(options.version)
    if options.keep:
        options.keep.write_text(json.dumps([about, [[*place, value] for place, value in real.items()]]))
    simulated = simulate(options.version)
    print(f"{about}; {len(SEEDS)} simulated runs. Cells are real / simulated; bold columns are judged.")
    print(tables(real, simulated))
    wrong = misses(real, simulated)
    if wrong:
        sys.exit(f"\nthe plant differs by more than {TOLERANCE:.0%}:\n" + "\n".join(wrong))
    print(f"\nall judged figures within {TOLERANCE:.0%}")


if __name__ == "__main__":
    main()

"""How soon a changed limit acts, on a real qBittorrent and on the simulated one: `python -m scripts.step_response`.

Torrents that want far more are held at one limit, raised by some parts, and lowered again, over and over. Printed is
what went out in each second after that, as a part of the new limit. Takes five minutes; see docs/control.md.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Final

import numpy as np

from allocators.base import Float64
from scripts.benches import Bench, Group, RealBench, SimulatedBench
from tests.support.daemon import VERSIONS, Daemon, unavailable_reason
from tests.support.swarm import Swarm

LIMIT: Final = 166_000
FACTORS: Final = (1.1, 1.25, 1.5, 2.0)
EACH: Final = 3
"""Torrents that are treated alike."""
ROUNDS: Final = 5
SETTLE, UP, DOWN, SHOWN = 40.0, 18.0, 22.0, 8
"""Seconds. Rounds grow longer by one each, so that changes come at different points of the client's own swing."""
SEEDS: Final = 12
"""Runs of the simulated client."""

GROUPS: Final[Mapping[str, Group]] = {f"{n}": Group(EACH, LIMIT, 3_000_000) for n in range(len(FACTORS))}


def programme(bench: Bench) -> dict[str, Float64]:
    """(SHOWN,) means by second for each change, as parts of the new limit."""
    for name in GROUPS:
        bench.set_demand(name, on=True)
    bench.run(SETTLE)
    changes: list[tuple[str, int, str, float]] = []
    for turn in range(ROUNDS):
        at = bench.now()
        # Each group is raised by each part in turn.
        raised = {name: FACTORS[(int(name) + turn) % len(FACTORS)] for name in GROUPS}
        for name, factor in raised.items():
            bench.set_limit(name, int(LIMIT * factor))
            changes.append((f"raised to {factor:g} of it", int(LIMIT * factor), name, at))
        bench.run(UP + turn)
        at = bench.now()
        for name, factor in raised.items():
            bench.set_limit(name, LIMIT)
            changes.append((f"lowered from {factor:g} to 1", LIMIT, name, at))
        bench.run(DOWN + turn)
    seen: dict[str, list[Float64]] = {}
    for label, limit, name, at in changes:
        for number in range(EACH):
            sent = bench.sent(name, number, at, at + SHOWN)
            seen.setdefault(label, []).append(sent.reshape(SHOWN, -1).sum(axis=1) / limit)
    return {label: np.mean(rows, axis=0) for label, rows in seen.items()}


def measure(version: str) -> tuple[str, dict[str, Float64]]:
    """On a real client; its version, too."""
    with Daemon(version) as daemon, daemon.api() as api, Swarm(daemon.bt_port) as swarm:
        return daemon.full_version, programme(RealBench(daemon, api, swarm, GROUPS, ["0"]))


def simulate(version: str) -> dict[str, Float64]:
    """Means of `SEEDS` simulated clients."""
    runs = [programme(SimulatedBench(version, number, GROUPS)) for number in range(SEEDS)]
    return {label: np.mean([run[label] for run in runs], axis=0) for label in runs[0]}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.step_response", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--version", choices=VERSIONS, default="4.5", help="of qBittorrent (4.5)")
    version = parser.parse_args().version
    if reason := unavailable_reason(version):
        sys.exit(reason)
    simulated = simulate(version)
    about, real = measure(version)
    print(f"| a limit of {LIMIT} B/s, {about} | {' | '.join(f'{n + 1}' for n in range(SHOWN))} |")
    print("|---" * (SHOWN + 1) + "|")
    for label in sorted(real, key=lambda label: label.startswith("lowered")):
        for who, rows in (("", real), (", simulated", simulated)):
            print(f"| {label}{who} | {' | '.join(f'{part:.2f}' for part in rows[label])} |")


if __name__ == "__main__":
    main()

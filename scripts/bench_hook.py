"""Measure how soon a hook leads to a limit, on each real qBittorrent: `make bench-hook`."""

import argparse
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support.daemon import VERSIONS, Daemon, unavailable_reason
from tests.support.hooking import Hooked

COLUMNS = (
    "qBittorrent",
    "adds",
    "p50 s",
    "p95 s",
    "max s",
    "burst",
    "after its last hook s",
    "slowest other request s",
)


def main() -> None:
    """Print one row for each version that is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adds", type=int, default=50, help="torrents added one by one (50)")
    parser.add_argument("--burst", type=int, default=300, help="torrents added at once (300)")
    options = parser.parse_args()
    console = Console(highlight=False, width=120)
    table = Table(*COLUMNS, title="from a hook's arrival to the limit read at the client")
    for version in VERSIONS:
        if reason := unavailable_reason(version):
            console.print(reason)
            continue
        table.add_row(*measure(version, options.adds, options.burst))
    console.print(table)


def measure(version: str, adds: int, burst: int) -> list[str]:
    """One row."""
    with Daemon(version) as daemon, tempfile.TemporaryDirectory() as folder, Hooked(daemon, Path(folder)) as hooked:
        took = [hooked.time_one() for _ in range(adds)]
        many = hooked.time_burst(burst)
        numbers = [statistics.median(took), statistics.quantiles(took, n=20)[-1], max(took)]
        return [
            daemon.full_version,
            str(adds),
            *(f"{number:.3f}" for number in numbers),
            str(burst),
            f"{many.after_last_hook:.2f}",
            f"{many.slowest_request:.3f}",
        ]


if __name__ == "__main__":
    main()

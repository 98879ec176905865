"""`qguard simulate`: the table and the picture of `qguard.simulator.whatif`."""

import asyncio
import json
import sys
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from allocators.base import BadAllocationError, UnknownStrategyError, installed_strategies
from qguard import commands, wiring
from qguard.commands import CommandError
from qguard.config import Settings
from qguard.qbittorrent.errors import ClientError, LoginRefusedError
from qguard.simulator.scenes import SCENES
from qguard.simulator.whatif import FROM_CLIENT, Comparison, compare, plot
from qguard.snapshot import Torrents

PICTURES = (".png", ".svg")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file instead of the usual places.")
@click.option(
    "--scenario",
    type=click.Choice(list(SCENES)),
    default="mixed",
    show_default=True,
    help="What happens to the client: " + "; ".join(f"{scene.name}: {scene.words}" for scene in SCENES.values()) + ".",
)
@click.option("--from-client", is_flag=True, help="Start from your own client's torrents and present rates.")
@click.option(
    "--strategy", multiple=True, help="Only this strategy; may be repeated. All that are installed otherwise."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Another run of luck.")
@click.option("--seconds", default=600, show_default=True, type=click.IntRange(120, 86_400), help="Simulated time.")
@click.option("--torrents", default=1000, show_default=True, type=click.IntRange(1, 100_000), help="In the scenario.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw rates against caps (.png or .svg).")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def simulate(
    config: Path | None,
    scenario: str,
    from_client: bool,  # noqa: FBT001 - click passes flags so
    strategy: tuple[str, ...],
    seed: int,
    seconds: int,
    torrents: int,
    picture: Path | None,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Try strategies on a simulated client with your own caps: which one should I use?

    Nothing is written to any client. The scenario scales demand by your caps.
    """
    if picture is not None and picture.suffix not in PICTURES:
        raise click.UsageError(f"--plot {picture}: the file's name must end in .png or .svg")
    settings = commands.load_configuration(config).settings
    if all(rule.max_upload_speed is None for rule in settings.trackers):
        raise CommandError("no tracker has a cap, so there is nothing to compare: set max_upload_speed")
    seen = asyncio.run(_listing(settings)) if from_client else None
    strategies = strategy or installed_strategies()
    console = Console(stderr=True)
    try:
        with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("simulating", total=1.0)
            found, traces = compare(
                settings,
                FROM_CLIENT if from_client else scenario,
                strategies,
                seed=seed,
                seconds=float(seconds),
                torrents=torrents,
                seen=seen,
                progress=lambda part: bar.update(task, completed=part),
            )
    except UnknownStrategyError as error:
        raise CommandError(str(error), commands.BAD_CONFIGURATION) from None
    except BadAllocationError as error:
        raise CommandError(str(error)) from None
    if picture is not None:
        try:
            plot(traces, str(picture), f"{found.scene}: {found.words}")
        except ImportError:
            raise CommandError("--plot needs matplotlib: pip install 'qguard[plot]'") from None
        except OSError as error:
            raise CommandError(f"{picture} cannot be written: {error.strerror}") from None
    if as_json:
        click.echo(json.dumps(in_json(found), indent=2, allow_nan=False))
        return
    width = None if sys.stdout.isatty() else 200
    show(found, Console(width=width, highlight=False, markup=False, emoji=False))


async def _listing(settings: Settings) -> Torrents:
    """What the user's client has now."""
    client = wiring.make_client(settings)
    try:
        return await client.torrents()
    except LoginRefusedError as error:
        raise CommandError(str(error), commands.REFUSED) from None
    except ClientError as error:
        raise CommandError(str(error), commands.UNREACHABLE) from None
    finally:
        await client.close()


COLUMNS: Sequence[tuple[str, str]] = (
    ("every", "so often the client is asked"),
    ("use", "of what the caps and the demand allow was uploaded"),
    ("v1, v10, v60", "largest mean over 1, 10 and 60 s, over the cap"),
    ("fairness", "1: all torrents of a tracker that want more get the same (Jain's index)"),
    ("changed", "torrents written per minute"),
    ("calls", "requests that write, per minute"),
    ("limits", "largest sum of the limits over the cap"),
    ("back", "seconds until a tracker whose demand returns has 85 % of its cap; -: none returns in this scenario"),
)


def in_json(found: Comparison) -> dict[str, Any]:
    """What JSON can carry: it has no infinite numbers."""
    answer: dict[str, Any] = msgspec.to_builtins(found)
    for row in answer["strategies"]:
        if row["reclaim"] == inf:
            row["reclaim"] = "never"
    return answer


def back_after(seconds: float | None) -> str:
    """When a tracker had its cap back: `-` where none came back, `never` where it did not have it."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if isfinite(seconds) else "never"


def show(found: Comparison, console: Console) -> None:
    """One line for each strategy, and what the columns mean."""
    console.print(
        f"{found.scene}: {found.words}; {found.torrents} torrents, {found.seconds:.0f} s, seed {found.seed}; simulated"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("strategy", "every", "use", "v1", "v10", "v60", "fairness", "changed", "calls", "limits", "back"):
        table.add_column(name, justify="left" if name == "strategy" else "right")
    for row in found.strategies:
        table.add_row(
            row.strategy,
            f"{row.interval:g} s",
            f"{row.use:.3f}",
            f"{row.v1:.2f}",
            f"{row.v10:.2f}",
            f"{row.v60:.2f}",
            f"{row.jain:.3f}",
            f"{row.changed:.0f}",
            f"{row.calls:.0f}",
            f"{row.overcommit:.2f}",
            back_after(row.reclaim),
        )
    console.print(table)
    for name, words in COLUMNS:
        console.print(f"  {name}: {words}")

"""Measure how fully, how strictly and how fairly a tracker's cap is used on a real swarm: `make bench-swarm`.

One real qBittorrent seeds, leechers come and go by a schedule, and each drive in turn limits what is uploaded. All
figures come from bytes that leechers counted. Each finished run is kept, and none is made twice: a run that was ended
goes on where it was.
"""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from scripts.closed_loop.drives import DRIVES, NATIVE, why_not
from scripts.closed_loop.plot import draw
from scripts.closed_loop.results import ROOT, Key, Results, commit, key_of, seeds, table
from scripts.closed_loop.running import run
from scripts.closed_loop.scenes import SCENES, USUAL, WARM_UP
from tests.support.daemon import VERSIONS

BUILDING: Final = 10
"""Seconds that a scene takes before it begins."""


def main() -> None:
    """Print the table; exit with 1 when a run failed."""
    options = arguments(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every process is ended
    results = Results(options.results)
    chosen = options.seed or seeds(commit(), options.seeds)
    wanted = [
        key_of(scene, drive, options.version, seed, options.seconds, options.set)
        for scene in options.scene
        for drive in options.drive
        if options.table or can(scene, drive, options.version)
        for seed in chosen
    ]
    if options.table:
        wanted = [key for key in results.rows() if fits(key, options)]
    done = {} if options.again else results.rows()
    missing = [] if options.table else [key for key in wanted if key not in done]
    if missing:
        minutes = len(missing) * (WARM_UP + options.seconds + BUILDING) / 60
        print(f"{len(missing)} run(s) to be made, {minutes:.0f} minutes", file=sys.stderr)
    failed = [key for key in missing if not make(key, results, options.set)]
    kept = results.rows()
    rows = [key for key in wanted if key in kept]
    print(table([kept[key] for key in rows]))
    if options.plot and rows:
        runs = [(f"{key.scene}, {key.drive}, {kept[key]['about']}", results.trace(key)) for key in rows]
        print(draw(options.plot, runs) or f"picture: {options.plot}", file=sys.stderr)
    sys.exit(bool(failed))


def fits(key: Key, options: argparse.Namespace) -> bool:
    """Whether a kept run is one of those scenes and drives; whatever its seed, length, code and settings."""
    return (
        key.scene in options.scene
        and key.drive in options.drive
        and key.version in {options.version, NATIVE}
        and (not options.seed or key.seed in options.seed)
    )


def can(scene: str, drive: str, version: str) -> bool:
    """Whether a drive can run here and in this scene; says why not."""
    reason = why_not(SCENES[scene], drive, version)
    if reason:
        print(reason, file=sys.stderr)
    return reason is None


def make(key: Key, results: Results, settings: dict[str, Any]) -> bool:
    """Make a run and keep it; False when it failed."""
    scene = SCENES[key.scene]
    what = f"{key.scene}, {key.drive}, {key.version}, seed {key.seed}"
    try:
        made = run(scene, key.drive, key.version, key.seed, key.seconds, settings)
    except (RuntimeError, OSError, httpx.HTTPError) as error:  # TimeoutError is an OSError
        print(f"{what}: failed: {error}", file=sys.stderr, flush=True)
        return False
    row = results.add(key, scene, made)
    print(f"{what}: {table([row]).splitlines()[-1]}", file=sys.stderr, flush=True)
    return True


def arguments(words: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    scenes = "; ".join(f"{scene.name}: {scene.about}" for scene in SCENES.values())
    usual = " and ".join(USUAL)
    add("--scene", action="append", choices=[*SCENES, "all"], help=f"which; may be given again ({usual}). {scenes}")
    add("--drive", action="append", choices=DRIVES, help="who limits; may be given again (all)")
    add("--version", choices=VERSIONS, default="4.5", help="of qBittorrent (4.5)")
    add("--seeds", type=int, default=1, metavar="N", help="so many schedules, derived from the commit (1)")
    add("--seed", type=int, action="append", help="this schedule instead; may be given again")
    add("--seconds", type=int, default=120, help=f"measured after {WARM_UP} of warm-up (120)")
    add("--set", type=setting, action="append", default=[], metavar="KEY=VALUE", help="of qguard's section `global`")
    add("--results", type=Path, default=ROOT / ".cache" / "bench-swarm", help="folder where runs are kept")
    add("--again", action="store_true", help="make runs anew that are kept already")
    add("--table", action="store_true", help="make none, print all that is kept, of all scenes and of earlier code too")
    add("--plot", type=Path, metavar="FILE", help="a picture of rate against cap over time")
    options = parser.parse_args(words)
    options.set = dict(options.set)
    every = "all" in (options.scene or ["all"] * options.table)
    options.scene = list(SCENES) if every else options.scene or list(USUAL)
    least = {name: SCENES[name].least for name in options.scene}
    longest = max(least, key=lambda name: least[name])
    if options.seconds < least[longest]:
        parser.error(f"--seconds: at least {least[longest]:g} for the scene {longest}")
    options.drive = options.drive or list(DRIVES)
    return options


def setting(text: str) -> tuple[str, Any]:
    """A setting of qguard: what is JSON is taken as that, anything else as text."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text}: not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


if __name__ == "__main__":
    main()

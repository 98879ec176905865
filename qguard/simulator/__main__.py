"""A simulated qBittorrent in a process of its own: `python -m qguard.simulator --help`.

It prints one line of JSON once it answers: url, port, version, torrents, username. It ends on SIGTERM, on
SIGINT, and when its stdin is closed: whoever has started it may be gone.
"""

import asyncio
import contextlib
import json
import os
import signal
import threading
from typing import get_args

import click

from qguard.simulator.client import Version
from qguard.simulator.programs import Runner
from qguard.simulator.scenes import SCENES
from qguard.simulator.serving import served
from qguard.simulator.webui import WebUi

CAP = 2_000_000
"""bytes/s that the scenes' demand is scaled by."""


@click.command()
@click.option("--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--version", default="5.1.0", show_default=True, type=click.Choice(get_args(Version)))
@click.option("--torrents", default=400, show_default=True, type=click.IntRange(0, 200_000))
@click.option("--trackers", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--tracker", "hosts", multiple=True, help="Instead of --trackers: announce host=cap in bytes/s; repeated."
)
@click.option("--scene", default="mixed", show_default=True, type=click.Choice(list(SCENES)))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--speed", default=1.0, show_default=True, type=click.FloatRange(0.0, 1000.0), help="Times real time.")
@click.option("--username", default="admin", show_default=True)
@click.option("--password", default="adminadmin", help="Better in QGUARD_SIMULATOR_PASSWORD.")
@click.option("--no-login", is_flag=True, help="Let programs on this machine in without a login.")
@click.option(
    "--run-programs",
    is_flag=True,
    help="Run external programs for real: whoever may talk to the Web UI may then run anything as you.",
)
def main(
    port: int,
    version: Version,
    torrents: int,
    trackers: int,
    hosts: tuple[str, ...],
    scene: str,
    seed: int,
    speed: float,
    username: str,
    password: str,
    no_login: bool,  # noqa: FBT001 - click passes flags so
    run_programs: bool,  # noqa: FBT001
) -> None:
    """Serve a simulated qBittorrent on 127.0.0.1 until stdin is closed."""
    names, caps = _trackers(hosts) if hosts else ([], [CAP] * trackers)
    stage = SCENES[scene].stage(caps, torrents=torrents, seed=seed, version=version, domains=names)
    ui = WebUi(stage.client, speed=speed, events=stage.events, runner=Runner() if run_programs else None)
    ui.sessions.username = username
    ui.sessions.password = os.environ.get("QGUARD_SIMULATOR_PASSWORD", password)
    ui.other["bypass_local_auth"] = no_login
    try:
        asyncio.run(_serve(ui, port))
    except OSError as error:
        raise click.ClickException(
            f"port {port} of 127.0.0.1 cannot be used ({error.strerror}): name another"
        ) from None


def _trackers(hosts: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Names and caps of host=cap."""
    names, caps = [], []
    for words in hosts:
        name, _, cap = words.rpartition("=")
        if not name or not cap.isdecimal() or not int(cap):
            raise click.BadParameter(f"{words!r}: write host=cap, the cap in bytes/s", param_hint="--tracker")
        names.append(name)
        caps.append(int(cap))
    return names, caps


async def _serve(ui: WebUi, port: int) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with served(ui, port) as site:
        line = {
            "url": site.url,
            "port": site.port,
            "version": ui.client.version,
            "torrents": len(ui.client),
            "username": ui.sessions.username,
        }
        click.echo(json.dumps(line))
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
        await stop.wait()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Wait until stdin is closed; a thread, because stdin may be a file, which no event loop can watch."""
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # it has ended anyway
        loop.call_soon_threadsafe(stop.set)


if __name__ == "__main__":
    main()

"""`qbittorrent.url: embedded`: a simulated client in a process of its own, for trying qguard out.

It is asked over HTTP like a real one; nothing else knows the difference. There is one for each process of ours, and it
ends with it: it reads a pipe that we hold open.
"""

import atexit
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from qguard.qbittorrent.errors import UnreachableError

TORRENTS: Final = 400

UNCAPPED: Final = 4_000_000
"""Bytes/s of demand for a tracker without a cap."""

_running: list[subprocess.Popen[str]] = []
_url: list[str] = []


def url(trackers: Sequence[tuple[str, int | None]]) -> str:
    """Where it answers; started by the first call, and again when it has ended meanwhile.

    Args:
        trackers: announce host and cap (bytes/s) of each tracker it shall have torrents of.

    Raises:
        UnreachableError: it does not start.
    """
    if not _running or _running[-1].poll() is not None:
        words = [sys.executable, "-m", "qguard.simulator", "--no-login", "--torrents", str(TORRENTS)]
        for host, cap in trackers:
            words += ["--tracker", f"{host}={cap or UNCAPPED}"]
        process = subprocess.Popen(  # noqa: S603 - our own program
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        _running.append(process)
        atexit.register(_end, process)
        line = process.stdout.readline() if process.stdout else ""
        try:
            _url.append(str(json.loads(line)["url"]))
        except (ValueError, KeyError):
            raise UnreachableError("the simulated qBittorrent does not start; its words stand above") from None
    return _url[-1]


def _end(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()

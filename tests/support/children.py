"""Child processes of a test run: started in a session of their own, remembered, ended one by one."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SCRATCH_PREFIX = "qguard-test-"
_started: list[tuple[subprocess.Popen[bytes], str]] = []
_lock = threading.Lock()


def start(
    argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a child with no stdin and its output appended to a file.

    Args:
        argv: program and arguments; no shell.
        log: file that gets stdout and stderr.
        env: the whole environment; None hands ours down.
        cwd: its working directory.
    """
    words = [str(word) for word in argv]
    with log.open("ab") as out:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
    with _lock:
        _started.append((child, " ".join(words)))
    return child


def stop(child: subprocess.Popen[bytes], *, patience: float = 20.0) -> int:
    """Terminate a child, kill it when `patience` seconds were not enough, and return its exit status."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            return child.wait(patience)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def kill(child: subprocess.Popen[bytes]) -> int:
    """End a child with SIGKILL and return its exit status (-9)."""
    if child.poll() is None:
        child.kill()
    return child.wait()


def leftovers() -> list[str]:
    """Command lines of the children that still run."""
    with _lock:
        return [f"{child.pid}: {line}" for child, line in _started if child.poll() is None]


def end_all() -> None:
    """Kill every child that still runs."""
    with _lock:
        children = [child for child, _ in _started]
    for child in children:
        kill(child)


def scratch(parent: Path | None = None) -> Path:
    """Make an empty folder, readable by all, whose name says which process owns it.

    Args:
        parent: where to make it; None is the machine's folder for temporary files.
    """
    made = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", dir=parent))
    made.chmod(0o755)
    return made


def sweep(parent: Path | None = None) -> list[Path]:
    """Remove what killed test runs left: their folders under `parent` and the processes that name such a folder.

    A folder whose owner still runs is left alone, so runs side by side do not disturb each other.
    """
    removed = []
    for folder in Path(parent or tempfile.gettempdir()).glob(f"{SCRATCH_PREFIX}*"):
        owner = folder.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            for pid in _naming(folder.name):
                _kill_stranger(pid)
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def _naming(word: str) -> list[int]:
    pids = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = cmdline.read_bytes()
        except OSError:
            continue  # it ended meanwhile
        program = argv.partition(b"\0")[0].rpartition(b"/")[2]
        if word.encode() in argv and program in {b"qbittorrent-nox", b"opentracker"}:
            pids.append(int(cmdline.parent.name))
    return pids


def _kill_stranger(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + 10
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)  # not our child: there is nothing to wait on


def _alive(pid: int) -> bool:
    try:
        return Path("/proc", str(pid), "cmdline").read_bytes() != b""  # a zombie's is empty
    except OSError:
        return False

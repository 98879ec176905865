"""qguard as its users have it: a folder with configuration and ledger, the service and the commands as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import yaml

from tests.support import children
from tests.support.daemon import Daemon
from tests.support.ending import Ending
from tests.support.ports import free_port
from tests.support.proxy import Proxy
from tests.support.torrents import Torrent, make_torrents, seed
from tests.support.webapi import WebApi

QGUARD: Final = Path(sys.executable).with_name("qguard")
STEP: Final = 0.05
"""Seconds between two looks at a condition that nobody announces."""

ALPHA, BETA, REST = "127.0.11.1", "127.0.11.2", "127.0.11.3"
"""Announce hosts; nothing listens there."""

ORIGINALS: Final[Mapping[str, Sequence[int]]] = {
    ALPHA: (0, 300_000, 5_000, 0, 3_000),
    BETA: (0, 1_000_000, 2_000_000, 0, 300_000),
    REST: (0, 123_456),
}
"""bytes/s that the owner had set, by announce host; the first also counts for copies beyond these. Fewer than ten are
finite, so that first contact asks nothing."""

ALPHA_CAP, BETA_CAP = 700_000, 11_000_000
"""bytes/s; standing limits are 5 % of that for 8 wake-ups, as five to eight sleep, rounded down to a power of two."""

LIMITS: Final[Mapping[str, Sequence[int]]] = {
    ALPHA: (4_096, 4_096, 4_096, 4_096, 3_000),
    BETA: (65_536,) * 5,
    REST: (0, 123_456),
}
"""bytes/s under these caps while nobody uploads."""


def until(condition: Callable[[], object], what: str, timeout: float = 20.0) -> None:
    """Wait for a condition that no event announces.

    Raises:
        TimeoutError: with `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(STEP)


@dataclass(frozen=True, repr=False)
class Seeds:
    """A daemon with a dozen idle torrents whose owner had set some limits, and a proxy that qguard goes through."""

    daemon: Daemon
    api: WebApi
    proxy: Proxy
    torrents: Mapping[str, Sequence[Torrent]]
    """By announce host."""

    @classmethod
    def sow(cls, daemon: Daemon, api: WebApi, proxy: Proxy, *, copies: int = 1) -> Self:
        """Add the torrents, `copies` times as many as there are `ORIGINALS`."""
        made = {}
        for host, originals in ORIGINALS.items():
            made[host] = make_torrents(
                len(originals) * copies, daemon.data, prefix=host, tiers=[[f"http://{host}:9/announce"]]
            )
            seed(daemon, api, made[host])
        return cls(daemon, api, proxy, made)

    @property
    def hashes(self) -> list[str]:
        """All info-hashes."""
        return [torrent.infohash for group in self.torrents.values() for torrent in group]

    def of(self, limits: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Limits by announce host -> limits by info-hash; the first one also for torrents beyond the last."""
        return {
            torrent.infohash: limits[host][number if number < len(limits[host]) else 0]
            for host, group in self.torrents.items()
            for number, torrent in enumerate(group)
        }

    @property
    def originals(self) -> dict[str, int]:
        """What every torrent has after `reset`, bytes/s."""
        return self.of(ORIGINALS)

    @property
    def limited(self) -> dict[str, int]:
        """What every torrent has when qguard has done its work, bytes/s."""
        return self.of(LIMITS)

    def reset(self) -> None:
        """End all faults, forget what the proxy has seen, and give every torrent its original limit."""
        self.proxy.clear()
        self.proxy.log.clear()
        for limit in sorted(set(self.originals.values())):
            self.api.set_limit([name for name, value in self.originals.items() if value == limit], limit)

    def replant(self, torrent: Torrent, limit: int) -> None:
        """Delete a torrent and add it again, at another time, with another limit in bytes/s."""
        added_on = self.api.torrents()[torrent.infohash]["added_on"]
        until(lambda: time.time() >= added_on + 1, "the next second")
        self.api.delete([torrent.infohash])
        until(lambda: torrent.infohash not in self.api.torrents(), "the end of the torrent")
        seed(self.daemon, self.api, [torrent], up_limit=limit)

    def wait_limits(self, expected: Mapping[str, int], timeout: float = 20.0) -> None:
        """Wait until the client has exactly these limits.

        Raises:
            AssertionError: names those that differ.
        """
        deadline = time.monotonic() + timeout
        while (there := self.api.limits()) != expected and time.monotonic() < deadline:
            time.sleep(STEP)
        assert there == expected


@contextmanager
def sown(start: Callable[..., Daemon], *, copies: int = 1) -> Iterator[Seeds]:
    """Seeds on a daemon of their own, which refreshes twice a second so that qguard's turns are not stretched.

    Args:
        start: makes the daemon, as the fixtures `daemon` and `module_daemon` do.
        copies: how many times as many torrents as there are `ORIGINALS`.
    """
    daemon = start("4.5", preferences={"RefreshInterval": 500})
    with daemon.api() as api, Proxy(daemon.port) as proxy:
        yield Seeds.sow(daemon, api, proxy, copies=copies)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed with --json."""
        return json.loads(self.out)

    def expect(self, code: int = 0) -> Self:
        """Itself, when it ended with this exit code; otherwise an AssertionError shows what it said."""
        assert self.code == code, f"exit code {self.code}\nstdout: {self.out}\nstderr: {self.err}"
        return self


class Setup:
    """A folder with a configuration for one client, and with the ledger.

    Args:
        folder: empty; gets `qguard.yaml`, `ledger.db` and what the service logs.
        url: of the Web UI.

    Attributes:
        executable: the `qguard` of the environment that runs the tests.
        config: what `save` writes; change it as you like.
        path: of the configuration file.
        database: of the ledger.
        originals: the plain file beside it.
    """

    def __init__(self, folder: Path, url: str, *, username: str, password: str) -> None:
        self.folder = folder
        self.executable = QGUARD
        self.port = free_port()
        self.path = folder / "qguard.yaml"
        self.database = folder / "ledger.db"
        self.originals = folder / "ledger.originals.jsonl"
        self.config: dict[str, Any] = {
            "global": {"port": self.port, "poll_interval": 1, "rollout_percentage": 100},
            "qbittorrent": {"url": url, "username": username, "password": password, "timeout": 10},
            "trackers": [
                {"id": "alpha", "pattern": ALPHA.replace(".", r"\."), "max_upload_speed": ALPHA_CAP},
                {"id": "beta", "pattern": BETA.replace(".", r"\."), "max_upload_speed": BETA_CAP},
                {"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"},
            ],
            "rollback": {"database_path": "ledger.db"},
            "logging": {"level": "INFO", "format": "json"},
        }
        self.save()

    @classmethod
    def of(cls, folder: Path, seeds: Seeds) -> Self:
        """One for these seeds, through their proxy."""
        return cls(folder, seeds.proxy.url, username=seeds.daemon.username, password=seeds.daemon.password)

    def save(self) -> None:
        """Write the configuration as editors do: a new file in the place of the old."""
        self.write(yaml.safe_dump(self.config, sort_keys=False))

    def write(self, text: str) -> None:
        """Put a new file with this text in the place of the configuration."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.path)

    def edit(self, **changes: Any) -> None:
        """Change keys of the section `global` and save."""
        self.config["global"] |= changes
        self.save()

    def caps(self, alpha: int, beta: int) -> None:
        """Change the two caps, bytes/s, and save."""
        for rule, cap in zip(self.config["trackers"], (alpha, beta), strict=False):
            rule["max_upload_speed"] = cap
        self.save()

    def copy(self) -> dict[str, Any]:
        """The configuration, to be put back later."""
        return deepcopy(self.config)

    def command(self, *words: str, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> Done:
        """Run `qguard` with these words, this configuration and no terminal."""
        return command(*words, "--config", str(self.path), env=env, cwd=self.folder, timeout=timeout)

    def start(self, *, wait: bool = True) -> "Service":
        """Start `qguard run`; with `wait`, return when the first cycle is done.

        Raises:
            AssertionError: it ended; its output is in the message.
        """
        service = Service(self)
        try:
            service.wait_up()
            if wait:
                service.wait_health(lambda health: health["last_cycle_time"], "the first cycle")
        except BaseException:
            service.kill()
            raise
        return service


class Service(Ending):
    """A `qguard run` that was started; killed at the end of its context."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._log = setup.folder / "output.log"
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        self._child: subprocess.Popen[bytes] = children.start(
            [QGUARD, "run", "--config", setup.path], log=self._log, env=_environment(None), cwd=setup.folder
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{setup.port}", trust_env=False, timeout=60.0)

    def leave(self) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    @property
    def log(self) -> str:
        """All it has written so far."""
        with self._log.open(errors="replace") as stream:
            stream.seek(self._log_start)
            return stream.read()

    def logged(self, text: str) -> list[str]:
        """Lines of the log with this text in them."""
        return [line for line in self.log.splitlines() if text in line]

    def wait_changes(self, count: int, timeout: float = 20.0) -> None:
        """Wait until so many cycles changed something."""
        until(
            lambda: len(self.logged("limits changed in")) >= count, f"{count} changes in the log:\n{self.log}", timeout
        )

    def wait_log(self, text: str, timeout: float = 20.0) -> None:
        """Wait for a line with this text."""
        until(lambda: self.logged(text), f"{text!r} in the log:\n{self.log}", timeout)

    def wait_up(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.running, f"it has ended:\n{self.log}"
            try:
                return self.http.get("/health").status_code in {200, 503}
            except httpx.TransportError:
                return False

        until(answers, "an answer of /health", 30.0)

    def health(self) -> Any:
        """The answer of /health."""
        return self.http.get("/health").json()

    def wait_health(self, condition: Callable[[Any], object], what: str, timeout: float = 20.0) -> Any:
        """Wait until /health fulfils a condition, and return it.

        Raises:
            AssertionError: shows the last answer.
        """
        deadline = time.monotonic() + timeout
        while not condition(health := self.health()):
            assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s: {health}"
            time.sleep(STEP)
        return health

    def wait_degraded(self, topic: str, timeout: float = 20.0) -> str:
        """Wait until /health is degraded because of this topic, and return what it says about it."""
        health = self.wait_health(lambda h: h["status"] == "degraded" and topic in h["problems"], topic, timeout)
        return str(health["problems"][topic])

    def wait_healthy(self, timeout: float = 20.0) -> None:
        """Wait until /health is healthy."""
        self.wait_health(lambda health: health["status"] == "healthy", "healthy", timeout)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """POST a JSON body."""
        return self.http.post(path, json=body)

    def cycle(self) -> Any:
        """Run a cycle now and return its report."""
        answer = self.post("/cycle/force")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def roll_back(self) -> Any:
        """Put all originals back and return the report."""
        answer = self.post("/rollback", confirm=True)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def reload(self) -> None:
        """Let it read its configuration now."""
        answer = self.post("/config/reload")
        assert answer.status_code == 200, answer.text

    def end(self, number: signal.Signals, within: float) -> int:
        """Send a signal and return the exit status.

        Raises:
            subprocess.TimeoutExpired: it has not ended within that many seconds.
        """
        self._child.send_signal(number)
        return self._child.wait(within)

    def stop(self, patience: float = 20.0) -> int:
        """SIGTERM, and return the exit status; kills it after `patience` seconds."""
        self.http.close()
        return children.stop(self._child, patience=patience)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.http.close()
        children.kill(self._child)


def command(*words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 60.0) -> Done:
    """Run `qguard` with these words and no terminal; `env` is added to a bare environment."""
    ended = subprocess.run(
        [QGUARD, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=_environment(env),
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    return Done(ended.returncode, ended.stdout, ended.stderr)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(more or {})}

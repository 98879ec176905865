"""`qguard run` as a real process with a configuration of its own, and commands beside it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support import children
from tests.support.daemon import Daemon
from tests.support.ending import Ending
from tests.support.ports import free_port

PROGRAM: Final = Path(sys.executable).with_name("qguard")
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class Qguard(Ending):
    """One service on loopback, running from construction on; its folder survives it.

    Args:
        folder: gets configuration, ledger and output.
        client: URL of the Web UI that it is to use.
        login: user name and password there; None for a client that asks for none.
        trackers: the value of the section `trackers`, as YAML text or as data.
        environment: variables on top of a bare environment.
        timeout: seconds until /health must answer.
        keys: the section `global`, host and port aside.

    Attributes:
        config: the configuration file.
        ledger: the database.
        output: what it printed, stdout and stderr.
        url: where it listens.
        http: a client without proxies for that.
        child: the process.

    Raises:
        RuntimeError: it did not come up; its output is in the message.
    """

    def __init__(
        self,
        folder: Path,
        client: str,
        *,
        trackers: str | list[dict[str, Any]],
        login: tuple[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        **keys: Any,
    ) -> None:
        port = free_port()
        self.config = folder / "qguard.yaml"
        self.ledger = folder / "ledger.db"
        self.output = folder / "output.log"
        self.url = f"http://127.0.0.1:{port}"
        self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=30.0)
        self._timeout = timeout
        self._environment = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": str(folder), **(environment or {})}
        keys |= {"host": "127.0.0.1", "port": port}
        self.config.write_text(configuration(self.ledger, client, trackers=trackers, login=login, keys=keys))
        try:
            self.start()
        except BaseException:
            self.http.close()
            raise

    def leave(self) -> None:
        self.kill()
        self.http.close()

    def start(self) -> None:
        """Start it (again) on its configuration and ledger, and wait until /health answers."""
        self.child = children.start(
            [PROGRAM, "run", "--config", self.config],
            log=self.output,
            env=self._environment,
            cwd=self.config.parent,
        )
        try:
            self._wait_until_up()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """Terminate it, wait for its clean end and return its exit status."""
        return children.stop(self.child)

    def kill(self) -> None:
        """SIGKILL and wait."""
        children.kill(self.child)

    def health(self) -> dict[str, Any]:
        """The answer of /health, whatever its status."""
        answer: dict[str, Any] = self.http.get("/health").json()
        return answer

    def wait_cycle(self, timeout: float = 30.0) -> None:
        """Wait until the loop has ended a cycle that began after this call.

        Raises:
            TimeoutError: none went through; what it says of itself is in the message.
        """
        deadline = time.monotonic() + timeout
        last = self.health()["last_cycle_time"]
        ended = 0
        while ended < 2:  # the first end may belong to a cycle that had begun before
            health = self.health()
            ended += health["last_cycle_time"] != last
            last = health["last_cycle_time"]
            if time.monotonic() > deadline:
                raise TimeoutError(f"no cycle went through in {timeout:g} s; /health: {health}\n{self.log_tail()}")
            time.sleep(0.05)  # it tells nobody when a cycle ends

    def force(self) -> dict[str, Any]:
        """Run a cycle now and return its report."""
        return self._answer(self.http.post("/cycle/force", json={}))

    def preview(self) -> dict[str, Any]:
        """What the next cycle would do."""
        return self._answer(self.http.get("/preview/next-cycle"))

    def run(self, *words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run a command with the same configuration, whether or not the service runs; it gets no stdin."""
        return subprocess.run(
            [PROGRAM, words[0], "--config", self.config, *words[1:]],
            env=self._environment | {"PATH": os.environ.get("PATH", _PATH)},
            cwd=self.config.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def json(self, *words: str) -> Any:
        """The answer of a command as data.

        Raises:
            RuntimeError: it failed; what it said is in the message.
        """
        done = self.run(*words, "--json")
        if done.returncode:
            raise RuntimeError(f"qguard {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return json.loads(done.stdout)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of its output."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])

    def _answer(self, reply: httpx.Response) -> dict[str, Any]:
        if not reply.is_success:
            raise RuntimeError(f"{reply.request.url} answered {reply.status_code} {reply.text}\n{self.log_tail()}")
        body: dict[str, Any] = reply.json()
        return body

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + self._timeout
        while self.child.poll() is None and time.monotonic() < deadline:
            try:
                self.health()
            except httpx.TransportError:
                time.sleep(0.05)  # a process of its own opens its port and tells nobody
            else:
                return
        state = "still runs" if self.child.poll() is None else f"ended with status {self.child.returncode}"
        raise RuntimeError(
            f"qguard did not answer on {self.url} within {self._timeout:g} s and {state}:\n{self.log_tail()}"
        )


def login(daemon: Daemon) -> tuple[str, str]:
    """User name and password of a daemon."""
    return daemon.username, daemon.password


def configuration(
    ledger: Path,
    client: str,
    *,
    trackers: str | list[dict[str, Any]],
    login: tuple[str, str] | None,
    keys: Mapping[str, Any],
) -> str:
    """The text of a configuration file; `keys` are the section `global`."""
    qbittorrent = {"url": client} | ({"username": login[0], "password": login[1]} if login else {})
    sections = {"global": keys, "qbittorrent": qbittorrent, "rollback": {"database_path": str(ledger)}}
    # JSON is YAML, though not what people write by hand.
    lines = [f"{name}: {json.dumps(value)}" for name, value in sections.items()]
    rules = trackers if isinstance(trackers, str) else json.dumps(trackers)
    return "\n".join([*lines, f"trackers: {rules}\n"])

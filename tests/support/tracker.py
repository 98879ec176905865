"""opentracker on loopback: one process, many announce hosts that differ by address."""

import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import httpx

from tests.support import children
from tests.support.daemon import REMEDY
from tests.support.ending import Ending
from tests.support.ports import free_port

_NAMES: Final = "abcdefghijklmnopqrstuvwxyz"
_PROBE: Final = "f0" * 20


class Tracker(Ending):
    """One opentracker; tracker "a" is 127.0.0.2, "b" 127.0.0.3 and so on, all on the same port.

    Debian builds it with an access list, so torrents have to be allowed before they are announced.

    Args:
        hosts: how many announce hosts, 1 to 26.

    Attributes:
        port: TCP port of all hosts.

    Raises:
        RuntimeError: opentracker is not installed or did not come up.
    """

    def __init__(self, hosts: int = 4) -> None:
        program = shutil.which("opentracker")
        if program is None:
            raise RuntimeError(f"no opentracker: {REMEDY}")
        self.port = free_port()
        self._hosts = {_NAMES[number]: f"127.0.0.{number + 2}" for number in range(hosts)}
        self._scratch = children.scratch()
        self._allowed: list[str] = []
        self._write_access_list()
        listen = [word for host in self._hosts.values() for word in ("-i", host, "-p", str(self.port))]
        self._child: subprocess.Popen[bytes] = children.start(
            [program, *listen, "-d", self._scratch, "-w", "allowed"], log=self._scratch / "output.log", cwd=Path("/")
        )
        try:
            self.allow([_PROBE])
        except BaseException:
            self.stop()
            raise

    def leave(self) -> None:
        self.stop()

    def host(self, name: str) -> str:
        """Address of a tracker by its letter."""
        return self._hosts[name]

    def url(self, name: str, passkey: str | None = None) -> str:
        """Announce URL of a tracker by its letter; the passkey goes into the path."""
        return f"http://{self.host(name)}:{self.port}/announce" + (f"/{passkey}" if passkey else "")

    def allow(self, hashes: Iterable[str], *, timeout: float = 10.0) -> None:
        """Let torrents be announced, and return once the tracker knows.

        Raises:
            RuntimeError: the tracker does not answer, or does not take the list.
        """
        self._allowed += hashes
        self._write_access_list()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._child.poll() is None:
            if self._accepts(self._allowed[-1]):
                return
            self._child.send_signal(signal.SIGHUP)
            time.sleep(0.05)  # it reloads in a thread of its own and says nothing about it
        log = (self._scratch / "output.log").read_text(errors="replace")
        raise RuntimeError(
            f"opentracker on port {self.port} did not take its access list in {timeout:g} s; log:\n{log}"
        )

    def seeds(self, infohash: str) -> int:
        """How many seeds of a torrent have announced themselves."""
        info = bytes.fromhex(infohash)
        query = "".join(f"%{byte:02x}" for byte in info)
        url = f"http://{self.host('a')}:{self.port}/scrape?info_hash={query}"
        body = httpx.get(url, trust_env=False, timeout=5.0).raise_for_status().content
        _, _, rest = body.partition(b"8:completei")
        count, _, _ = rest.partition(b"e")
        return int(count or 0)

    def stop(self) -> None:
        """End it and remove its folder."""
        children.stop(self._child)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _write_access_list(self) -> None:
        # Replaced, never truncated: the reload may read at any moment.
        fresh = self._scratch / "allowed.new"
        fresh.write_text("".join(f"{infohash}\n" for infohash in self._allowed))
        fresh.rename(self._scratch / "allowed")

    def _accepts(self, infohash: str) -> bool:
        query = "".join(f"%{byte:02x}" for byte in bytes.fromhex(infohash))
        url = f"{self.url('a')}?info_hash={query}&peer_id={'-' * 20}&port=9&left=1&numwant=0&compact=1"
        try:
            with httpx.Client(trust_env=False, timeout=5.0) as client:
                answer = client.get(url).content
                client.get(f"{url}&event=stopped")  # leaves the swarm again
        except httpx.TransportError:
            return False
        return b"failure reason" not in answer

"""Transmission 4 with a bandwidth group: what a client reaches that limits many torrents together by itself."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support import children
from tests.support.daemon import cache
from tests.support.ending import Ending
from tests.support.ports import free_port
from tests.support.torrents import Torrent

_SEEDING: Final = 6
_GROUP: Final = "capped"


def _root() -> Path:
    return cache() / "trixie"


def why_not() -> str | None:
    """Why it cannot run here, in one line that says what to do; None when it can."""
    if os.geteuid() != 0:
        return "native: Transmission runs in a chroot, which needs root"
    if not (_root() / "usr/bin/transmission-daemon").exists():
        return f"native: no transmission-daemon in {_root()}: install that package there"
    return None


class Transmission(Ending):
    """One transmission-daemon on loopback, quiet, from construction until the end of its context.

    Attributes:
        version: what it says of itself.
        bt_port: for BitTorrent peers.
        data: folder for the content of torrents, as seen from here.

    Raises:
        RuntimeError: it is not installed, or did not come up.
    """

    def __init__(self, timeout: float = 30.0) -> None:
        if reason := why_not():
            raise RuntimeError(reason)
        port, self.bt_port = free_port(), free_port()
        self._scratch = children.scratch(_root() / "tmp")
        self.data = self._scratch / "data"
        self.data.mkdir()
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=timeout)
        settings = {
            "bind-address-ipv4": "127.0.0.1",
            "dht-enabled": False,
            "download-queue-enabled": False,
            "idle-seeding-limit-enabled": False,
            "lpd-enabled": False,
            "peer-port": self.bt_port,
            "pex-enabled": False,
            "port-forwarding-enabled": False,
            "preallocation": 0,
            "ratio-limit-enabled": False,
            "rpc-authentication-required": False,
            "rpc-bind-address": "127.0.0.1",
            "rpc-port": port,
            "seed-queue-enabled": False,
            "upload-slots-per-torrent": 1000,
            "utp-enabled": False,
        }
        (self._scratch / "settings.json").write_text(json.dumps(settings))
        home = str(self._inside(self._scratch))
        self._child: subprocess.Popen[bytes] = children.start(
            ["chroot", _root(), "transmission-daemon", "--foreground", "--config-dir", home],
            log=self._scratch / "output.log",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": home},
            cwd=Path("/"),
        )
        try:
            self.version = f"Transmission {self._wait_until_up(timeout)}"
        except BaseException:
            self.stop()
            raise

    def leave(self) -> None:
        self.stop()

    def seed(self, torrents: Sequence[Torrent], limit: int, timeout: float = 60.0) -> None:
        """Seed torrents, with content in `data`, in one bandwidth group.

        Args:
            torrents: what to seed.
            limit: of all together, bytes/s; a multiple of 1000.
            timeout: seconds until they all must seed.

        Raises:
            RuntimeError: it refused.
            TimeoutError: they do not seed.
        """
        wanted = {"name": _GROUP, "speed-limit-up": limit // 1000, "speed-limit-up-enabled": True}
        self._call("group-set", **wanted)
        (group,) = self._call("group-get", group=_GROUP)["group"]
        if not wanted.items() <= group.items():
            raise RuntimeError(f"Transmission did not take the limit of the group: {group}")
        for torrent in torrents:
            metainfo = base64.b64encode(torrent.metainfo).decode()
            self._call("torrent-add", metainfo=metainfo, paused=False, **{"download-dir": self._inside(self.data)})
        self._call("torrent-set", ids=[torrent.infohash for torrent in torrents], group=_GROUP)
        deadline = time.monotonic() + timeout
        while True:
            rows = self._call("torrent-get", fields=["status", "group", "percentDone"])["torrents"]
            if len(rows) == len(torrents) and all(
                (row["status"], row["group"], row["percentDone"]) == (_SEEDING, _GROUP, 1) for row in rows
            ):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"Transmission does not seed {len(torrents)} torrents after {timeout:g} s: {rows}")
            time.sleep(0.1)  # it tells nobody

    def stop(self) -> None:
        """End it and remove its folder."""
        children.stop(self._child)
        self._http.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _inside(self, path: Path) -> str:
        return str(Path("/") / path.relative_to(_root()))

    def _call(self, method: str, **arguments: object) -> dict[str, Any]:
        body = {"method": method, "arguments": arguments}
        reply = self._http.post("/transmission/rpc", json=body)
        if reply.status_code == 409:  # it hands out the token against foreign pages that it wants to see
            self._http.headers["X-Transmission-Session-Id"] = reply.headers["X-Transmission-Session-Id"]
            reply = self._http.post("/transmission/rpc", json=body)
        answer = reply.raise_for_status().json()
        if answer["result"] != "success":
            raise RuntimeError(f"Transmission refused {method}: {answer['result']}")
        found: dict[str, Any] = answer["arguments"]
        return found

    def _wait_until_up(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while self._child.poll() is None and time.monotonic() < deadline:
            try:
                said = self._call("session-get", fields=["version"])["version"]
            except httpx.TransportError:
                time.sleep(0.05)  # a foreign process opens its port and tells nobody
            else:
                return re.sub(r" \(.*", "", said)
        log = (self._scratch / "output.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"transmission-daemon did not answer within {timeout:g} s; its log ends:\n{log}")

"""A real qbittorrent-nox on loopback, with a throwaway profile, quiet and without slot limits."""

import base64
import functools
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx

from tests.support import children
from tests.support.ending import Ending
from tests.support.ports import free_port
from tests.support.webapi import WebApi

VERSIONS: Final = ("4.5", "5.1", "sid")
REQUIRED: Final = ("4.5", "5.1")
REMEDY: Final = "run scripts/install-test-parts.sh as root"
USERNAME: Final = "qguard"
PASSWORD: Final = "throwaway-secret"
_CHROOTS: Final = {"5.1": "trixie", "sid": "sid"}
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What makes a seed quiet and its rate a matter of the limits alone: no discovery, no queue, no slots, no exemption of
# local peers. https://github.com/qbittorrent/qBittorrent/wiki/Explanation-of-Options-in-qBittorrent
_SESSION: Final[Mapping[str, object]] = {
    "AddExtensionToIncompleteFiles": False,
    "BTProtocol": "TCP",
    "DHTEnabled": False,
    "DisableAutoTMMByDefault": True,
    "FilePoolSize": 5_000,
    "IgnoreLimitsOnLAN": False,
    "Interface": "lo",
    "InterfaceName": "lo",
    "LSDEnabled": False,
    "MaxConnections": -1,
    "MaxConnectionsPerTorrent": -1,
    "MaxUploads": -1,
    "MaxUploadsPerTorrent": -1,
    "MultiConnectionsPerIp": True,
    "PeXEnabled": False,
    "Preallocation": False,
    "QueueingSystemEnabled": False,
    "SSRFMitigation": False,
    "UseRandomPort": False,
}
_PREFERENCES: Final[Mapping[str, object]] = {
    "Connection\\ResolvePeerCountries": False,  # would download a database
    "General\\Locale": "en",
    "WebUI\\Address": "127.0.0.1",
    "WebUI\\Enabled": True,
    "WebUI\\LocalHostAuth": True,
    "WebUI\\UseUPnP": False,
    "WebUI\\Username": USERNAME,
}


class Daemon(Ending):
    """One qbittorrent-nox process and its profile, running from construction on.

    Args:
        version: "4.5", "5.1" or "sid".
        preferences: overrides by name in the configuration file: a name with a backslash belongs to [Preferences]
            (`WebUI\\SessionTimeout`), any other is a session setting of [BitTorrent] (`MaxUploads`).
        bypass_auth: let local clients in without a login.
        timeout: seconds until the Web UI must answer.

    Attributes:
        url: address of the Web UI.
        port: its port.
        bt_port: port for BitTorrent peers.
        version: version key.
        full_version: what the daemon says of itself, such as "v4.5.2".
        data: folder for the content of torrents, as seen from here.
        timeout: seconds until the Web UI must answer after a start.
        backup: folder where it stores torrents and resume data, as seen from here.

    Raises:
        RuntimeError: the version is not installed, or the daemon did not come up; its log is in the message.
    """

    def __init__(
        self,
        version: str = "4.5",
        *,
        preferences: Mapping[str, object] | None = None,
        bypass_auth: bool = False,
        timeout: float = 60.0,
    ) -> None:
        if reason := unavailable_reason(version):
            raise RuntimeError(reason)
        self.version = version
        self.port = free_port()
        self.bt_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.username, self.password = USERNAME, PASSWORD
        self.full_version = ""
        self._root = _root(version)
        self.timeout = timeout
        self._child: subprocess.Popen[bytes] | None = None
        self._scratch = children.scratch(_scratch_parent(version))
        self.data = self._scratch / "data"
        self.data.mkdir()
        self.backup = self._scratch / "profile/qBittorrent/data/BT_backup"
        self._write_configuration(preferences or {}, bypass_auth=bypass_auth)
        try:
            self.start()
        except BaseException:
            self.remove()
            raise

    def leave(self) -> None:
        self.remove()

    @property
    def pid(self) -> int:
        """Process id of qbittorrent-nox itself.

        Raises:
            RuntimeError: it does not run.
        """
        if self._child is None:
            raise RuntimeError("the daemon does not run: call start() first")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start it on its profile and ports, and wait until the Web UI answers; nothing happens while it runs."""
        if self.running:
            return
        program = ["qbittorrent-nox", f"--profile={self.inside(self._scratch / 'profile')}"]
        if self._root != Path("/"):
            # chroot(8) execs the program: the child's pid is qBittorrent's.
            program = ["chroot", str(self._root), *program]
        home = str(self.inside(self._scratch))
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": home, "TMPDIR": home}
        self._child = children.start(program, log=self._scratch / "output.log", env=environment, cwd=Path("/"))
        try:
            self._wait_until_up(self._child)
        except BaseException:
            self.kill()
            raise

    def stop(self, *, patience: float = 30.0) -> None:
        """Terminate and wait; resume data is saved."""
        if self._child is not None:
            children.stop(self._child, patience=patience)
            self._child = None

    def kill(self) -> None:
        """SIGKILL and wait; nothing is saved."""
        if self._child is not None:
            children.kill(self._child)
            self._child = None

    def remove(self) -> None:
        """Kill it and delete profile and data."""
        self.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def inside(self, path: Path) -> Path:
        """The path as the daemon sees it.

        Raises:
            ValueError: the path lies outside the daemon's chroot.
        """
        return Path("/") / path.relative_to(self._root)

    def api(self, *, timeout: float = 30.0) -> WebApi:
        """A new logged-in session, to be closed by the caller."""
        return WebApi(self.url, self.username, self.password, timeout=timeout)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of its output and of its log file."""
        logs = (self._scratch / "output.log", self._scratch / "profile/qBittorrent/data/logs/qbittorrent.log")
        texts = [log.read_text(errors="replace").splitlines() for log in logs if log.exists()]
        return "\n".join(line for text in texts for line in text[-lines:])

    def _write_configuration(self, overrides: Mapping[str, object], *, bypass_auth: bool) -> None:
        session = dict(_SESSION) | {"Port": self.bt_port, "DefaultSavePath": self.inside(self.data)}
        preferences = dict(_PREFERENCES) | {
            "WebUI\\LocalHostAuth": not bypass_auth,
            "WebUI\\Port": self.port,
            "WebUI\\Password_PBKDF2": _password_record(self.password),
        }
        for name, value in overrides.items():
            (preferences if "\\" in name else session)[name] = value
        lines = [
            "[LegalNotice]\nAccepted=true\n",
            "[Network]\nPortForwardingEnabled=false\n",
            "[BitTorrent]",
            *(f"Session\\{name}={_plain(value)}" for name, value in session.items()),
            "\n[Preferences]",
            *(f"{name}={_plain(value)}" for name, value in preferences.items()),
        ]
        folder = self._scratch / "profile/qBittorrent/config"
        folder.mkdir(parents=True)
        (folder / "qBittorrent.conf").write_text("\n".join(lines) + "\n")

    def _wait_until_up(self, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self.timeout
        while child.poll() is None and time.monotonic() < deadline:
            try:
                with self.api(timeout=5.0) as api:
                    self.full_version = api.version()
            except httpx.TransportError:
                time.sleep(0.05)  # there is no event to wait on: a foreign process opens its port
            else:
                return
        state = "still runs" if child.poll() is None else f"ended with status {child.returncode}"
        raise RuntimeError(
            f"qbittorrent-nox {self.version} did not answer on {self.url} within {self.timeout:g} s and {state}; "
            f"its log ends:\n{self.log_tail()}"
        )


def cache() -> Path:
    """Where scripts/install-test-parts.sh puts the chroots."""
    own = os.environ.get("QGUARD_TEST_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qguard"


@functools.cache
def unavailable_reason(version: str) -> str | None:
    """Why a version cannot be run here, in one line that says what to do; None when it can."""
    if version not in VERSIONS:
        return f"no qBittorrent version {version!r}: use one of {', '.join(VERSIONS)}"
    root = _root(version)
    note = cache() / f"{_CHROOTS.get(version, version)}.unavailable"
    if note.exists():
        return f"qBittorrent {version} could not be installed: {note.read_text().strip()}"
    if root != Path("/") and os.geteuid() != 0:
        return f"qBittorrent {version} runs in a chroot, which needs root: run the tests as root"
    if not (root / "usr/bin/qbittorrent-nox").exists():
        return f"no qbittorrent-nox {version} in {root}: {REMEDY}"
    return None


def available_versions() -> tuple[str, ...]:
    """The version keys that can be run here."""
    return tuple(version for version in VERSIONS if unavailable_reason(version) is None)


def sweep_leftovers() -> None:
    """Remove what killed test runs left behind."""
    for version in VERSIONS:
        parent = _scratch_parent(version)
        if parent is None or parent.exists():
            children.sweep(parent)


def _root(version: str) -> Path:
    return cache() / _CHROOTS[version] if version in _CHROOTS else Path("/")


def _scratch_parent(version: str) -> Path | None:
    return _root(version) / "tmp" if version in _CHROOTS else None


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _password_record(password: str) -> str:
    salt = os.urandom(16)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 100_000, 64)
    return f'"@ByteArray({base64.b64encode(salt).decode()}:{base64.b64encode(key).decode()})"'

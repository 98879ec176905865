"""Logins of the simulated Web UI: sessions that expire, API keys, and addresses that are banned after failures."""

import base64
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from qguard.simulator.sync import SyncState

KEY_LENGTH: Final = 28
KEY_START: Final = "qbt_"

MOST_SESSIONS: Final = 15
"""Of the newest version; the one that was idle longest goes first."""


@dataclass(slots=True)
class Session:
    """One login, or one API key."""

    identity: str
    used: float
    """When it was last used, seconds of the clock."""
    told: float
    """When the caller was last told its cookie."""
    sync: SyncState = field(default_factory=SyncState)


@dataclass(slots=True)
class Sessions:
    """Who is logged in. Times are seconds of `clock`, which must be steady."""

    clock: Callable[[], float]
    username: str = "admin"
    password: str = "adminadmin"  # noqa: S105 - qBittorrent's own default, which everybody knows
    api_key: str = ""
    timeout: float = 3600.0
    """Idle seconds after which a session ends, 0 for never."""
    most_failures: int = 5
    """Failed logins after which an address is banned, 0 for no bans."""
    ban_time: float = 3600.0
    most: int | None = None
    """Sessions at a time, None for no bound."""
    _open: dict[str, Session] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _banned: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many are open."""
        return len(self._open)

    def find(self, identity: str | None) -> Session | None:
        """The session of a cookie, if it has not expired; this counts as use."""
        session = self._open.get(identity or "")
        if session is None:
            return None
        if self.timeout > 0 and self.clock() - session.used > self.timeout:
            del self._open[session.identity]
            return None
        session.used = self.clock()
        return session

    def start(self, identity: str | None = None) -> Session:
        """A new session; the API key is its own identity. Those that have expired are forgotten."""
        if self.timeout > 0:
            now = self.clock()
            self._open = {name: one for name, one in self._open.items() if now - one.used <= self.timeout}
        name = identity or base64.b64encode(secrets.token_bytes(24)).decode()
        if self.most is not None and len(self._open) >= self.most:
            del self._open[min(self._open.values(), key=lambda one: one.used).identity]
        return self._open.setdefault(name, Session(name, self.clock(), self.clock()))

    def by_key(self, key: str) -> Session | None:
        """The session of the API key; None for any other key."""
        if not self.api_key or not secrets.compare_digest(key.encode(), self.api_key.encode()):
            return None
        return self.find(key) or self.start(key)

    def end(self, session: Session) -> None:
        """Log out."""
        self._open.pop(session.identity, None)

    def drop(self) -> None:
        """End all sessions and bans, as a restart does."""
        self._open.clear()
        self._failures.clear()
        self._banned.clear()

    def renews(self, session: Session) -> bool:
        """Whether a cookie that expires is to be sent again: after a third of its time."""
        if not self.timeout or self.clock() - session.told < self.timeout / 3:
            return False
        session.told = self.clock()
        return True

    def end_all(self) -> None:
        """End all sessions; bans stay."""
        self._open.clear()

    def banned(self, peer: str) -> bool:
        """Whether an address may not log in at present."""
        until = self._banned.get(peer)
        if until is None:
            return False
        if self.clock() < until:
            return True
        del self._banned[peer]
        self._failures.pop(peer, None)
        return False

    def ban(self, peer: str, seconds: float) -> None:
        """Let an address log in no more for a while."""
        self._banned[peer] = self.clock() + seconds

    def check(self, peer: str, username: str, password: str) -> bool:
        """Whether a login is right; failures are counted."""
        right = secrets.compare_digest(username.encode(), self.username.encode())
        right &= secrets.compare_digest(password.encode(), self.password.encode())
        if right:
            self._failures.pop(peer, None)
            return True
        self._failures[peer] = self._failures.get(peer, 0) + 1
        if 0 < self.most_failures <= self._failures[peer]:
            self.ban(peer, self.ban_time)
        return False

    def rotate_key(self) -> str:
        """A new API key; the old one and its session end."""
        self.delete_key()
        letters = string.ascii_letters + string.digits
        self.api_key = KEY_START + "".join(secrets.choice(letters) for _ in range(KEY_LENGTH))
        return self.api_key

    def delete_key(self) -> None:
        """No API key any more."""
        self._open.pop(self.api_key, None)
        self.api_key = ""

"""Sessions of the page: who logged in with a key. Kept in memory only, so that a restart ends them all."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

IDLE: Final = 2 * 3600.0
"""Seconds without a request after which a session ends; an open page asks all the time."""

LONGEST: Final = 24 * 3600.0
"""Seconds after which a session ends in any case."""

MOST_SESSIONS: Final = 64
"""One more ends the one that was idle longest; a seedbox has few people."""

SECRET_BYTES: Final = 32


@dataclass(slots=True, repr=False)
class Session:
    """One login."""

    role: str
    """The key that was shown: api_key or read_key."""
    csrf: str
    """What a request that changes something must show in X-CSRF-Token; a page elsewhere cannot read it."""
    began: float
    used: float

    def is_ours(self, csrf: str) -> bool:
        """Whether the token is that of this session; constant time."""
        return hmac.compare_digest(csrf.encode(errors="replace"), self.csrf.encode())


class Sessions:
    """The sessions of one service. Tokens are kept as digests: their comparison says nothing by its time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, role: str) -> tuple[str, Session]:
        """A new session and its token."""
        token, now = secrets.token_urlsafe(SECRET_BYTES), self._clock()
        session = Session(role, secrets.token_urlsafe(SECRET_BYTES), now, now)
        self._sessions[_digest(token)] = session
        if len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return token, session

    def find(self, token: str) -> Session | None:
        """The session of a token, unless it has ended; counts as use."""
        session = self.peek(token)
        if session is not None:
            session.used = self._clock()
            self._sessions.move_to_end(_digest(token))
        return session

    def peek(self, token: str) -> Session | None:
        """The same, and does not count as use."""
        digest, now = _digest(token), self._clock()
        session = self._sessions.get(digest)
        if session is None:
            return None
        if now - session.used >= IDLE or now - session.began >= LONGEST:
            del self._sessions[digest]
            return None
        return session

    def end(self, token: str) -> None:
        """Log out."""
        self._sessions.pop(_digest(token), None)

    def clear(self) -> None:
        """End all."""
        self._sessions.clear()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()

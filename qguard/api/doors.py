"""The doors of one service: the rules in force, wrong keys so far, sessions."""

import math
from collections.abc import Callable, Mapping

import structlog

from qguard.answers import RequestError
from qguard.api.access import OPENERS, SAFE, Access, Need, Peer, shown_key
from qguard.api.attempts import MOST_FAILURES, Attempts
from qguard.api.sessions import Session, Sessions

CSRF_HEADER = "x-csrf-token"

log = structlog.get_logger("qguard")


class TooManyFailuresError(RequestError):
    """An address showed too many wrong keys; `retry_after` in whole seconds."""

    def __init__(self, seconds: float) -> None:
        self.retry_after = max(1, math.ceil(seconds))
        super().__init__(
            "too_many_failures",
            f"{MOST_FAILURES} wrong keys came from this address within a minute",
            f"try again in {self.retry_after} s",
            429,
        )


class Doors:
    """Lets callers in.

    Args:
        rules: gives the rules in force; asked at every request, so that a reload takes effect at once.
    """

    def __init__(
        self, rules: Callable[[], Access], *, sessions: Sessions | None = None, attempts: Attempts | None = None
    ) -> None:
        self._rules = rules
        self._keys = rules().keys
        self.sessions = Sessions() if sessions is None else sessions
        self.attempts = Attempts() if attempts is None else attempts

    @classmethod
    def fixed(cls, access: Access) -> "Doors":
        """Doors whose rules never change."""
        return cls(lambda: access)

    @property
    def access(self) -> Access:
        """The rules in force. Other keys than before end all sessions."""
        access = self._rules()
        if access.keys != self._keys:
            self._keys = access.keys
            self.sessions.clear()
        return access

    def admit(
        self,
        peer: Peer,
        headers: Mapping[str, str],
        need: Need,
        *,
        method: str = "POST",
        field_key: str = "",
        session: Session | None = None,
    ) -> str:
        """Who calls, for the ledger.

        Args:
            peer: where the request comes from.
            headers: lower-case names.
            need: what the endpoint asks for.
            method: with a session, any but GET and HEAD must show the session's token.
            field_key: a key from a hook's body, used when the headers have none.
            session: what the cookie stands for.

        Raises:
            RequestError: nobody who may.
        """
        key = shown_key(headers) or field_key.encode(errors="replace")
        if need is Need.NOTHING:
            return peer.address
        if key:
            name = self.check_key(peer, key, need)
            return name if name == "command" else f"{name} from {peer.address}"
        if session is not None and need is not Need.HOOK:
            return self._of_session(peer, headers, need, method, session)
        if self.access.opens_without_key(peer, need):
            return peer.address
        raise RequestError("no_key", "a key is needed", "send it as X-API-Key or Authorization: Bearer", 401)

    def check_key(self, peer: Peer, key: bytes, need: Need) -> str:
        """Whose key this is.

        Raises:
            RequestError: nobody's, too many were wrong before, or it does not open this door.
        """
        name = self.access.holder(key)
        if name == "command":  # not to be guessed, and commands must work while something here retries a wrong key
            return name
        if wait := self.attempts.wait(peer.address):
            raise TooManyFailuresError(wait)
        if name is None:
            if self.attempts.failed(peer.address):
                log.warning(f"{MOST_FAILURES} wrong keys came from {peer.address} within a minute: it has to wait")
            raise RequestError("bad_key", "this key opens nothing", "check the key", 401)
        if name not in OPENERS[need]:
            raise RequestError("not_allowed", f"server.{name} does not open this door", "use server.api_key", 403)
        return name

    def is_open(self, peer: Peer, need: Need, *, key: bytes, token: str) -> bool:
        """Whether a caller who was let in would be so now. Asking is no use of a session, and no try of a key.

        Args:
            peer: where the request came from.
            need: what was asked for.
            key: that was shown, empty for none.
            token: of the session, empty for none.
        """
        access = self.access  # first: other keys end sessions
        if key:
            return access.holder(key) in OPENERS[need]
        session = self.sessions.peek(token) if token else None
        if session is not None:
            return need is not Need.ALL or session.role == "api_key"
        return access.opens_without_key(peer, need)

    @staticmethod
    def _of_session(peer: Peer, headers: Mapping[str, str], need: Need, method: str, session: Session) -> str:
        if need is Need.ALL and session.role != "api_key":
            raise RequestError("read_only", "this session may only look", "log in with server.api_key", 403)
        if method not in SAFE and not session.is_ours(headers.get(CSRF_HEADER, "")):
            raise RequestError(
                "bad_csrf_token", "the session's token is missing", "send what GET /session gives as X-CSRF-Token", 403
            )
        return f"{session.role} session from {peer.address}"

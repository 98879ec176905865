"""The page's login: a key becomes a cookie."""

from html import escape
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from starlette.responses import Response

from qguard.answers import RequestError
from qguard.api.access import Need, Peer
from qguard.api.doors import Doors
from qguard.api.sessions import LONGEST, Session


class LoginBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /login."""

    key: Annotated[str, Meta(description="server.api_key or server.read_key", min_length=1, max_length=1024)]


class SessionAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /login and GET /session: what this browser may do."""

    role: Annotated[str, Meta(description="all or read")]
    csrf_token: Annotated[str, Meta(description="for X-CSRF-Token; empty where no session is needed")] = ""
    login: Annotated[bool, Meta(description="whether a session is used, which POST /logout ends")] = True


class LogoutAnswer(msgspec.Struct, frozen=True):
    """Answer of POST /logout."""

    status: str = "logged out"


LOGIN_KEYS: Final = frozenset({"api_key", "read_key"})


def cookie_name(port: int) -> str:
    """Of the cookie. Browsers share cookies among the ports of a host, and two services may run on one."""
    return f"qguard_session_{port}"


def log_in(doors: Doors, peer: Peer, body: LoginBody) -> tuple[str, Session]:
    """A new session and its token.

    Raises:
        RequestError: the key is wrong, or there is nothing to log in to.
    """
    access = doors.access
    if access.api_key is None and access.read_key is None:
        raise RequestError("no_key_set", "no key is configured, so there is no login", "set server.api_key", 409)
    role = doors.check_key(peer, body.key.encode(errors="replace"), Need.READ)
    if role not in LOGIN_KEYS:
        raise RequestError("bad_key", "this key does not log in", "use server.api_key or server.read_key", 401)
    return doors.sessions.begin(role)


def describe(who: str, session: Session | None) -> SessionAnswer:
    """What a browser may do, for a caller who was let in as `who`."""
    role = "read" if who.startswith("read_key") else "all"
    return SessionAnswer(role, session.csrf if session else "", login=session is not None)


def set_cookie(answer: Response, name: str, token: str, *, secure: bool) -> None:
    """Hand the token over; scripts cannot read it and no other site's page can make a browser send it."""
    answer.set_cookie(name, token, max_age=int(LONGEST), path="/", httponly=True, samesite="strict", secure=secure)


def drop_cookie(answer: Response, name: str, *, secure: bool) -> None:
    """Take it back."""
    answer.delete_cookie(name, path="/", httponly=True, samesite="strict", secure=secure)


def login_page(message: str = "") -> str:
    """A form for the key; no script, no style, nothing from elsewhere.

    The hidden field is for password managers, which keep a password by a user; without a name it is not sent.
    Its referrer policy lets browsers send the form's Origin; under no-referrer, which all answers have, that is "null".

    Args:
        message: why it is shown again.
    """
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="referrer" content="same-origin"><title>qguard</title></head>
<body>
<h1>qguard</h1>
<p role="alert">{escape(message)}</p>
<form method="post" action="/login">
<input autocomplete="username" value="qguard" hidden>
<label>Key (server.api_key or server.read_key)
<input type="password" name="key" autocomplete="current-password" required autofocus></label>
<button>Log in</button>
</form>
</body>
</html>
"""

"""Our narrow view of one qBittorrent: six reads and one write, each a single request.

The requests go through qbittorrent-api on one thread of their own, and so does the decoding: the library is not
thread-safe, and the event loop must not wait for a client that takes seconds to list its torrents. Its retries and
automatic logins are switched off: a retried POST is sent twice, and every retried login counts towards a ban.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
import qbittorrentapi
from qbittorrentapi.exceptions import (
    APIConnectionError,
    HTTPError,
    LoginFailed,
    Unauthorized401Error,
)
from qbittorrentapi.exceptions import HTTP403Error as Forbidden
from requests.exceptions import ChunkedEncodingError

from allocators.base import MAX_LIMIT, MIN_LIMIT
from qguard.qbittorrent import decode
from qguard.qbittorrent.errors import BadAnswerError, ClientError, LoginRefusedError, UnreachableError
from qguard.qbittorrent.thread import EndedError, WorkThread
from qguard.snapshot import UNLIMITED, Torrents

T = TypeVar("T")

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for the TCP connection alone; the answer may take the configured timeout."""

LOGOUT_TIMEOUT: Final = 2.0
"""Seconds for the logout at the end, which is a courtesy."""

LOGIN_PAUSE: Final = 3600.0
"""Seconds without another login after a refused one. qBittorrent bans an address for an hour after five."""

Occasion = Literal["added", "finished"]
"""When qBittorrent runs an external program."""

AUTORUN: Final[dict[Occasion, tuple[str, str]]] = {
    "added": ("autorun_on_torrent_added_enabled", "autorun_on_torrent_added_program"),
    "finished": ("autorun_enabled", "autorun_program"),
}
"""The settings of each: the switch, and the program."""

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Address:
    """Where qBittorrent is and how to log in there."""

    url: str
    """http(s)://host:port and perhaps a path."""
    username: str | None = None
    password: str | None = None
    api_key: str | None = None
    """qBittorrent 5.2 and later; used instead of user name and password."""
    verify_tls: bool | str = True
    """False, or the path of a CA bundle."""
    timeout: float = 30.0
    """Seconds an answer may take."""


@dataclass(frozen=True, slots=True)
class ClientVersion:
    """What answered."""

    app: str
    """As it calls itself, "v4.5.2"."""
    api: str
    """Web API version, "2.8.19"."""
    refresh_interval: float
    """Seconds between two updates of the client's own counters; reading more often shows nothing new."""


class TorrentClient(Protocol):
    """What qguard needs of a BitTorrent client."""

    requests: int
    """How many requests were sent so far."""
    sessions: int
    """Grows whenever a login or a lost connection may mean that the client was restarted."""

    async def version(self) -> ClientVersion:
        """Who answers; asked once per session."""
        ...

    async def torrents(self) -> Torrents:
        """All torrents. The expensive reading: 0.1 to 0.2 ms of the client's main thread for each."""
        ...

    async def active_torrents(self) -> Torrents:
        """Torrents that up- or download now, complete rows; costs the client what those alone cost."""
        ...

    async def named_torrents(self, infohash: Sequence[str]) -> Torrents:
        """These torrents, of those that are there; costs the client what those alone cost."""
        ...

    async def other_listing(self) -> frozenset[str]:
        """Info-hashes of all torrents by another way, to confirm a listing that is hard to believe."""
        ...

    async def aliases(self) -> dict[str, str]:
        """The v1 hash of each hybrid torrent -> the ID it goes by. As expensive as a full listing."""
        ...

    async def limits(self, infohash: Sequence[str]) -> dict[str, int]:
        """Upload limits now: bytes/s, 0 for none, -1 for torrents that are gone."""
        ...

    async def transfer(self) -> decode.TransferInfo:
        """Rates and limits of the client as a whole."""
        ...

    async def details(self, infohash: str) -> decode.TorrentDetails | None:
        """What other programs are told about a torrent; None when it is not there."""
        ...

    async def preferences(self) -> decode.Preferences:
        """The few settings of the client that we read."""
        ...

    async def alternative_speed(self) -> bool:
        """Whether the alternative speed mode is on."""
        ...

    async def set_program(self, on: Occasion, program: str, *, enabled: bool) -> None:
        """Set the external program of one occasion, and no other setting."""
        ...

    async def set_limit(self, infohash: Sequence[str], limit: int) -> None:
        """Set one limit, 1 to 2147483646 bytes/s, on these torrents. Unknown ones are skipped silently."""
        ...

    async def remove_limit(self, infohash: Sequence[str]) -> None:
        """Take the limit off these torrents."""
        ...

    async def close(self) -> None:
        """Log out and drop the connection."""
        ...


class _Session(qbittorrentapi.Client):
    """qbittorrent-api without its retries, automatic logins, environment proxies and netrc."""

    @property
    def _session(self) -> Any:  # noqa: ANN401 - a private class of the library
        session = super()._session
        session.trust_env = False  # HTTP_PROXY breaks loopback; a netrc entry replaces the API key by Basic auth
        return session

    def _auth_request(self, http_method: str, api_namespace: Any, api_method: str, **kwargs: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        return self._once(http_method, api_namespace, api_method, **kwargs)

    def _request_manager(self, http_method: str, api_namespace: Any, api_method: str, **kwargs: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
        return self._once(http_method, api_namespace, api_method, **kwargs)

    def _once(self, http_method: str, api_namespace: Any, api_method: str, **kwargs: Any) -> Any:  # noqa: ANN401
        for ours in ("version_introduced", "version_removed", "_retries", "_retry_backoff_factor"):
            kwargs.pop(ours, None)
        return self._request(http_method, api_namespace, api_method, **kwargs)

    def raw(self, namespace: str, method: str, **data: Any) -> bytes:  # noqa: ANN401 - form fields
        """One POST, its answer as it came."""
        answer: bytes = self._once("post", namespace, method, data=data, response_class=bytes)
        return answer

    def use_only(self, address: "Address") -> None:
        """Take back what the library read from QBITTORRENTAPI_* variables to fill in what the address leaves open."""
        self.username, self._password = address.username or "", address.password or ""
        self._api_key = address.api_key or ""

    def session_id(self) -> str:
        """All cookies of the session; they change when the client was restarted."""
        return repr(sorted(self._session.cookies.items()))


class QbittorrentClient:
    """`TorrentClient` over the Web API of a real qBittorrent (or of anything that speaks it)."""

    def __init__(self, address: Address, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = 0
        self.sessions = 0
        self._address = address
        self._clock = clock
        self._thread = WorkThread("qbittorrent")
        self._version: ClientVersion | None = None
        self._refused: tuple[float, str] | None = None
        self._logged_in = False
        self._cookies = ""
        headers = {"Accept-Encoding": "identity"} if urlsplit(address.url).hostname in LOOPBACK else {}
        self._api = _Session(
            host=address.url,
            username=address.username or "",
            password=address.password or "",
            api_key=address.api_key or None,
            EXTRA_HEADERS=headers,
            FORCE_SCHEME_FROM_HOST=True,  # no HEAD requests to find the scheme out
            VERIFY_WEBUI_CERTIFICATE=address.verify_tls is not False,  # what is unverified by order needs no warning
            REQUESTS_ARGS={
                "timeout": (min(CONNECT_TIMEOUT, address.timeout), address.timeout),
                "verify": address.verify_tls,
            },
            HTTPADAPTER_ARGS={"max_retries": 0},
        )
        self._api.use_only(address)

    async def version(self) -> ClientVersion:
        """Log in where needed and see who answers."""
        if self._version is None:
            app = await self._call(lambda api: api.raw("app", "version").decode())
            web_api = await self._call(lambda api: api.raw("app", "webapiVersion").decode())
            wishes = await self.preferences()
            self._version = ClientVersion(app.strip(), web_api.strip(), wishes.refresh_interval / 1000)
        return self._version

    async def torrents(self) -> Torrents:
        """All torrents."""
        return await self._call(lambda api: decode.torrents(api.raw("torrents", "info")))

    async def active_torrents(self) -> Torrents:
        """Torrents that up- or download now."""
        return await self._call(lambda api: decode.torrents(api.raw("torrents", "info", filter="active")))

    async def named_torrents(self, infohash: Sequence[str]) -> Torrents:
        """These torrents, of those that are there."""
        hashes = "|".join(infohash)
        return await self._call(lambda api: decode.torrents(api.raw("torrents", "info", hashes=hashes)))

    async def other_listing(self) -> frozenset[str]:
        """Info-hashes of all torrents, from the sync interface."""
        return await self._call(lambda api: decode.main_data_hashes(api.raw("sync", "maindata", rid=0)))

    async def aliases(self) -> dict[str, str]:
        """The v1 hash of each hybrid torrent -> the ID it goes by."""
        return await self._call(lambda api: decode.aliases(api.raw("torrents", "info")))

    async def limits(self, infohash: Sequence[str]) -> dict[str, int]:
        """Upload limits now; fresh even where torrents/info lags by a refresh."""
        if not infohash:
            return {}
        hashes = "|".join(infohash)
        return await self._call(lambda api: decode.limits(api.raw("torrents", "uploadLimit", hashes=hashes)))

    async def transfer(self) -> decode.TransferInfo:
        """Rates and limits of the client as a whole."""
        return await self._call(lambda api: decode.transfer_info(api.raw("transfer", "info")))

    async def details(self, infohash: str) -> decode.TorrentDetails | None:
        """What other programs are told about a torrent."""
        return await self._call(lambda api: decode.details(api.raw("torrents", "info", hashes=infohash)))

    async def preferences(self) -> decode.Preferences:
        """The few settings of the client that we read."""
        return await self._call(lambda api: decode.preferences(api.raw("app", "preferences")))

    async def alternative_speed(self) -> bool:
        """Whether the alternative speed mode is on."""
        return await self._call(lambda api: decode.alternative_speed(api.raw("transfer", "speedLimitsMode")))

    async def set_program(self, on: Occasion, program: str, *, enabled: bool) -> None:
        """Set the external program of one occasion; qBittorrent leaves settings that are not named as they are."""
        switch, line = AUTORUN[on]
        wishes = msgspec.json.encode({switch: enabled, line: program}).decode()
        await self._call(lambda api: api.raw("app", "setPreferences", json=wishes))

    async def set_limit(self, infohash: Sequence[str], limit: int) -> None:
        """Set one limit on these torrents.

        Raises:
            ValueError: qBittorrent would take the value for unlimited (I2).
        """
        if not (type(limit) is int and MIN_LIMIT <= limit <= MAX_LIMIT):
            raise ValueError(f"a limit must be a whole number from {MIN_LIMIT} to {MAX_LIMIT} B/s, not {limit!r}")
        await self._write(infohash, limit)

    async def remove_limit(self, infohash: Sequence[str]) -> None:
        """Take the limit off these torrents."""
        await self._write(infohash, UNLIMITED)

    async def _write(self, infohash: Sequence[str], limit: int) -> None:
        await self._call(lambda api: api.raw("torrents", "setUploadLimit", hashes="|".join(infohash), limit=limit))

    async def close(self) -> None:
        """Log out (each session left behind costs the client memory for an hour) and end the thread."""
        if self._logged_in and not self._address.api_key and not self._thread.busy:
            # It may be gone, and the session with it.
            with contextlib.suppress(APIConnectionError, OSError, TimeoutError):
                async with asyncio.timeout(LOGOUT_TIMEOUT):
                    await self._thread.do(lambda: self._api.raw("auth", "logout"))
        self._thread.end()
        self._api._trigger_session_initialization()  # noqa: SLF001 - the library has no public close

    async def _call(self, request: Callable[[_Session], T]) -> T:
        """Send one request; log in first where needed, and once more when the session has ended."""
        self._raise_if_refused()
        try:
            return await self._thread.do(lambda: self._send(request))
        except ClientError:
            raise
        except EndedError:
            where = f"this connection to qBittorrent at {self._address.url}"
            raise UnreachableError(f"{where} was closed, by a new configuration or at the end: try again") from None
        except Forbidden:
            raise self._refuse(self._forbidden_advice()) from None
        except LoginFailed:
            raise self._refuse(
                f"qBittorrent at {self._address.url} refused the login of user {self._address.username!r}: "
                "check qbittorrent.username and password"
            ) from None
        except Unauthorized401Error:
            raise BadAnswerError(
                f"qBittorrent at {self._address.url} rejects the address we use (401): the port must be the one it "
                "listens on itself, or its option 'Enable Host header validation' must be off"
            ) from None
        except HTTPError as error:
            status = getattr(error.response, "status_code", "an error")
            raise BadAnswerError(
                f"{self._address.url} answered {status}; check that it is qBittorrent's Web UI, and its log"
            ) from None
        except ChunkedEncodingError:
            raise BadAnswerError(
                f"the answer of {self._address.url} broke off; nothing is concluded from the part that came"
            ) from None
        except (APIConnectionError, OSError) as error:
            self.sessions += 1
            self._version = None
            raise UnreachableError(
                f"qBittorrent at {self._address.url} does not answer ({_reason(error)}): is it running, and is "
                "qbittorrent.url right?"
            ) from None

    def _send(self, request: Callable[[_Session], T]) -> T:
        """On the client's own thread."""
        fresh = not self._logged_in
        if fresh:
            self._log_in()
        self.requests += 1
        try:
            answer = request(self._api)
        except Forbidden:
            if fresh or not self._address.username or self._address.api_key:
                raise
            self._log_in()
            self.requests += 1
            answer = request(self._api)
        cookies = self._api.session_id()
        if cookies != self._cookies:
            self._cookies = cookies
            self.sessions += 1
        return answer

    def _log_in(self) -> None:
        if self._address.username and not self._address.api_key:
            self.requests += 1
            self._api.auth_log_in()
        self._logged_in = True

    def _raise_if_refused(self) -> None:
        if self._refused is None:
            return
        since, why = self._refused
        if self._clock() - since < LOGIN_PAUSE:
            raise LoginRefusedError(why)
        self._refused = None

    def _refuse(self, why: str) -> LoginRefusedError:
        # The same words every time, so that a log does not repeat them.
        why += f" (no further login for {LOGIN_PAUSE / 60:.0f} min, or until the configuration changes)"
        self._refused = (self._clock(), why)
        self._logged_in = False
        return LoginRefusedError(why)

    def _forbidden_advice(self) -> str:
        where = f"qBittorrent at {self._address.url}"
        if self._address.api_key:
            return f"{where} refused the API key (403): check qbittorrent.api_key; keys need qBittorrent 5.2 or later"
        if self._address.username:
            return (
                f"{where} forbids us (403): our address may be banned after failed logins (wait, or restart it), or a "
                "session cookie marked secure does not come back over plain http"
            )
        return f"{where} asks for a login (403): set qbittorrent.username and password, or api_key"


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words, without addresses or object representations."""
    text = str(error)
    for sign, words in (
        ("refused", "connection refused"),
        ("ead timed out", "no answer in time"),
        ("timed out", "no connection in time"),
        ("Name or service", "unknown host name"),
        ("resolve", "unknown host name"),
        ("CERTIFICATE", "its TLS certificate cannot be verified"),
        ("SSL", "TLS failed"),
        ("reset", "connection reset"),
        ("closed connection", "connection closed without an answer"),
    ):
        if sign in text:
            return words
    return type(error).__name__

"""Who may call: the rules of the HTTP interface, as pure functions of a configuration and a request.

/health is open. Everything else needs a key, except from this machine itself while no key is configured, and hooks
from private addresses while no hook key is. Commands on this machine use a token of the running service, kept in the
lock file that only its user can read.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from qguard.addresses import Address, is_loopback, is_neighbour, parse
from qguard.answers import RequestError

__all__ = [
    "FORWARDED",
    "FORWARDING",
    "OPENERS",
    "SAFE",
    "Access",
    "Need",
    "Peer",
    "is_direct",
    "is_loopback",
    "is_neighbour",
    "names",
    "network",
    "parse",
    "shown_key",
]

FORWARDING: Final = frozenset(
    {"forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip", "cf-connecting-ip"}
)
"""Headers that say a request came through a proxy, besides all that begin with `FORWARDED`."""

FORWARDED: Final = "x-forwarded-"

SAFE: Final = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""


class Need(Enum):
    """What a caller must be allowed."""

    NOTHING = "nothing"
    HOOK = "hook"
    READ = "read"
    ALL = "all"


OPENERS: Final[Mapping[Need, frozenset[str]]] = {
    Need.NOTHING: frozenset({"command", "api_key", "read_key", "hook_key"}),
    Need.HOOK: frozenset({"command", "api_key", "hook_key"}),
    Need.READ: frozenset({"command", "api_key", "read_key"}),
    Need.ALL: frozenset({"command", "api_key"}),
}
"""Which keys open what."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Where a request comes from."""

    address: str
    """The caller's, or that of the last proxy where it hides the caller's."""
    known: bool
    """Whether the address is the caller's."""
    direct: bool
    """Whether nothing hints at a proxy in between."""
    named: bool = False
    """Whether a trusted proxy said that this is the caller's address."""
    secure: bool = False
    """Whether the caller came over https, as a trusted proxy says."""
    host: str = ""
    """The name the caller used, as a trusted proxy says."""


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """The rules of one configuration."""

    token: str
    """For commands on this machine."""
    api_key: str | None = None
    """Opens everything. Configured, or generated when we can be reached from elsewhere without one."""
    read_key: str | None = None
    """Opens what only looks."""
    hook_key: str | None = None
    """Opens POST /webhook."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names by which we may be called, besides addresses and names without a dot."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks of proxies whose forwarding headers name the caller."""

    @property
    def keys(self) -> tuple[str | None, ...]:
        """All that is configured; sessions end when it changes."""
        return self.api_key, self.read_key, self.hook_key

    def peer(self, address: str, headers: Mapping[str, str], *, http_version: str = "1.1") -> Peer:
        """Where a request comes from.

        Args:
            address: of the other end of the connection.
            headers: lower-case names; repeated ones joined by commas.
            http_version: as in "1.1".
        """
        if not _is_forwarded(headers):
            return Peer(address, known=True, direct=is_direct(address, headers, http_version))
        if not self._is_trusted(address):
            return Peer(address, known=False, direct=False)
        secure = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower() == "https"
        host = headers.get("x-forwarded-host", "").rpartition(",")[2].strip()
        # Right to left: each hop was written by the proxy after it, so only what trusted ones wrote can be believed.
        for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
            caller = _hop(hop)
            if caller is None:
                break
            if not self._is_trusted(str(caller)):
                return Peer(str(caller), known=True, direct=False, named=True, secure=secure, host=host)
        return Peer(address, known=False, direct=False, secure=secure, host=host)

    def holder(self, key: bytes) -> str | None:
        """Whose key this is: command, api_key, read_key or hook_key; None when it is nobody's."""
        secrets = {
            "command": self.token,
            "api_key": self.api_key,
            "read_key": self.read_key,
            "hook_key": self.hook_key,
        }
        # All are compared, as digests in constant time, so that the time says neither which nor how much of it fits.
        shown = hashlib.sha256(key).digest()
        fits = [
            name
            for name, secret in secrets.items()
            if hmac.compare_digest(shown, hashlib.sha256((secret or "").encode()).digest()) and secret
        ]
        return fits[0] if fits else None

    def opens_without_key(self, peer: Peer, need: Need) -> bool:
        """Whether this caller needs no key."""
        here = peer.direct and is_loopback(peer.address)
        if need is Need.HOOK:
            # Loopback is a neighbour of everybody's proxy on this machine, and counts only as this machine itself.
            near = is_neighbour(peer.address) and not is_loopback(peer.address) and (peer.direct or peer.named)
            return self.hook_key is None and peer.known and (here or near)
        return need is Need.NOTHING or (here and self.api_key is None)

    def _is_trusted(self, address: str) -> bool:
        found = parse(address)
        return found is not None and any(
            found in ipaddress.ip_network(network, strict=False) for network in self.trusted_proxies
        )

    def check_host(self, host: str) -> None:
        """Refuse a Host header that cannot be meant for us: a page elsewhere can make a browser send it (rebinding).

        Raises:
            RequestError: not a name of ours.
        """
        name = _hostname(f"//{host}")
        if not (name in self.allowed_hosts or (bool(name) and "." not in name) or parse(name) is not None):
            raise RequestError(
                "unknown_host",
                "this is not a name of ours",
                "call us by address, or add the name to server.allowed_hosts",
            )

    @staticmethod
    def check_origin(headers: Mapping[str, str], peer: Peer, method: str) -> None:
        """Refuse what a browser sends for a page of somebody else, save for following a link to us.

        Raises:
            RequestError: it comes from another origin.
        """
        site = headers.get("sec-fetch-site", "none")
        other_site = site not in {"same-origin", "none"}
        if method in SAFE:
            if (
                other_site
                and headers.get("sec-fetch-mode") == "navigate"
                and "frame" not in headers.get("sec-fetch-dest", "")
            ):
                return
            other_origin = False  # without CORS headers no page reads the answer, whatever the browser
        else:
            names = {headers.get("host", ""), peer.host} - {""}
            other_origin = "origin" in headers and _netloc(headers["origin"]) not in names
        if other_site or other_origin:
            raise RequestError(
                "other_origin", "this request comes from a page elsewhere", "call from our own pages or by curl", 403
            )


def is_direct(address: str, headers: Mapping[str, str], http_version: str) -> bool:
    """Whether nothing hints at a proxy in between.

    Forwarding headers do; and HTTP/1.0, which nginx speaks without adding one, unless told otherwise; and, over
    loopback, a name that leads elsewhere: a proxy handed on what its own caller wrote.
    """
    renamed = is_loopback(address) and not _is_local_name(headers.get("host", ""))
    return not _is_forwarded(headers) and http_version != "1.0" and not renamed


def _is_forwarded(headers: Iterable[str]) -> bool:
    return any(name in FORWARDING or name.startswith(FORWARDED) for name in headers)


def shown_key(headers: Mapping[str, str]) -> bytes:
    """The key that a request shows in its headers, empty for none; the bytes that were sent."""
    value = headers.get("x-api-key", "")
    if not value:
        scheme, _, rest = headers.get("authorization", "").partition(" ")
        value = rest.strip() if scheme.lower() == "bearer" else ""
    return value.encode("latin-1", "replace")  # what HTTP headers are decoded with


def network(address: str) -> str:
    """What one caller has to itself: an IPv4 address, or an IPv6 network of 64 bits."""
    found = parse(address)
    if found is None or found.version == 4:
        return str(found or address)
    return f"{int(found) >> 64:x}"


def names(hosts: Iterable[str]) -> tuple[str, ...]:
    """Host names in lower case."""
    return tuple(host.lower() for host in hosts)


def _hop(text: str) -> Address | None:
    """One hop of X-Forwarded-For: an address, perhaps with brackets or a port."""
    text = text.strip()
    return parse(text) or parse(_hostname(f"//{text}"))


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_local_name(host: str) -> bool:
    """Whether a Host header calls this machine as its own programs do; an empty one is refused elsewhere."""
    name = _hostname(f"//{host}")
    found = parse(name)
    return "." not in name if found is None else found.is_loopback or found.is_unspecified


def _netloc(url: str) -> str:
    try:
        return urlsplit(url).netloc
    except ValueError:
        return ""

"""Who may call: the doors of the HTTP interface.

/health is open. Everything else needs a key, except from this machine itself while no key is configured, and hooks
from private addresses while no hook key is. Commands on this machine use a token of the running service, kept in the
lock file that only its user can read.
"""

import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

from qguard.answers import RequestError

FORWARDING: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
"""Headers that say a request came through a proxy: its address is then not the caller's."""


class Need(Enum):
    """What a caller must be allowed."""

    NOTHING = "nothing"
    HOOK = "hook"
    READ = "read"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one service."""

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

    def caller(self, address: str, headers: Mapping[str, str], need: Need, *, field_key: str = "") -> str:
        """Who calls, for the ledger.

        Raises:
            RequestError: nobody who may.
        """
        forwarded = any(name in headers for name in FORWARDING)
        if forwarded and self._is_trusted(address):
            address = headers.get("x-forwarded-for", "").split(",")[-1].strip() or address
        key = _key(headers) or field_key
        if need is Need.NOTHING:
            return address
        if key:
            return self._holder(key, address, need)
        if is_loopback(address) and not forwarded and self._open_here(need):
            return address
        if need is Need.HOOK and self.hook_key is None and is_private(address) and not forwarded:
            return address
        raise RequestError("no_key", "a key is needed", "send it as X-API-Key or Authorization: Bearer", 401)

    def _holder(self, key: str, address: str, need: Need) -> str:
        opens = {"command": self.token, "api_key": self.api_key}
        if need is Need.READ:
            opens["read_key"] = self.read_key
        if need is Need.HOOK:
            opens["hook_key"] = self.hook_key
        # All are compared, in constant time each, so that the time says nothing.
        fits = [n for n, secret in opens.items() if secrets.compare_digest(key.encode(), (secret or "").encode())]
        found = next((name for name in fits if opens[name]), None)
        if found is None:
            raise RequestError("bad_key", "this key does not open this door", "check the key", 401)
        return found if found == "command" else f"{found} from {address}"

    def _open_here(self, need: Need) -> bool:
        """Whether this machine itself needs no key."""
        if need is Need.HOOK:
            return self.hook_key is None
        return self.api_key is None

    def _is_trusted(self, address: str) -> bool:
        try:
            caller = ipaddress.ip_address(address)
            return any(caller in ipaddress.ip_network(network, strict=False) for network in self.trusted_proxies)
        except ValueError:
            return False

    def check_host(self, host: str) -> None:
        """Refuse a Host header that cannot be meant for us: a page elsewhere can make a browser send it (rebinding).

        Raises:
            RequestError: not a name of ours.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            name = ""
        ours = name in self.allowed_hosts or (bool(name) and "." not in name) or _is_address(name)
        if not ours:
            raise RequestError(
                "unknown_host", "this is not a name of ours", "call us by address, or add it to server.allowed_hosts"
            )

    @staticmethod
    def check_origin(headers: Mapping[str, str]) -> None:
        """Refuse what a browser sends for a page of somebody else.

        Raises:
            RequestError: it comes from another origin.
        """
        origin = headers.get("origin")
        other = origin is not None and urlsplit(origin).netloc != headers.get("host", "")
        if other or headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}:
            raise RequestError(
                "other_origin", "this request comes from a page elsewhere", "call from the same origin", 403
            )


def _key(headers: Mapping[str, str]) -> str:
    if "x-api-key" in headers:
        return headers["x-api-key"]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def is_loopback(address: str) -> bool:
    """Whether an address, or the name localhost, is this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_private(address: str) -> bool:
    """Whether an address is of a private network or of this machine."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_private or found.is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def names(hosts: Iterable[str]) -> tuple[str, ...]:
    """Host names in lower case."""
    return tuple(host.lower() for host in hosts)

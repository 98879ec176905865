"""Who may call: the doors of the HTTP interface.

/health is open. Everything else needs a key, except from this machine itself while no key is configured. Commands on
this machine use a token of the running service, kept in the lock file that only its user can read.
"""

import ipaddress
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

FORWARDING = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")
"""Headers that say a request came through a proxy: its address is then not the caller's."""


@dataclass(frozen=True, slots=True)
class Access:
    """The rules of one service."""

    token: str
    """For commands on this machine."""
    api_key: str | None = None
    """Configured, or generated when bound beyond loopback without one."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names by which we may be called, besides addresses and names without a dot."""

    def caller(self, address: str, headers: Mapping[str, str]) -> str | None:
        """Who calls, for the ledger; None when that is nobody who may."""
        key = _key(headers)
        if key is not None:
            if secrets.compare_digest(key.encode(), self.token.encode()):
                return "command"
            if self.api_key is not None and secrets.compare_digest(key.encode(), self.api_key.encode()):
                return f"api_key from {address}"
            return None
        direct = is_loopback(address) and not any(name in headers for name in FORWARDING)
        return f"{address}" if direct and self.api_key is None else None

    def host_is_ours(self, host: str) -> bool:
        """Whether a Host header can be meant for us: a page elsewhere can make a browser send others (rebinding)."""
        name = (urlsplit(f"//{host}").hostname or "").lower()
        if name in self.allowed_hosts or ("." not in name and ":" not in name):
            return bool(name)
        return _is_address(name)

    @staticmethod
    def same_origin(headers: Mapping[str, str]) -> bool:
        """Whether a browser says that the request comes from a page of ours (or it is not a browser)."""
        origin = headers.get("origin")
        return origin is None or urlsplit(origin).netloc == headers.get("host", "")


def _key(headers: Mapping[str, str]) -> str | None:
    if "x-api-key" in headers:
        return headers["x-api-key"]
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def is_loopback(address: str) -> bool:
    """Whether an address, or the name localhost, is this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def names(hosts: Iterable[str]) -> tuple[str, ...]:
    """Host names in lower case."""
    return tuple(host.lower() for host in hosts)

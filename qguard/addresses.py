"""Which addresses are this machine, and which are near. The door and the hook line go by the same list."""

import ipaddress
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PRIVATE: Final = tuple(
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")
)
"""Where a neighbour may be. Named one by one: `is_private` also holds for what is reserved."""


def parse(address: str) -> Address | None:
    """An IP address; an IPv4 one that came in over an IPv6 socket is the IPv4 one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_loopback(address: str) -> bool:
    """Whether an address, or the name localhost, is this machine."""
    found = parse(address)
    return address == "localhost" if found is None else found.is_loopback


def is_neighbour(address: str) -> bool:
    """Whether an address is of a private network or of this machine."""
    found = parse(address)
    return found is not None and (found.is_loopback or any(found in network for network in PRIVATE))

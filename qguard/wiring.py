"""The neighbours that a configuration describes: its client, its secrets, its own address."""

import resource
from pathlib import Path

from qguard import embedded
from qguard.config import Settings, secret_values
from qguard.qbittorrent.client import Address, QbittorrentClient, TorrentClient
from qguard.redact import Redactor


def make_client(settings: Settings) -> TorrentClient:
    """The client of a configuration."""
    q = settings.qbittorrent
    if q.is_embedded:
        return QbittorrentClient(Address(url=embedded.url(_hosts(settings)), timeout=q.timeout))
    return QbittorrentClient(
        Address(
            url=q.base_url,
            username=q.username,
            password=q.secret_password,
            api_key=q.secret_api_key,
            verify_tls=q.verify_tls if isinstance(q.verify_tls, bool) else str(q.verify_tls),
            timeout=q.timeout,
        )
    )


def _hosts(settings: Settings) -> list[tuple[str, int | None]]:
    """An announce host and the cap of each rule, for a client that is simulated."""
    return [
        (rule.match[0] if rule.match else f"{rule.id}.example", rule.max_upload_speed) for rule in settings.trackers
    ]


def redactor_for(settings: Settings, *others: str) -> Redactor:
    """Knows every secret of a configuration, and others that are not in it."""
    own = [settings.qbittorrent.base_url, own_url(settings), settings.server.hook_url or ""]
    return Redactor([*secret_values(settings), *others], filter(None, own))


def own_url(settings: Settings) -> str:
    """Where commands on this machine reach the service."""
    host = settings.global_.host
    if host in {"0.0.0.0", ""}:  # noqa: S104 - comparing, not binding
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http://[{host}]:{settings.global_.port}" if ":" in host else f"http://{host}:{settings.global_.port}"


def resident_mb() -> float:
    """Resident memory of this process, MiB; the peak of it where the system does not tell the present."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

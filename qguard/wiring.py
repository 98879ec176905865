"""The neighbours that a configuration describes: its client, its secrets, its own address."""

from qguard.config import Settings, secret_values
from qguard.qbittorrent.client import Address, QbittorrentClient, TorrentClient
from qguard.redact import Redactor


def make_client(settings: Settings) -> TorrentClient:
    """The client of a configuration."""
    q = settings.qbittorrent
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


def redactor_for(settings: Settings) -> Redactor:
    """Knows every secret of a configuration."""
    return Redactor(secret_values(settings), [settings.qbittorrent.base_url, own_url(settings)])


def own_url(settings: Settings) -> str:
    """Where commands on this machine reach the service."""
    host = settings.global_.host
    if host in {"0.0.0.0", ""}:  # noqa: S104 - comparing, not binding
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http://[{host}]:{settings.global_.port}" if ":" in host else f"http://{host}:{settings.global_.port}"

"""qguard keeps each tracker's share of a qBittorrent client's upload under that tracker's cap."""

__version__ = "0.1.0"

"""The only room that talks to qBittorrent."""

"""Real parts for tests: qBittorrent daemons, a tracker, torrents, leechers and a recording proxy, all on loopback."""

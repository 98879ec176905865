"""A simulated qBittorrent: its Web API over a fluid swarm. For trying things out, and for tests at scale."""

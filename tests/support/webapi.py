"""A small client of qBittorrent's Web API, independent of qguard: the witness that tests believe."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpx

from tests.support.ending import Ending


class WebApi(Ending):
    """One logged-in session.

    Args:
        url: address of the Web UI, `http://host:port`.
        username: with `password`, logs in at once; None relies on the bypass for local clients.
        password: see `username`.
        timeout: seconds for one request.
    """

    def __init__(
        self, url: str, username: str | None = None, password: str | None = None, *, timeout: float = 30.0
    ) -> None:
        # trust_env would take a proxy or a netrc entry of the machine into account.
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=timeout)
        if username is not None and password is not None:
            try:
                self.login(username, password)
            except BaseException:
                self.close()
                raise

    def leave(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the session on the server ends by itself."""
        self.http.close()

    def login(self, username: str, password: str) -> None:
        """Log in.

        Raises:
            PermissionError: refused; `Fails.` with 200 before 5.2, 401 or 403 since.
        """
        reply = self.http.post("/api/v2/auth/login", data={"username": username, "password": password})
        if reply.status_code not in {200, 204} or reply.text == "Fails.":
            raise PermissionError(f"qBittorrent refused the login: {reply.status_code} {reply.text!r}")

    def get(self, method: str, **params: str | int) -> httpx.Response:
        """GET /api/v2/`method`; an error status raises `httpx.HTTPStatusError`."""
        return self.http.get(f"/api/v2/{method}", params=params).raise_for_status()

    def post(self, method: str, **form: str | int) -> httpx.Response:
        """POST a form to /api/v2/`method`; an error status raises `httpx.HTTPStatusError`."""
        return self.http.post(f"/api/v2/{method}", data=form).raise_for_status()

    def version(self) -> str:
        """Such as `v4.5.2`."""
        return self.get("app/version").text

    def preferences(self) -> dict[str, Any]:
        """All preferences."""
        answer: dict[str, Any] = self.get("app/preferences").json()
        return answer

    def set_preferences(self, **preferences: Any) -> None:
        """Change preferences of the running daemon, by their Web API names (`max_uploads=4`)."""
        self.post("app/setPreferences", json=json.dumps(preferences))

    def torrents(self, hashes: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Rows of torrents/info by hash: all, or those of `hashes`."""
        form = {} if hashes is None else {"hashes": "|".join(hashes)}
        return {row["hash"]: row for row in self.post("torrents/info", **form).json()}

    def limits(self, hashes: Iterable[str] | None = None) -> dict[str, int]:
        """Upload limit of each torrent in bytes/s; 0 is unlimited."""
        return {name: max(0, row["up_limit"]) for name, row in self.torrents(hashes).items()}

    def uploaded(self, hashes: Iterable[str] | None = None) -> dict[str, int]:
        """Bytes each torrent uploaded in its life."""
        return {name: row["uploaded"] for name, row in self.torrents(hashes).items()}

    def set_limit(self, hashes: Iterable[str], limit: int) -> None:
        """Set the upload limit of torrents, bytes/s; 0 is unlimited."""
        self.post("torrents/setUploadLimit", hashes="|".join(hashes), limit=limit)

    def add(self, files: Sequence[tuple[str, bytes]], options: Mapping[str, str]) -> None:
        """Add torrent files, as (file name, content), in one request; `options` are torrents/add's form fields.

        Raises:
            RuntimeError: qBittorrent refused all of them.
        """
        parts = [("torrents", (name, content, "application/x-bittorrent")) for name, content in files]
        reply = self.http.post("/api/v2/torrents/add", data=dict(options), files=parts)
        if not reply.is_success or reply.text == "Fails.":
            raise RuntimeError(f"qBittorrent refused {len(files)} torrent(s): {reply.status_code} {reply.text!r}")

    def delete(self, hashes: Iterable[str], *, files: bool = False) -> None:
        """Remove torrents, and their content with `files`."""
        self.post("torrents/delete", hashes="|".join(hashes), deleteFiles=str(files).lower())

    def trackers(self, torrent: str) -> list[dict[str, Any]]:
        """Tracker rows of one torrent; status 2 is a tracker that answered."""
        rows: list[dict[str, Any]] = self.get("torrents/trackers", hash=torrent).json()
        return [row for row in rows if not row["url"].startswith("** [")]

"""What a real browser needs, and pages of somebody else for it to visit."""

import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from selenium.webdriver import Chrome

CHROMIUM: Final = Path("/usr/bin/chromium")
DRIVER: Final = Path("/usr/bin/chromedriver")
REMEDY: Final = "run scripts/install-test-parts.sh as root"

SWITCHES: Final = (
    "--headless",
    "--no-sandbox",  # the tests run as root, for whom Chromium has no sandbox
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # A name of somebody else that leads to this machine, as after DNS rebinding; every other name leads nowhere.
    "--host-resolver-rules=MAP rebound.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def unavailable_reason() -> str | None:
    """Why there is no browser here, in one line that says what to do; None when there is one."""
    for program in (CHROMIUM, DRIVER):
        if not program.exists():
            return f"no {program}: {REMEDY}"
    return None


def console(browser: Chrome) -> list[str]:
    """What pages have written to the console since the last call, refusals of the content policy included."""
    return [f"{row['level']}: {row['message']}" for row in browser.get_log("browser")]


class Pages:
    """A web site of somebody else, on another port of this machine.

    Args:
        pages: HTML by path.

    Attributes:
        url: where it is.
    """

    def __init__(self, pages: Mapping[str, str]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = pages.get(self.path, "").encode()
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages of somebody else")
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

"""A plain page that says what can be asked here. No script, no style: it shows under any content policy."""

import re
from collections.abc import Iterable
from html import escape

from qguard.answers import Index
from qguard.api.contract import Endpoint


def index(found: Index, endpoints: Iterable[Endpoint]) -> str:
    """The page for browsers."""
    rows = "\n".join(
        f"<tr><td>{endpoint.method}</td><td>{_link(endpoint)}</td><td>{_words(endpoint.summary)}</td></tr>"
        for endpoint in endpoints
    )
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{escape(found.name)}</title></head>
<body>
<h1>{escape(found.name)} {escape(found.version)}</h1>
<p>{escape(found.description)}</p>
<p>Status: <a href="/health">{escape(found.status)}</a></p>
<p>Client: {escape(found.client or "none has answered yet")}</p>
<table>
<thead><tr><th>Method</th><th>Path</th><th>What it does</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</body>
</html>
"""


def _words(text: str) -> str:
    """Text with names in backticks, as they are written in docstrings."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _link(endpoint: Endpoint) -> str:
    path = escape(endpoint.path)
    plain = endpoint.method == "GET" and "{" not in endpoint.path
    return f'<a href="{path}">{path}</a>' if plain else path

#!/usr/bin/env python3
"""Write what is made from the settings: config/qguard.schema.json and the tables of docs/configuration.md.

Run it after a change in qguard/config; a test fails while its output is stale.
"""

import json
import re
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from qguard.config import (
    CrossSeed,
    Global,
    Logging,
    QBittorrent,
    Rollback,
    Server,
    TrackerRule,
    json_schema,
)

ROOT: Final = Path(__file__).resolve().parent.parent
SCHEMA: Final = ROOT / "config" / "qguard.schema.json"
DOCS: Final = ROOT / "docs" / "configuration.md"
SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "qbittorrent": QBittorrent,
    "global": Global,
    "trackers": TrackerRule,
    "rollback": Rollback,
    "server": Server,
    "logging": Logging,
    "cross_seed": CrossSeed,
}


def schema_text() -> str:
    """The JSON schema as the file has it."""
    return json.dumps(json_schema(), indent=2) + "\n"


def table(model: type[BaseModel]) -> str:
    """The keys of one section as a Markdown table."""
    schema = model.model_json_schema()
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in schema["properties"].items():
        default = "required" if key in schema.get("required", ()) else default_text(field.get("default"))
        rows.append(f"| `{key}` | {default} | {field['description'].replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


def default_text(value: Any) -> str:  # noqa: ANN401  # any JSON value
    """A default as a table cell."""
    if value in (None, [], ()):
        return "none"
    return value if isinstance(value, str) and " " in value else f"`{json.dumps(value).strip(chr(34))}`"


def with_tables(text: str) -> str:
    """`text` with each generated table made anew; they stand between `<!-- table: SECTION -->` and `<!-- end -->`."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{table(SECTIONS[match[2]])}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(), encoding="utf-8")
    DOCS.write_text(with_tables(DOCS.read_text(encoding="utf-8")), encoding="utf-8")

#!/usr/bin/env python3
"""Write docs/openapi.json from the table of endpoints. Run it after a change there; a test fails while it is stale."""

import json
from pathlib import Path
from typing import Final

from qguard.api.endpoints import ENDPOINTS
from qguard.api.openapi import document

FILE: Final = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def text() -> str:
    """The document as the file has it."""
    return json.dumps(document(ENDPOINTS), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")

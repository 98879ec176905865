"""Documentation as a test: each threat names a test that exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
THREATS = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", PAGE, flags=re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROWS = [row for row in THREATS if row[2] != "test" and not row[0].startswith("---")]


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_each_threat_names_a_test_that_exists(row: tuple[str, str, str]) -> None:
    named = NAMED.fullmatch(row[2])
    assert named, f"no test is named: {row[2]}"
    file, name = named.groups()
    tree = ast.parse((ROOT / file).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions, f"{file} has no {name}"


def test_every_row_of_a_table_of_threats_is_seen() -> None:
    tables = PAGE.partition("\n## Threats\n")[2].partition("\n## What is not stopped\n")[0]
    lines = [line for line in tables.splitlines() if line.startswith("| ") and not line.startswith("| threat |")]
    assert len(lines) == len(ROWS) > 40

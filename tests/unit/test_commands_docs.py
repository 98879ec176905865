"""Documentation as a test: no command, option or endpoint that nobody wrote down."""

import re
from pathlib import Path

import click
import pytest

from qguard.cli import cli

ROOT = Path(__file__).parents[2]
COMMANDS = (ROOT / "docs" / "commands.md").read_text()
SECTIONS = {part.split()[1]: part for part in re.split(r"^## ", COMMANDS, flags=re.MULTILINE)[1:]}
COMMON = COMMANDS[: COMMANDS.index("\n## ")]


def test_every_command_has_a_section_and_every_section_a_command() -> None:
    assert set(SECTIONS) == set(cli.commands)


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_option_is_documented(name: str) -> None:
    documented = COMMON + SECTIONS[name]
    for option in cli.commands[name].params:
        if isinstance(option, click.Option):
            assert option.opts[0] in documented, f"`qguard {name} {option.opts[0]}` is not in docs/commands.md"


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    command = cli.commands[name]
    assert command.help
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_links_between_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_guarantee_names_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = dict(re.findall(r"^\| (I\d+) \|.*`(tests/[^`]+)` \|$", page, flags=re.MULTILINE))
    assert list(named) == [f"I{n}" for n in range(1, 13)]
    assert [path for path in named.values() if not (ROOT / path).is_file()] == []

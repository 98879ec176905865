"""The commands. Each one asks the service one thing and shows the answer; nothing is decided here."""

import asyncio
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from qguard import __version__, commands, log, render
from qguard.api.server import StartError, serve
from qguard.commands import BAD_CONFIGURATION, CommandError, load_configuration
from qguard.config import BadValueError, describe_cap, parse_rate
from qguard.config import redacted as redacted_settings
from qguard.ledger import LedgerError
from qguard.log import redact
from qguard.policy import make_matcher
from qguard.questions import match_url
from qguard.rollback import Scope
from qguard.service import Service
from qguard.simulator.command import simulate

WHO: Final = "command"
PIPE_WIDTH: Final = 200
"""Columns when the output is not a terminal."""
LATEST: Final = 1e11
"""Epoch seconds; what lies beyond is no time that anybody means."""

LARGEST_ID: Final = 2**53 - 1
"""Of a row of the ledger; JSON has no larger whole numbers that every program reads alike."""

Show = Callable[[Any, Console], None]


class _Whole(click.IntRange):
    """A whole number, and an error that says which ones there are."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - as click passes it
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(f"{value} is not a whole number from {self.min} to {self.max}", param, ctx)


_config = click.option(
    "--config", "config", type=click.Path(path_type=Path), help="Configuration file instead of the usual places."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
_yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
_reason = click.option("--reason", default="", help="Why, for the ledger.")
_tracker = click.option("--tracker", help="Only this tracker (its id in the configuration).")
_until = click.option("--until", help="Until then: 2h (from now), 2026-01-31, 2026-01-31T12:00 or epoch seconds.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Keep each tracker's share of the upload under that tracker's cap.

    With a running service, commands go through it; without one they do their work themselves.
    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 qBittorrent unreachable, 4 login refused.
    """


cli.add_command(simulate)


def main() -> None:
    """Run a command; every expected failure is one line on stderr and an exit code."""
    log.set_up(level="ERROR")
    try:
        cli.main(standalone_mode=False)
    except CommandError as error:
        _fail(str(error), error.code)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.Abort:
        _fail("not done", commands.FAILED)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(BAD_CONFIGURATION)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "qguard"
        _fail(f"{error.format_message().rstrip('.')}; see `{where} --help`", BAD_CONFIGURATION)


def _fail(words: str, code: int) -> None:
    click.echo(redact(words), err=True)
    sys.exit(code)


@cli.command()
@_config
def run(config: Path | None) -> None:
    """Run the service until it is stopped."""
    loaded = load_configuration(config)
    options = loaded.settings.logging
    try:
        log.set_up(
            level=options.level,
            style=options.format,
            file=options.file,
            max_size_mb=options.max_size_mb,
            backup_count=options.backup_count,
        )
    except OSError as error:
        raise CommandError(f"log file {options.file} cannot be used: {error.strerror}; see logging.file") from None
    try:
        asyncio.run(serve(loaded))
    except (StartError, LedgerError) as error:
        raise CommandError(str(error)) from None


@cli.command()
@_config
@_json
def check(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags so
    """Check the configuration and show what it means."""
    loaded = load_configuration(config)

    def show(answer: Mapping[str, Any], console: Console) -> None:
        console.print(f"{answer['path']}: good")
        for tracker, cap in answer["caps"].items():
            console.print(f"  {tracker}: {cap}")
        for words in answer["warnings"]:
            click.echo(f"warning: {redact(words)}", err=True)

    caps = {rule.id: describe_cap(rule.max_upload_speed) for rule in loaded.settings.trackers}
    answer = {
        "path": str(loaded.path),
        "caps": caps,
        "warnings": list(loaded.warnings),
        "settings": redacted_settings(loaded.settings),
    }
    _show(redact.strings(answer), show, as_json=as_json)


@cli.command()
@_config
@_json
def preview(config: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Show what the next cycle would do, and write nothing.

    With --config beside a running service: what that configuration would do in its place.
    """
    loaded = load_configuration(config)
    remote: tuple[str, str, Mapping[str, Any]] = ("GET", "/preview/next-cycle", {})
    if config is not None:
        remote = ("POST", "/preview/next-cycle", {"config": loaded.path.read_text(encoding="utf-8")})
    _show(commands.ask(loaded, remote, Service.preview), render.preview, as_json=as_json)


@cli.command()
@_config
@_json
@_yes
@_reason
@_tracker
@click.option(
    "--cycle",
    type=_Whole(0, LARGEST_ID),
    help="Undo this cycle (its number in the ledger) and later ones on its torrents.",
)
@click.option("--since", help="Undo everything since: 2h, 3d, 2026-01-31, 2026-01-31T12:00 or epoch seconds.")
@click.option("--force", is_flag=True, help="Also torrents that somebody else changed after qguard.")
@click.option("--dry-run", is_flag=True, help="Only show what would be put back.")
def rollback(
    config: Path | None,
    as_json: bool,  # noqa: FBT001
    yes: bool,  # noqa: FBT001
    reason: str,
    tracker: str | None,
    cycle: int | None,
    since: str | None,
    force: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
) -> None:
    """Put limits back as they were before qguard, and leave them alone until resumed."""
    loaded = load_configuration(config)
    scope = Scope(tracker, cycle, _moment(since))
    if not dry_run:
        _confirm(f"Put back {_words(scope)}?", yes=yes)
    reason = reason or "Manual rollback"
    body = {
        "confirm": True,
        "reason": reason,
        "tracker": scope.tracker,
        "cycle": scope.action,
        "since": scope.since,
        "force": force,
        "dry_run": dry_run,
    }
    answer = commands.ask(
        loaded,
        ("POST", "/rollback", body),
        lambda service: service.rollback(scope, who=WHO, reason=reason, force=force, dry_run=dry_run),
    )
    _show(answer, render.rollback, as_json=as_json)
    if answer["status"] == "incomplete":
        raise CommandError("the rollback is not complete; run it again")


@cli.command()
@_config
@_json
@_reason
@_tracker
@click.argument("percentage", type=_Whole(0, 100))
def rollout(config: Path | None, as_json: bool, reason: str, tracker: str | None, percentage: int) -> None:  # noqa: FBT001
    """Manage this percentage of the torrents; those that leave get their original limit back."""
    answer = commands.ask(
        load_configuration(config),
        ("POST", "/rollout", {"percentage": percentage, "tracker": tracker, "reason": reason}),
        lambda service: service.set_rollout(percentage, tracker=tracker, who=WHO, reason=reason),
    )
    _show(answer, render.rollout, as_json=as_json)


@cli.command()
@_config
@_json
@_reason
@_tracker
@click.option("--for", "period", help="Only for this long: 90s, 30m, 2h, 1d.")
@_until
def pause(
    config: Path | None,
    as_json: bool,  # noqa: FBT001
    reason: str,
    tracker: str | None,
    period: str | None,
    until: str | None,
) -> None:
    """Write nothing any more until resumed; the present limits stay."""
    if period is not None and until is not None:
        raise click.UsageError("--for and --until both say when it ends; give one of them")
    end = _end(until) if period is None else time.time() + _period(period)
    answer = commands.ask(
        load_configuration(config),
        ("POST", "/pause", {"tracker": tracker, "until": end, "reason": reason}),
        lambda service: service.pause(tracker=tracker, until=end, who=WHO, reason=reason),
    )
    _show(answer, render.pause, as_json=as_json)


@cli.command()
@_config
@_json
@_reason
@_tracker
@click.option("--foreign", is_flag=True, help="Also torrents that somebody else changed after qguard.")
@click.option("--hash", "hashes", multiple=True, help="Only this torrent, however it came to be left alone.")
def resume(
    config: Path | None,
    as_json: bool,  # noqa: FBT001
    reason: str,
    tracker: str | None,
    foreign: bool,  # noqa: FBT001
    hashes: tuple[str, ...],
) -> None:
    """Take up again what was paused or rolled back."""
    named = hashes or None  # without the option, all
    answer = commands.ask(
        load_configuration(config),
        ("POST", "/resume", {"tracker": tracker, "foreign": foreign, "hashes": named, "reason": reason}),
        lambda service: service.resume(tracker=tracker, who=WHO, reason=reason, foreign=foreign, hashes=named),
    )
    _show(answer, render.pause, as_json=as_json)


@cli.command()
@_config
@_json
@_reason
@_until
@click.option("--clear", is_flag=True, help="Take the override away: the cap of the configuration holds again.")
@click.argument("tracker")
@click.argument("rate", required=False)
def override(
    config: Path | None,
    as_json: bool,  # noqa: FBT001
    reason: str,
    until: str | None,
    clear: bool,  # noqa: FBT001
    tracker: str,
    rate: str | None,
) -> None:
    """Give a tracker another cap, until a time or until cleared.

    RATE is written as in the configuration: "10 MiB/s", bytes/s, or unlimited.
    """
    if clear == (rate is not None):
        raise click.UsageError("give a RATE or --clear, one of the two")
    if clear and until is not None:
        raise click.UsageError("--until has no meaning with --clear")
    wanted, end = _rate(rate), _end(until)
    answer = commands.ask(
        load_configuration(config),
        ("POST", "/override", {"tracker": tracker, "rate": wanted, "until": end, "reason": reason}),
        lambda service: service.override(tracker, wanted, until=end, who=WHO, reason=reason),
    )
    _show(answer, render.override, as_json=as_json)


@cli.command()
@_config
@_json
@_yes
@click.option(
    "--originals",
    required=True,
    help="as-is, unlimited, or the path of an originals file (beside a running service: in the ledger's folder).",
)
def adopt(config: Path | None, as_json: bool, yes: bool, originals: str) -> None:  # noqa: FBT001
    """Say which limits count as originals, when limits were found that qguard does not know."""
    loaded = load_configuration(config)
    _confirm(f"Take the originals: {originals}?", yes=yes)
    if originals not in {"as-is", "unlimited"}:
        originals = str(Path(originals).resolve())
    answer = commands.ask(
        loaded,
        ("POST", "/adopt", {"originals": originals}),
        lambda service: service.adopt(originals, who=WHO),
    )
    _show(answer, render.adopt, as_json=as_json)


@cli.command()
@_config
@_json
def trackers(config: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """List the announce hosts of the client's torrents and the rules that take them."""
    answer = commands.ask(load_configuration(config), ("GET", "/trackers", {}), Service.trackers)
    _show(answer, render.trackers, as_json=as_json)


@cli.command()
@_config
@_json
@click.argument("url", default="")
@click.option("--category", default="", help="Category of the torrent.")
@click.option("--tags", default="", help="Its tags, separated by comma and space.")
def match(config: Path | None, as_json: bool, url: str, category: str, tags: str) -> None:  # noqa: FBT001
    """Show which rule takes a torrent with this announce URL."""
    settings = load_configuration(config).settings
    answer = commands.to_json(match_url(settings, make_matcher(settings), url, category, tags))
    _show(answer, render.match, as_json=as_json)


@cli.command()
@_config
@_json
@click.argument("infohash", metavar="HASH")
def explain(config: Path | None, as_json: bool, infohash: str) -> None:  # noqa: FBT001
    """Show why a torrent has the limit it has."""
    answer = commands.ask(
        load_configuration(config),
        ("GET", f"/explain/{_hash(infohash)}", {}),
        lambda service: service.explain(infohash),
    )
    _show(answer, render.explain, as_json=as_json)


@cli.command()
@_config
@_json
@_tracker
@click.argument("infohash", metavar="[HASH]", default="")
@click.option("--cycle", type=_Whole(0, LARGEST_ID), help="Only changes of this cycle.")
@click.option(
    "--before",
    type=_Whole(0, LARGEST_ID),
    help="The next page, only smaller ids: of changes with HASH, --tracker or --cycle, of actions without.",
)
@click.option("--limit", type=_Whole(1, 1000), default=50, help="Rows.", show_default=True)
def ledger(
    config: Path | None,
    as_json: bool,  # noqa: FBT001
    tracker: str | None,
    infohash: str,
    cycle: int | None,
    before: int | None,
    limit: int,
) -> None:
    """Show what was done: the latest actions, or the changes of a torrent, tracker or cycle."""
    wanted = {"hash": infohash.lower() or None, "tracker": tracker, "cycle": cycle, "before": before, "limit": limit}
    answer = commands.ask(
        load_configuration(config),
        ("GET", "/ledger", {key: value for key, value in wanted.items() if value is not None}),
        lambda service: service.history(
            infohash=infohash.lower() or None, tracker=tracker, cycle=cycle, before_id=before, limit=limit
        ),
    )
    _show(answer, render.ledger, as_json=as_json)


@cli.group()
def hook() -> None:
    """Have qBittorrent tell of each new torrent at once."""


@hook.command("install")
@_config
@_json
@_reason
@click.option("--finished", is_flag=True, help="Also for finished torrents, which is what cross-seed needs.")
def hook_install(config: Path | None, as_json: bool, reason: str, finished: bool) -> None:  # noqa: FBT001
    """Let qBittorrent run our line; another program that it runs stays."""
    answer = commands.ask(
        load_configuration(config),
        ("POST", "/hook/install", {"finished": finished, "reason": reason}),
        lambda service: service.install_hook(finished=finished, who=WHO, reason=reason),
    )
    _hook_answer(answer, as_json=as_json)
    if answer["status"] == "incomplete":
        raise CommandError("the hook is not installed; see above")


@hook.command("remove")
@_config
@_json
@_reason
def hook_remove(config: Path | None, as_json: bool, reason: str) -> None:  # noqa: FBT001
    """Put back exactly what qBittorrent ran before."""
    answer = commands.ask(
        load_configuration(config),
        ("POST", "/hook/remove", {"reason": reason}),
        lambda service: service.remove_hook(who=WHO, reason=reason),
    )
    _hook_answer(answer, as_json=as_json)
    if answer["status"] == "incomplete":
        raise CommandError("not everything is as it was; see above")


@hook.command("print")
@_config
@_json
def hook_print(config: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Print the lines for pasting, and change nothing."""
    answer = commands.ask(load_configuration(config), ("GET", "/hook", {}), Service.hook_lines)
    _hook_answer(answer, as_json=as_json)


def _hook_answer(answer: Any, *, as_json: bool) -> None:  # noqa: ANN401 - as JSON has it
    def show(answer: Mapping[str, Any], console: Console) -> None:
        render.hook(answer, console)
        for line in answer["lines"]:
            if line["wrapper"]:
                script = Path(line["wrapper"]).read_text(encoding="utf-8")
                click.echo(f"\n# the script {line['wrapper']}\n{script}", nl=False)

    _show(answer, show, as_json=as_json)


@cli.command()
@_config
@_json
def doctor(config: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Look for whatever stands in the way of the caps, and say what to do."""
    answer = commands.ask(load_configuration(config), ("GET", "/doctor", {}), Service.doctor)
    _show(answer, render.doctor, as_json=as_json)
    if answer["status"] == "wrong":
        raise CommandError("something is wrong; see above")


@cli.command()
@_json
def version(as_json: bool) -> None:  # noqa: FBT001
    """Show the version."""
    _show({"version": __version__}, lambda answer, console: console.print(answer["version"]), as_json=as_json)


def _show(answer: Any, show: Show, *, as_json: bool) -> None:  # noqa: ANN401 - as JSON has it
    """Data to stdout."""
    if as_json:
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    show(answer, Console(width=width, highlight=False, markup=False, emoji=False))


def _confirm(question: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this needs a confirmation: add --yes")
    click.confirm(question, abort=True, err=True)


def _words(scope: Scope) -> str:
    parts = [
        f"tracker {scope.tracker}" if scope.tracker else "",
        f"cycle {scope.action} and what came after it" if scope.action is not None else "",
        f"everything since {render.moment(scope.since)}" if scope.since is not None else "",
    ]
    return ", ".join(part for part in parts if part) or "every limit that qguard changed"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if not found:
        raise click.UsageError(f"{text!r} is not a length of time; write 90s, 30m, 2h or 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def _period(text: str) -> float:
    """A length of time from now that ends at a time that there is."""
    seconds = _seconds(text)
    if not 0 < seconds < LATEST - time.time():
        raise click.UsageError(f"{text!r} is no length of time that ends; write 90s, 30m, 2h or 1d, or leave it out")
    return seconds


def _moment(text: str | None, *, ahead: bool = False) -> float | None:
    """A time: a date, epoch seconds, or some length of time ago (`ahead`: from now)."""
    if text is None:
        return None
    try:
        if re.fullmatch(r"\d+(\.\d+)?[smhd]", text.strip().lower()):
            moment = time.time() + (_seconds(text) if ahead else -_seconds(text))
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            moment = float(text)
        else:
            moment = datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        moment = LATEST
    if not 0 <= moment < LATEST:
        raise click.UsageError(f"{text!r} is not a time; write 2h, 3d, 2026-01-31 or 2026-01-31T12:00")
    return moment


def _end(text: str | None) -> float | None:
    """A time to come."""
    end = _moment(text, ahead=True)
    if end is not None and end <= time.time():
        raise click.UsageError(f"--until {text!r} lies in the past; give a later time, or none")
    return end


def _rate(text: str | None) -> int | str | None:
    """A rate as the configuration writes it, where a whole number is no text."""
    if text is None:
        return None
    rate = int(text) if re.fullmatch(r"-?\d{1,20}", text) else text
    try:
        parse_rate(rate)
    except BadValueError as error:
        raise click.UsageError(f"rate {rate!r} {error}") from None
    return rate


def _hash(text: str) -> str:
    text = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,64}", text):
        raise CommandError(
            f"no torrent has the info-hash {text!r}; give the 40 digits that qBittorrent shows as its hash"
        )
    return text

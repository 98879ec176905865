"""Answers as people read them. Takes what JSON has, prints to a console."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

MIB: Final = 2**20
KIB: Final = 2**10
MOST_CHANGES: Final = 15
"""Rows of the list of changes; --json has all."""

Answer = Mapping[str, Any]


def rate(value: float | None) -> str:
    """bytes/s for people, in binary units; None is no cap."""
    if value is None:
        return "no cap"
    if value >= MIB:
        return f"{value / MIB:.2f} MiB/s"
    return f"{value / KIB:.1f} KiB/s" if value >= KIB else f"{value:.0f} B/s"


def limit(value: int | None) -> str:
    """An upload limit, where 0 is none."""
    return "none" if value == 0 else "-" if value is None else rate(value)


def moment(epoch: float | None) -> str:
    """A time of day and date, local."""
    if epoch is None:
        return "never"
    try:
        return datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # of an older ledger, or of a clock gone wild
        return f"{epoch:.0f} s after 1970"


def preview(answer: Answer, console: Console) -> None:
    """Per tracker first, then the largest changes."""
    console.print(
        f"strategy {answer['strategy']}, {answer['torrents_considered']} torrents, "
        f"{answer['proposed_count']} changes in {answer['calls']} calls"
    )
    if not answer["would_write"]:
        console.print(f"nothing would be written: {answer['observe_only']}")
    if answer["unstaged"]:
        console.print(f"{answer['unstaged']} first standing limits are left for the cycles after it")
    if answer["waiting"]:
        console.print(f"{answer['waiting']} small raises wait a while")
    console.print()
    _trackers(answer["tracker_reports"], console)
    for row in answer["tracker_reports"]:
        if row["cap"] is not None and row["not_in_force"]:
            console.print(f"  cap of {row['id']} not in force: {', '.join(row['not_in_force'])}")
    changes = answer["changes"]
    if not changes:
        return
    console.print()
    table = _table("torrent", "name", "tracker", ">from", ">to", ">uploads", "because")
    for change in changes[:MOST_CHANGES]:
        table.add_row(
            change["hash"][:12],
            _short(change["name"]),
            change["tracker"],
            limit(change["old"]),
            limit(change["new"]),
            rate(change["rate"]),
            change["why"],
        )
    console.print(table)
    if len(changes) > MOST_CHANGES:
        console.print(f"... and {len(changes) - MOST_CHANGES} more (--json lists all)")


def _trackers(rows: Iterable[Answer], console: Console) -> None:
    table = _table(
        "tracker",
        ">cap",
        "in force",
        ">uploads",
        ">torrents",
        ">awake",
        ">raised",
        ">lowered",
        ">standing",
        ">back",
        ">unchanged",
    )
    for row in rows:
        capped = row["cap"] is not None
        table.add_row(
            row["id"],
            rate(row["cap"]),
            ("yes" if row["in_force"] else "no") if capped else "-",
            rate(row["rate"]),
            *(str(row[n]) for n in ("torrents", "awake", "raised", "lowered", "standing", "given_back", "unchanged")),
        )
    console.print(table)


def rollback(answer: Answer, console: Console) -> None:
    """What was put back, and what was not."""
    verb = "would be put back" if answer["status"] == "dry-run" else "put back"
    console.print(f"{answer['changes_reversed']} limits {verb}, {answer['already']} were already as before")
    if answer["gone"]:
        console.print(f"{answer['gone']} torrents are gone")
    if answer["failed"]:
        console.print(f"{answer['failed']} did not take their value; run `qguard rollback` again")
    if answer["left_alone"]:
        console.print(f"{len(answer['left_alone'])} left alone, somebody else changed them (--force overrules):")
        table = _table("torrent", ">now", ">before qguard")
        for row in answer["left_alone"]:
            table.add_row(row["hash"], limit(row["limit"]), limit(row["original"]))
        console.print(table)
    if answer["paused"]:
        what = {"*": "everything", "torrents": "these torrents"}.get(answer["paused"], answer["paused"])
        console.print(f"qguard leaves {what} alone until `qguard resume`")


def rollout(answer: Answer, console: Console) -> None:
    """The percentage now."""
    console.print(f"rollout {answer['tracker'] or 'of all trackers'}: {answer['rollout_percentage']} %")


def pause(answer: Answer, console: Console) -> None:
    """What is paused or taken up again."""
    scope = "all trackers" if answer["scope"] == "*" else answer["scope"]
    until = f" until {moment(answer['until'])}" if answer.get("until") else ""
    console.print(f"{answer['status']}: {scope}{until}")
    if answer["resumed_torrents"]:
        console.print(f"{answer['resumed_torrents']} torrents are managed again")


def override(answer: Answer, console: Console) -> None:
    """The cap that holds from now on."""
    until = f" until {moment(answer['until'])}" if answer["until"] else ""
    console.print(f"{answer['status']}: cap of {answer['tracker']} is {answer['cap']}{until}")


def adopt(answer: Answer, console: Console) -> None:
    """Which limits count as originals."""
    console.print(f"originals adopted ({answer['mode']}), {answer['originals']} differ from the present limits")


def trackers(answer: Iterable[Answer], console: Console) -> None:
    """Announce hosts and the rules that take them."""
    table = _table("announce host", ">torrents", ">uploads", "rule")
    for row in answer:
        table.add_row(row["host"], str(row["torrents"]), rate(row["rate"]), ", ".join(row["rules"]))
    console.print(table)


def match(answer: Answer, console: Console) -> None:
    """Which rule takes a URL."""
    console.print(f"{answer['matched_tracker']}: {answer['by']}")
    others = [m for m in answer["matches"] if m["matches"] and m["tracker_id"] != answer["matched_tracker"]]
    for other in others:
        console.print(f"  {other['tracker_id']} matches too: {other['by']}")


def explain(answer: Answer, console: Console) -> None:
    """Why a torrent has its limit."""
    cap = rate(answer["cap"])
    if answer["effective_cap"] not in {None, answer["cap"]}:
        cap += f", at present {rate(answer['effective_cap'])}"
    held = {
        "": "",
        "foreign": f"somebody else set {limit(answer['foreign_limit'])} after qguard",
        "rollback": "rolled back",
    }[answer["held"]]
    state = ("awake" if answer["awake"] else "asleep") + f", uploads {rate(answer['rate'])}"
    rows = {
        "torrent": f"{answer['hash']}  {answer['name']}",
        "rule": f"{answer['tracker']} ({answer['matched_by']})",
        "announce": ", ".join(answer["announce_hosts"]) or "none",
        "state": state + (", still downloading" if answer["downloading"] else ""),
        "cap": f"{cap}, shared by {answer['shared_by']} awake torrents",
        "wants": _wants(answer),
        "score": "" if answer["score"] is None else f"{answer['score']:.2f}",
        "level": "" if answer["level"] is None else f"{rate(answer['level'])}, the most that any torrent here gets",
        "standing": f"{limit(answer['standing_limit'])}, room for {answer['wakeups']} wake-ups at once",
        "rollout": f"bucket {answer['rollout_bucket']} of 100, {answer['rollout_percentage']} % are in: "
        + ("in" if answer["in_rollout"] else "not in"),
        "limit": f"{limit(answer['limit'])}"
        + (f", next {limit(answer['wanted'])}" if answer["wanted"] not in {None, answer["limit"]} else ""),
        "because": answer["why"] + (f"; {answer['conflict']}" if answer["conflict"] else ""),
        "held": held,
        "original": "never touched" if answer["original"] is None else limit(answer["original"]),
        "last write": ""
        if answer["last_written"] is None
        else f"{limit(answer['last_written'])} at {moment(answer['last_written_at'])}, cycle {answer['last_cycle']}",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, words in rows.items():
        if words:
            table.add_row(name, words)
    console.print(table)


def _wants(answer: Answer) -> str:
    """What a torrent is taken to want, where the strategy looks at that."""
    if answer["pressing"]:
        return "any amount: it presses on its limit, or has just woken"
    return "" if answer["claim"] is None else f"{rate(answer['claim'])} at most, as far as its rate tells"


def ledger(answer: Answer, console: Console) -> None:
    """Actions, or the changes that were asked for."""
    if answer["changes"]:
        table = _table(">id", ">cycle", "when", "torrent", "tracker", ">from", ">to", "because", "outcome")
        for row in answer["changes"]:
            table.add_row(
                str(row["id"]),
                str(row["action"]),
                moment(row["at"]),
                row["hash"][:12],
                row["tracker"],
                limit(row["old"]),
                limit(row["new"]),
                row["why"],
                row["outcome"],
            )
        console.print(table)
    elif answer["cycles"]:
        table = _table(">cycle", "when", "what", "who", "reason", "changes")
        for row in answer["cycles"]:
            counts = ", ".join(f"{n} {outcome}" for outcome, n in row["outcomes"].items())
            table.add_row(str(row["id"]), moment(row["at"]), row["kind"], row["who"], row["reason"], counts or "none")
        console.print(table)
    else:
        console.print("nothing in the ledger fits")
    if answer["next_before"] is not None:
        console.print(f"next page: the same with --before {answer['next_before']}")


def _table(*columns: str) -> Table:
    """A plain table; a column named with `>` in front is flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    return table


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def hook(answer: Answer, console: Console) -> None:
    """One occasion after the other: its state, the line, what to do. Lines are never broken: they are for pasting."""
    for line in answer["lines"]:
        console.print(f"{line['occasion']}: {line['state']}" + (f" - {line['note']}" if line["note"] else ""))
        shown = line["wrapper_line"] or line["line"]
        if shown:
            console.print(f"  {shown}", soft_wrap=True)
    for words in answer["notes"]:
        console.print(f"note: {words}", soft_wrap=True)


def doctor(answer: Answer, console: Console) -> None:
    """One line for each check."""
    for check in answer["checks"]:
        console.print(f"{check['verdict']:<7}{check['topic']}: {check['words']}", soft_wrap=True)

"""What no single value shows: rules that clash, files that cannot be read, keys without effect.

All of it works on the plain values, so that it is reported together with values that are wrong by themselves.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

from qguard.config.environment import reread
from qguard.config.errors import BadValueError
from qguard.config.fields import nearest
from qguard.config.model import CATCH_ALL
from qguard.config.units import parse_rate
from qguard.config.yamltree import Path as Path_

Report = Callable[[Path_, BadValueError], None]

SECRET_FILES: Final = {
    "qbittorrent": ("password", "api_key"),
    "server": ("api_key", "read_key", "hook_key"),
}
"""Keys that may instead be given as a file, under their name with `_file` at its end."""

MAX_SECRET_FILE: Final = 4096
"""Bytes; more is no password, and keeps a device file from being read for ever."""

SHORTEST_KEY: Final = 8
"""Characters of a key of our own."""

_MATCHERS: Final = ("pattern", "match", "categories", "tags")


def section(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section, empty when it is absent or no section."""
    found = document.get(name)
    return found if isinstance(found, dict) else {}


def check_rules(document: Mapping[str, Any], report: Report) -> None:
    """Hold the tracker rules against each other and against themselves."""
    rules = document.get("trackers")
    if not isinstance(rules, list):
        return
    _check_ids(rules, report)
    _check_catch_all(rules, report)
    for i, rule in enumerate(rules):
        if not isinstance(rule, dict):
            continue
        # An empty text is at fault by itself.
        if not any(rule.get(name) or rule.get(name) == "" for name in _MATCHERS):
            report(
                ("trackers", i),
                BadValueError(
                    "matches nothing", f"add at least one of {', '.join(_MATCHERS)}; pattern: '.*' is the catch-all"
                ),
            )
        _check_guarantee(rule, i, report)


def _check_ids(rules: list[Any], report: Report) -> None:
    first: dict[str, int] = {}
    for i, rule in enumerate(rules):
        name = rule.get("id") if isinstance(rule, dict) else None
        if isinstance(name, str) and first.setdefault(name, i) != i:
            report(
                ("trackers", i, "id"),
                BadValueError(f"is the id of trackers[{first[name]}] too", "give this rule another"),
            )


def _check_catch_all(rules: list[Any], report: Report) -> None:
    places = [i for i, rule in enumerate(rules) if isinstance(rule, dict) and rule.get("pattern") == CATCH_ALL]
    if not places:
        report(
            ("trackers",),
            BadValueError(
                "there is no catch-all rule",
                "end the list with a rule that has pattern: '.*' and, to leave all other torrents uncapped,"
                " max_upload_speed: unlimited",
            ),
        )
    for i in places[:-1]:
        report(
            ("trackers", i, "pattern"), BadValueError("is not the only catch-all rule", "keep one, as the last rule")
        )
    if len(places) == 1 and places[0] != len(rules) - 1:
        report(
            ("trackers", places[0], "pattern"),
            BadValueError("is the catch-all, but more rules follow it", "move this rule to the end of the list"),
        )


def _check_guarantee(rule: Mapping[str, Any], i: int, report: Report) -> None:
    if "guaranteed_upload_speed" not in rule or "max_upload_speed" not in rule:
        return
    try:
        cap = parse_rate(reread(rule["max_upload_speed"]))
        guaranteed = parse_rate(reread(rule["guaranteed_upload_speed"]), zero=True, unlimited=False)
    except BadValueError:
        return
    if cap is not None and guaranteed is not None and guaranteed > cap:
        fault = BadValueError(f"is more than the cap of {cap} B/s", "lower it, or raise max_upload_speed")
        report(("trackers", i, "guaranteed_upload_speed"), fault)


def check_strategy(document: Mapping[str, Any], strategies: Collection[str], report: Report) -> None:
    """Refuse a strategy that is not installed."""
    name = section(document, "global").get("allocation_strategy", "equal")
    if not isinstance(name, str) or not name.strip() or name in strategies:
        return
    near = nearest(name, strategies)
    installed = f"installed are {', '.join(sorted(strategies)) or 'none'}"
    remedy = f"did you mean {near}? {installed}" if near else installed
    report(("global", "allocation_strategy"), BadValueError("is not an installed strategy", remedy))


def check_cross_seed(document: Mapping[str, Any], report: Report) -> None:
    """Refuse forwarding to nowhere."""
    cross_seed = section(document, "cross_seed")
    if is_enabled(cross_seed) and not cross_seed.get("url"):
        report(
            ("cross_seed", "enabled"), BadValueError("needs a url to forward to", "add cross_seed.url, or write false")
        )


def is_enabled(cross_seed: Mapping[str, Any]) -> bool:
    """Whether the section is in use."""
    return reread(cross_seed.get("enabled", False)) is True


def read_secret_files(document: Mapping[str, Any], folder: Path, report: Report) -> None:
    """Put the contents of the `_file` keys into the keys they stand for, in place."""
    for name, keys in SECRET_FILES.items():
        values = document.get(name)
        if not isinstance(values, dict):
            continue
        for key in keys:
            file = values.get(f"{key}_file")
            if not isinstance(file, str) or not file.strip():
                continue
            path: Path_ = (name, f"{key}_file")
            if values.get(key):
                report(path, BadValueError(f"is given together with {key}", "keep one of the two"))
                continue
            try:
                values[key] = _read_secret(folder, file)
            except BadValueError as fault:
                report(path, fault)


def _read_secret(folder: Path, file: str) -> str:
    try:
        path = folder / Path(file).expanduser()
        with path.open("rb") as stream:
            content = stream.read(MAX_SECRET_FILE + 1)
        text = content.decode().strip()
    except OSError as error:
        raise BadValueError(
            f"cannot be read: {error.strerror}", f"correct the path, or let our user read {path}"
        ) from None
    except (RuntimeError, ValueError):
        raise BadValueError("is not a file of text", "name a file that holds the secret alone") from None
    if not text:
        raise BadValueError("is an empty file", "put the secret into it")
    if len(content) > MAX_SECRET_FILE or "\n" in text:
        raise BadValueError("holds more than one line", "name a file that holds the secret alone")
    return text


def check_own_keys(document: Mapping[str, Any], report: Report) -> None:
    """Refuse keys of our own doors that somebody could guess; called when files of keys have been read.

    Passwords and keys of other programs are theirs to judge.
    """
    server = section(document, "server")
    for key in SECRET_FILES["server"]:
        value = server.get(key)
        # White space alone is none, as the models have it.
        if isinstance(value, str) and value.strip() and len(value) < SHORTEST_KEY:
            report(
                ("server", f"{key}_file" if server.get(f"{key}_file") else key),
                BadValueError(
                    f"has fewer than {SHORTEST_KEY} characters",
                    "take a long one that nobody guesses, such as the output of: openssl rand -hex 20",
                ),
            )


_NO_USE: Final = {
    ("global", "max_api_calls_per_cycle"): "a cycle makes few calls by design",
    ("global", "cache_ttl_seconds"): "every cycle reads afresh",
    ("global", "auto_unlimit_on_inactive"): "sleeping torrents hold a standing limit",
    ("global", "dry_run_store_path"): "a preview needs no file",
}


def useless_keys(document: Mapping[str, Any]) -> list[tuple[Path_, BadValueError]]:
    """Keys that are accepted and do nothing, with why."""
    found: list[tuple[Path_, BadValueError]] = [
        ((name, key), BadValueError(f"has no effect here: {why}", "delete the line when you like"))
        for (name, key), why in _NO_USE.items()
        if key in section(document, name)
    ]
    if reread(section(document, "rollback").get("track_all_changes")) is False:
        found.append(
            (
                ("rollback", "track_all_changes"),
                BadValueError(
                    "has no effect here: nothing is changed without a record", "delete the line when you like"
                ),
            )
        )
    overruled = {
        "global": {"update_interval": "poll_interval"},
        "qbittorrent": {"host": "url", "port": "url"},
    }
    for name, keys in overruled.items():
        values = section(document, name)
        found += [
            ((name, key), BadValueError(f"has no effect: {name}.{by} is given and counts", "delete one of the two"))
            for key, by in keys.items()
            if key in values and values.get(by)
        ]
    return found

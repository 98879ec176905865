"""The line by which qBittorrent tells us of a torrent at once: what it is, putting it there, taking it back.

qBittorrent runs its external programs without a shell: it splits the line at spaces, knows `"` alone as a quote, and
puts names and hashes in after splitting. So a line can hold one program only, and a second one needs a wrapper script.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec

from qguard.addresses import is_loopback, is_neighbour, parse
from qguard.answers import RequestError
from qguard.config import Settings
from qguard.ledger import Ledger
from qguard.qbittorrent.client import Occasion, TorrentClient
from qguard.qbittorrent.decode import Preferences
from qguard.qbittorrent.errors import ClientError

CONTROL: Final = "hook"
"""The ledger's control that remembers, by occasion, what stood there before."""

EVENTS: Final[Mapping[Occasion, str]] = {"added": "add", "finished": "complete"}

_PLACEHOLDER: Final = re.compile(r"%[A-Z]")
_COMMAND_FOLLOWS: Final = frozenset({"-c", "-e", "-lc", "-ic", "eval"})
_BREAKS_WORDS: Final = re.compile(r"[\s;&|<>`$(){}]")
"""What a word of a program has in it that is a command to a shell."""

_API_WITH_TORRENT_ID: Final = (2, 8, 4)
"""Web API of qBittorrent 4.4, the first that knows %K."""

State = Literal["installed", "present", "occupied", "removed", "absent", "left alone", "unsupported", "to paste"]


Reason = Annotated[str, msgspec.Meta(max_length=1000, description="why, kept in the ledger")]


class HookBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /hook/install."""

    finished: bool = False
    """Also for finished torrents, which is what cross-seed needs."""
    reason: Reason = ""


class HookRemoveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /hook/remove."""

    reason: Reason = ""


class HookLine(msgspec.Struct, frozen=True):
    """What stands in qBittorrent for one occasion."""

    occasion: Occasion
    state: State
    line: str
    """Ours."""
    note: str = ""
    """What to do, where there is something to do."""
    wrapper: str = ""
    """Path of a script that runs the program that is there and ours."""
    wrapper_line: str = ""
    """The line that runs it."""


class HookReport(msgspec.Struct, frozen=True):
    """What was done, or is to be pasted."""

    status: Literal["done", "incomplete", "print"]
    lines: tuple[HookLine, ...]
    notes: tuple[str, ...] = ()


# What the line is


def hook_url(settings: Settings) -> str:
    """Our webhook as qBittorrent sees it.

    Raises:
        RequestError: that cannot be known, or a hook from there would be refused.
    """
    server, port = settings.server, settings.global_.port
    if server.hook_url:
        url = server.hook_url.rstrip("/")
        host = (urlsplit(url).hostname or "").lower()
        known = "." not in host or parse(host) is not None or host in {h.lower() for h in server.allowed_hosts}
        if not known:
            raise RequestError(
                "hook_host",
                f"hooks to {host} would be refused",
                f"add {host} to server.allowed_hosts, or give server.hook_url an IP address",
            )
    elif _here(settings):
        own = settings.global_.host
        url = f"http://[::1]:{port}" if own in {"::", "::1"} else f"http://127.0.0.1:{port}"
        if (found := parse(own)) is not None and found.version == 4 and found.is_loopback:
            url = f"http://{own}:{port}"
    else:
        raise RequestError(
            "hook_url",
            "qBittorrent is not on this machine's loopback, so our address as it sees it is not known",
            f"set server.hook_url, such as http://qguard:{port} between containers",
        )
    return url if url.endswith("/webhook") else f"{url}/webhook"


def _here(settings: Settings) -> bool:
    """Whether qBittorrent shares our loopback and we listen there."""
    own = settings.global_.host
    listens_on_all = own == "" or ((found := parse(own)) is not None and found.is_unspecified)
    client = (urlsplit(settings.qbittorrent.base_url).hostname or "").lower()
    return is_loopback(client) and (listens_on_all or is_loopback(own))


def key_file(settings: Settings) -> Path | None:
    """Where curl finds the key for the webhook, None where none is needed.

    Raises:
        RequestError: the hook would come from a public address, and there is no key for it.
    """
    if settings.server.secret_hook_key:
        return settings.rollback.database_path.absolute().with_suffix(".hook.curlrc")
    host = urlsplit(settings.server.hook_url or "").hostname or ""
    if parse(host) is not None and not is_neighbour(host):
        raise RequestError("hook_key", "hooks from public addresses need a key", "set server.hook_key")
    return None


def hook_line(on: Occasion, url: str, *, api: str, key: Path | None) -> str:
    """What qBittorrent is to run.

    Args:
        on: the occasion.
        url: of our webhook, as qBittorrent sees it.
        api: its Web API version.
        key: a file with the key, for `curl -K`.

    Raises:
        RequestError: the path of that file cannot stand in such a line.
    """
    # -q: no curlrc of the user. --noproxy: qBittorrent's environment may name a proxy. The star is quoted for a person
    # who tries the line in a shell; qBittorrent takes the quotes away as a shell does.
    words = ["curl", "-q", "-s", "-m", "2", "-o", "/dev/null", "--noproxy", '"*"']
    if key is not None:
        if '"' in str(key) or "%" in str(key):
            raise RequestError(
                "key_path", f"{key} cannot stand in a hook line", "choose a rollback.database_path without quote and %"
            )
        words += ["-K", f'"{key}"' if " " in str(key) else str(key)]
    placeholder = "%K" if _numbers(api) >= _API_WITH_TORRENT_ID else "%I"
    words += ["--data-urlencode", f"event={EVENTS[on]}", "--data-urlencode", f"hash={placeholder}", url]
    return " ".join(words)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def reaches(program: str, url: str) -> bool:
    """Whether a line has our webhook's address in it, however it gets there."""
    return re.search(re.escape(url) + r"(?![\w/-])", program) is not None


def is_plain(program: str, url: str) -> bool:
    """Whether a line does nothing but call our webhook by curl with a hash, as ours and older ones do."""
    words = split(program)
    whole = bool(words) and Path(words[0]).name == "curl" and not {"--next", "-:"} & set(words)
    return whole and sum("://" in word for word in words) == 1 and reaches(program, url) and "hash=%" in program


def split(program: str) -> list[str]:
    """A line as qBittorrent splits it: at spaces, with `"` as the only quote."""
    words, word, quoted, open_ = [], "", False, False
    for char in program:
        if char == '"':
            quoted, open_ = not quoted, True
        elif char == " " and not quoted:
            if word or open_:
                words.append(word)
            word, open_ = "", False
        else:
            word += char
    return [*words, word] if word or open_ else words


def wrapper(program: str, ours: str, path: Path) -> tuple[str, str]:
    """A script that runs ours and somebody else's program, and the line that runs the script.

    The values that qBittorrent fills in reach the script as arguments, and each stays in the word of the program that
    it stood in. What that program makes of its words is its own affair; see `commands_of_values`.

    Args:
        program: the line that is there.
        ours: the line of `hook_line`.
        path: of the script.
    """
    used = list(dict.fromkeys(_PLACEHOLDER.findall(ours) + _PLACEHOLDER.findall(program)))
    numbers = {name: number for number, name in enumerate(used, start=1)}
    mine, other = (" ".join(_shell_word(word, numbers) for word in split(line)) for line in (ours, program))
    script = (
        "#!/bin/sh\n"
        f"# Made by `qguard hook install`. Arguments: {' '.join(used)}\n"
        f"{mine} </dev/null >/dev/null 2>&1 &\n"
        f"exec {other}\n"
    )
    return script, " ".join([f'"{path}"', *(f'"{name}"' for name in used)])


def commands_of_values(program: str) -> tuple[str, ...]:
    """Placeholders that a line puts where its program may read them as a part of a command, as `sh -c "echo %N"` does.

    Names of torrents are chosen by strangers.
    """
    words = split(program)
    risky = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before in _COMMAND_FOLLOWS or _BREAKS_WORDS.search(word)
    ]
    return tuple(dict.fromkeys(name for word in risky for name in _PLACEHOLDER.findall(word)))


def _shell_word(word: str, numbers: Mapping[str, int]) -> str:
    """One word for the shell, with the arguments in the place of qBittorrent's placeholders."""
    parts = re.split(r"(%[A-Z])", word)
    shell = [f'"${{{numbers[part]}}}"' if part in numbers else shlex.quote(part) for part in parts if part]
    return "".join(shell) or "''"


# What is done with it


async def lines(settings: Settings, client: TorrentClient) -> HookReport:
    """The lines for pasting, without changing anything."""
    url, key = hook_url(settings), key_file(settings)
    if key is not None:
        write_key(key, settings.server.secret_hook_key or "")
    said = notes(key)
    try:
        api = (await client.version()).api
    except ClientError:
        api = ".".join(map(str, _API_WITH_TORRENT_ID))
        said += ("qBittorrent does not answer; before its version 4.4 write %I for %K",)
    both = tuple(HookLine(on, "to paste", hook_line(on, url, api=api, key=key)) for on in EVENTS)
    return HookReport("print", both, said)


def notes(key: Path | None) -> tuple[str, ...]:
    """What a person has to see to."""
    if key is None:
        return ()
    words = (
        f"the line reads the key from {key}, which only user {os.getuid()} can read: where qBittorrent runs as another "
        "user or in a container, copy it to a place that qBittorrent can read, for its user alone, and put that path "
        "into the line"
    )
    return (words,)


def write_key(path: Path, key: str) -> None:
    """Put the key where curl finds it; only our user can read the file.

    Raises:
        RequestError: it cannot be written.
    """
    text = f'header = "X-API-Key: {key.replace(chr(92), chr(92) * 2).replace(chr(34), chr(92) + chr(34))}"\n'
    _write(path, text, 0o600)


def _write(path: Path, text: str, mode: int) -> None:
    """A new file in the place of the old, with these rights from its first byte on."""
    fresh = path.with_name(path.name + ".new")
    try:
        fresh.unlink(missing_ok=True)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        fresh.replace(path)
    except OSError as error:
        raise RequestError(
            "hook_file", f"{path} cannot be written ({error.strerror})", "see rollback.database_path", 500
        ) from None


def standing(preferences: Preferences, on: Occasion) -> tuple[bool | None, str]:
    """Whether a program is run on an occasion (None: that version has no such thing), and which."""
    if on == "added":
        return preferences.autorun_on_torrent_added_enabled, preferences.autorun_on_torrent_added_program
    return preferences.autorun_enabled, preferences.autorun_program


def present(settings: Settings, ledger: Ledger, preferences: Preferences) -> tuple[bool, bool]:
    """Whether qBittorrent calls us when a torrent is added, and when one is finished.

    Raises:
        RequestError: our address as qBittorrent sees it is not known.
    """
    url = hook_url(settings)

    def calls(on: Occasion) -> bool:
        enabled, program = standing(preferences, on)
        remembered = _remembered(ledger, on)
        ours = remembered is not None and program == remembered["line"]
        by_wrapper = str(_wrapper_path(settings, on)) in program
        return bool(enabled) and (ours or by_wrapper or reaches(program, url))

    return calls("added"), calls("finished")


async def install(
    settings: Settings, client: TorrentClient, ledger: Ledger, *, finished: bool, who: str, reason: str
) -> HookReport:
    """Let qBittorrent call us for each torrent that is added, and with `finished` for each that is finished.

    Another program that is there stays: nothing is changed then, and a script that runs both is written.

    Args:
        settings: the configuration in force.
        client: whose programs are changed.
        ledger: remembers what was there, and that it was changed, before it is.
        finished: also for finished torrents.
        who: decided it.
        reason: in words, without secrets.

    Raises:
        RequestError: it cannot be done; says what to set.
        ClientError: qBittorrent does not answer.
        LedgerError: what was there cannot be remembered; nothing was changed.
    """
    url, key = hook_url(settings), key_file(settings)
    api = (await client.version()).api
    there = await client.preferences()
    wanted: list[Occasion] = ["added", "finished"] if finished else ["added"]
    plan = [_planned(settings, there, on, hook_line(on, url, api=api, key=key), url, ledger) for on in wanted]
    if key is not None:  # the script of an occupied line reads it, too
        write_key(key, settings.server.secret_hook_key or "")
    bad = any(line.state in {"occupied", "unsupported"} for line in plan)
    if bad:
        return HookReport("incomplete", tuple(plan), ("nothing was changed in qBittorrent", *notes(key)))
    changed = [line for line in plan if line.state == "installed"]
    if changed:
        controls: dict[tuple[str, str], object] = {
            (CONTROL, line.occasion): _memory(ledger, line, there) for line in changed
        }
        words = _because([line.occasion for line in changed], reason)
        await ledger.record("hook install", (), who=who, reason=words, controls=controls)
    for line in changed:
        await client.set_program(line.occasion, line.line, enabled=True)
        await _confirm(client, line.occasion, line.line, enabled=True)
    return HookReport("done", tuple(plan), notes(key))


def _because(occasions: Iterable[Occasion], reason: str) -> str:
    """What is changed and why, for the ledger."""
    what = ", ".join(occasions)
    return f"{what}; {reason}" if reason else what


def _planned(settings: Settings, there: Preferences, on: Occasion, line: str, url: str, ledger: Ledger) -> HookLine:
    """What is to be done about one occasion."""
    enabled, program = standing(there, on)
    path = _wrapper_path(settings, on)
    if enabled is None:
        return HookLine(
            on, "unsupported", line, "this qBittorrent runs no program for torrents that are added: 4.5 and later do"
        )
    by_wrapper = str(path) in program and path.exists()
    if enabled and (program == line or by_wrapper or (reaches(program, url) and not is_plain(program, url))):
        return HookLine(on, "present", line)
    remembered = _remembered(ledger, on)
    ours = remembered is not None and program == remembered["line"]
    if not enabled or not program.strip() or ours or is_plain(program, url):
        return HookLine(on, "installed", line)
    script, wrapper_line = wrapper(program, line, path)
    _write(path, script, 0o700)
    note = f"another program runs when a torrent is {on}; paste the script's line, which runs both, into qBittorrent"
    if risky := commands_of_values(program):
        note += (
            f". First see what that program does with {', '.join(risky)}: it may read it as a part of a command, and "
            "run what the name of a torrent says, as it does already"
        )
    return HookLine(
        on,
        "occupied",
        line,
        note,
        wrapper=str(path),
        wrapper_line=wrapper_line,
    )


def _wrapper_path(settings: Settings, on: Occasion) -> Path:
    return settings.rollback.database_path.absolute().with_suffix(f".hook-{on}.sh")


def _remembered(ledger: Ledger, on: Occasion) -> dict[str, Any] | None:
    control = ledger.controls.get((CONTROL, on))
    return None if control is None else control.value


def _memory(ledger: Ledger, line: HookLine, there: Preferences) -> dict[str, Any]:
    """What is to be remembered when ours takes the place of what is there."""
    enabled, program = standing(there, line.occasion)
    before = {"enabled": bool(enabled), "program": program}
    remembered = _remembered(ledger, line.occasion)
    if remembered is not None and program == remembered["line"]:
        before = remembered["before"]  # ours is there in an older form: what was there before that counts
    return {"line": line.line, "before": before}


async def _confirm(client: TorrentClient, on: Occasion, program: str, *, enabled: bool) -> None:
    """A setting is answered with 200 whatever became of it."""
    if standing(await client.preferences(), on) != (enabled, program):
        raise RequestError(
            "hook_refused", "qBittorrent did not take the line", "set it by hand: qguard hook print shows it", 502
        )


async def remove(settings: Settings, client: TorrentClient, ledger: Ledger, *, who: str, reason: str) -> HookReport:
    """Put back exactly what was there before `install`; what somebody else has put there since stays.

    Args:
        settings: the configuration in force.
        client: whose programs are changed.
        ledger: knows what was there, and is told that it is put back before it is.
        who: decided it.
        reason: in words, without secrets.

    Raises:
        RequestError: qBittorrent did not take it.
        ClientError: qBittorrent does not answer.
        LedgerError: it cannot be recorded; nothing was changed.
    """
    there = await client.preferences()
    plan = [_undoing(settings, there, on, ledger) for on in EVENTS]
    restored = [line.occasion for line in plan if line.state == "removed"]
    over = [line.occasion for line in plan if line.state == "absent" and _remembered(ledger, line.occasion) is not None]
    if restored or over:
        # What was there before stays remembered until it is back: qBittorrent may fail now, and be asked again.
        words = _because([*restored, *over], reason)
        await ledger.record("hook remove", (), who=who, reason=words, controls={(CONTROL, on): None for on in over})
    for on in restored:
        before = _before(ledger, on)
        await client.set_program(on, before["program"], enabled=before["enabled"])
        await _confirm(client, on, before["program"], enabled=before["enabled"])
        await ledger.clear_control(CONTROL, on)
    bad = any(line.state == "left alone" for line in plan)
    if not bad and (key := settings.rollback.database_path.absolute().with_suffix(".hook.curlrc")).exists():
        key.unlink()
    return HookReport("incomplete" if bad else "done", tuple(plan))


def _before(ledger: Ledger, on: Occasion) -> dict[str, Any]:
    """What was there before ours; nothing, when ours came by paste or stood in a ledger that is lost."""
    remembered = _remembered(ledger, on)
    return {"enabled": False, "program": ""} if remembered is None else remembered["before"]


def _undoing(settings: Settings, there: Preferences, on: Occasion, ledger: Ledger) -> HookLine:
    """What is to be put back on one occasion."""
    enabled, program = standing(there, on)
    remembered, before = _remembered(ledger, on), _before(ledger, on)
    ours = "" if remembered is None else remembered["line"]
    state: State
    if remembered is not None and (enabled, program) == (before["enabled"], before["program"]):
        state, note = "absent", ""
    elif remembered is not None and program == ours:
        state, note = "removed", ""
    elif enabled and str(path := _wrapper_path(settings, on)) in program:
        state = "left alone"
        note = f"the script {path} is run; put the other program that it runs in its place yourself"
    elif remembered is not None:
        state, note = "left alone", "somebody has changed the line since; it was left as it is"
    else:
        state, note = _pasted(settings, program if enabled else "")
    return HookLine(on, state, program if state == "removed" else ours, note)


def _pasted(settings: Settings, program: str) -> tuple[State, str]:
    """What is to be done about a line that the ledger knows nothing of, and what to say about it."""
    try:
        url = hook_url(settings)
    except RequestError:
        return "absent", ""
    if is_plain(program, url):
        return "removed", ""
    if reaches(program, url):
        return "left alone", "a line that does other things too calls us; change it yourself"
    return "absent", ""

"""External programs, run for real: split and filled in as qBittorrent 4.5 and later do it."""

import subprocess
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from threading import Thread
from typing import Final

from qguard.simulator.listing import Entry
from qguard.simulator.versions import Traits

_DETACHED: Final = ("/bin/sh", "-c", '"$@" >/dev/null 2>&1 </dev/null &', "sh")
"""Starts a program and ends at once: the program belongs to nobody, as with the real one."""


def split(template: str) -> list[str]:
    """As Qt splits commands: at blanks, outside of double quotes; three quotes are one.

    No other character means anything, and what is filled in later adds no arguments.
    """
    words: list[str] = []
    word, quotes, quoted = "", 0, False
    for character in template:
        if character == '"':
            quotes += 1
            if quotes == 3:
                quotes = 0
                word += character
            continue
        if quotes == 1:
            quoted = not quoted
        quotes = 0
        if not quoted and character.isspace():
            words += [word] if word else []
            word = ""
        else:
            word += character
    return words + ([word] if word else [])


def fill(word: str, values: Mapping[str, str]) -> str:
    """Put values in the place of %N and the like, from right to left; what is put in is not looked at again."""
    at = len(word) - 2
    while at >= 0:
        if word[at] == "%" and word[at + 1] in values:
            word = word[:at] + values[word[at + 1]] + word[at + 2 :]
            at -= 1
        at -= 1
    return word


def values(entry: Entry, traits: Traits) -> dict[str, str]:
    """Specifier -> value for one torrent."""
    torrent, fields = entry.torrent, entry.fields
    found = {
        "C": "1",
        "D": entry.details.save_path,
        "F": str(fields["content_path"]),
        "G": ",".join(sorted(torrent.tags)),
        "I": str(fields["infohash_v1"]) or "-",
        "J": str(fields["infohash_v2"]) or "-",
        "K": torrent.infohash,
        "L": torrent.category,
        "N": torrent.name,
        "R": "",
        "T": str(fields["tracker"]),
        "Z": str(torrent.size),
    }
    return found | ({"M": ""} if traits.modern else {})


def command(template: str, entry: Entry, traits: Traits) -> list[str]:
    """Program and arguments; empty when there is no program."""
    filled = values(entry, traits)
    return [fill(word, filled) for word in split(template)]


class Runner:
    """Starts programs one after the other on a thread of its own, and forgets them.

    Attributes:
        started: how many so far.
    """

    def __init__(self, start: Callable[[list[str]], None] | None = None) -> None:
        self.started = 0
        self._start = start or detached
        self._queue: SimpleQueue[list[str] | None] = SimpleQueue()
        self._thread: Thread | None = None

    def run(self, words: list[str]) -> None:
        """Start a program soon; one that cannot be started is as with the real client: nothing comes of it."""
        if not words:
            return
        if self._thread is None:
            self._thread = Thread(target=self._work, name="programs", daemon=True)
            self._thread.start()
        self.started += 1
        self._queue.put(words)

    def close(self) -> None:
        """Start what was asked for, then end."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (words := self._queue.get()) is not None:
            self._start(words)


def detached(words: list[str]) -> None:
    """Start a program that nobody waits for."""
    subprocess.run([*_DETACHED, *words], check=False, start_new_session=True)  # noqa: S603 - whoever logs in may

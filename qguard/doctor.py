"""What stands in the way of the caps, in one line each: pure judgement of facts that the service collects."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
import numpy as np

from qguard.decision import Decision
from qguard.policy import NO_CAP, Policy
from qguard.qbittorrent.client import ClientVersion
from qguard.qbittorrent.decode import Preferences, TransferInfo

Verdict = Literal["good", "advice", "wrong"]

FEW_SLOTS: Final = 4
"""Upload slots of a torrent below which its limit is rarely reached; qBittorrent's own default."""

CLOCK_TOLERANCE: Final = 120.0
"""Seconds by which two clocks may differ."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    topic: str
    verdict: Verdict
    words: str
    """What is so, and what to do about it."""


class DoctorReport(msgspec.Struct, frozen=True):
    """All that was looked at."""

    status: Verdict
    """The worst of them."""
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out. What could not be is None."""

    now: float
    """Epoch seconds."""
    policy: Policy
    client_error: str = ""
    ledger_error: str = ""
    hook_error: str = ""
    """Why the hook line cannot be judged."""
    version: ClientVersion | None = None
    preferences: Preferences | None = None
    transfer: TransferInfo | None = None
    alternative_speed: bool = False
    hook_added: bool = False
    hook_finished: bool = False
    cross_seed: bool = False
    """Whether finished torrents are to be passed on."""
    last_hook: float | None = None
    """Epoch seconds."""
    service: bool = False
    """Whether a running service was asked, so that there can have been hooks."""
    decision: Decision | None = None
    last_action: float | None = None
    """Epoch seconds of the latest entry of the ledger."""
    problems: Mapping[str, str] = field(default_factory=dict)
    """Of the running service."""


def examine(facts: Facts) -> DoctorReport:
    """Judge the facts."""
    checks = tuple(_checks(facts))
    order: Sequence[Verdict] = ("good", "advice", "wrong")
    return DoctorReport(max((check.verdict for check in checks), key=order.index), checks)


def _checks(facts: Facts) -> Iterator[Check]:
    yield _client(facts)
    yield _ledger(facts)
    if facts.preferences is not None:
        yield from _hooks(facts)
        yield from _speeds(facts, facts.preferences)
    yield from _rules(facts)
    yield from _clock(facts)
    for topic, words in facts.problems.items():
        if topic not in {"client", "ledger"}:
            yield Check(topic, "wrong", words)


def _client(facts: Facts) -> Check:
    if facts.client_error or facts.version is None:
        return Check("qBittorrent", "wrong", facts.client_error or "it was not asked")
    return Check("qBittorrent", "good", f"{facts.version.app} (Web API {facts.version.api}) lets us in")


def _ledger(facts: Facts) -> Check:
    if facts.ledger_error:
        return Check("ledger", "wrong", f"{facts.ledger_error}; nothing is written to qBittorrent until it works")
    return Check("ledger", "good", "can be written")


def _hooks(facts: Facts) -> Iterator[Check]:
    if facts.hook_error:
        yield Check("hook", "wrong", facts.hook_error)
    elif not facts.hook_added:
        yield Check(
            "hook",
            "wrong",
            "qBittorrent does not tell us of torrents that are added, so they upload without a limit until the next "
            "full listing: run `qguard hook install`",
        )
    elif facts.cross_seed and not facts.hook_finished:
        yield Check(
            "hook",
            "wrong",
            "qBittorrent does not tell us of torrents that are finished, so none is passed on to cross-seed: run "
            "`qguard hook install --finished`",
        )
    else:
        yield Check("hook", "good", "qBittorrent calls us for each torrent that is added")
    if facts.last_hook is not None:
        yield Check("last hook", "good", f"came {_ago(facts.now - facts.last_hook)} ago")
    elif facts.service and facts.hook_added:
        yield Check(
            "last hook",
            "advice",
            "none has come yet; add a torrent, and if that changes nothing run the line of `qguard hook print` in a "
            "shell where qBittorrent runs, with the hash of any torrent for the placeholder (%K or %I) and without "
            "`-s -o /dev/null`: is curl there, and what does it say?",
        )


def _speeds(facts: Facts, preferences: Preferences) -> Iterator[Check]:
    caps = facts.policy.cap[facts.policy.cap != NO_CAP]
    total = int(caps.sum())
    limit = facts.transfer.up_rate_limit if facts.transfer else 0
    which = "alternative" if facts.alternative_speed else "global"
    if 0 < limit < total:
        yield Check(
            "client speed limit",
            "wrong",
            f"qBittorrent's {which} upload limit in force is {limit} B/s and the caps add up to {total} B/s, so they "
            "cannot be reached: raise or remove it in qBittorrent, or lower the caps",
        )
    elif facts.alternative_speed:
        yield Check("client speed limit", "advice", "the alternative speed mode is on; it does not bind the caps")
    else:
        yield Check("client speed limit", "good", "does not bind the caps")
    slots = {
        "per torrent": (preferences.max_uploads_per_torrent, FEW_SLOTS),
        "in all": (preferences.max_uploads, FEW_SLOTS * max(1, _awake(facts.decision))),
    }
    few = [f"{n} {where} ({want} would do)" for where, (n, want) in slots.items() if 0 < n < want]
    if few:
        words = f"few: {', '.join(few)}; limits may not be reached: raise them in qBittorrent's connection settings"
        yield Check("upload slots", "advice", words)
    else:
        yield Check("upload slots", "good", "enough")


def _awake(decision: Decision | None) -> int:
    return 0 if decision is None else int(decision.estimated.demand.awake.sum())


def _rules(facts: Facts) -> Iterator[Check]:
    policy, decision = facts.policy, facts.decision
    if decision is not None and len(decision.reading.torrents):
        counts = np.bincount(decision.matched.rule, minlength=len(policy.ids))
        idle = [name for name, n in zip(policy.ids[:-1], counts[:-1].tolist(), strict=True) if not n]
        if idle:
            words = f"{', '.join(idle)}: no torrent matches; compare with `qguard trackers`"
            yield Check("rules", "advice", words)
        else:
            yield Check("rules", "good", "each has torrents")
        foreign = int(decision.matched.own.foreign.sum())
        if foreign:
            words = (
                f"{foreign} torrents were limited by another program or by hand after qguard and are left alone: end "
                "that program, then `qguard resume --foreign`"
            )
            yield Check("other programs", "advice", words)
        else:
            yield Check("other programs", "good", "none changes our limits")
    if not policy.capped[-1]:
        words = f"{policy.ids[-1]}: no cap; torrents of trackers that no other rule names are not limited"
        yield Check("catch-all", "advice", words)


def _clock(facts: Facts) -> Iterator[Check]:
    times = {} if facts.last_action is None else {"the ledger's latest entry": facts.last_action}
    if facts.decision is not None and len(facts.decision.reading.torrents):
        times["qBittorrent's newest torrent"] = float(facts.decision.reading.torrents.added_on.max())
    ahead = [name for name, at in times.items() if at > facts.now + CLOCK_TOLERANCE]
    if ahead:
        here = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(facts.now))
        yield Check("clock", "wrong", f"it is {here} here, and {' and '.join(ahead)} is later: set the clocks right")
    elif times:
        yield Check("clock", "good", f"it is later here than {' and '.join(times)}")


def _ago(seconds: float) -> str:
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"

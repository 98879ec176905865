"""Readings and policies made from a few words, for tests of the pure steps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from allocators.base import installed_strategies
from qguard import decision, policy
from qguard.config import Settings, parse
from qguard.cycle import Memory
from qguard.decision import Decision, State
from qguard.ledger import Claim, Key
from qguard.observe import Reading
from qguard.ownership import columns
from qguard.policy import Policy
from qguard.snapshot import Torrents

ADDED_ON = 1_700_000_000
TWO_TRACKERS = """
  - {id: alpha, match: [alpha.example], max_upload_speed: 1000000}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


def infohash(number: int) -> str:
    return f"{number:040x}"


def torrents(rows: Sequence[Mapping[str, Any]]) -> Torrents:
    """One row per torrent; `host` is short for an announce URL there, the row's number is its info-hash by default."""
    full = [
        {
            "infohash": infohash(n),
            "added_on": ADDED_ON,
            "up_limit": 0,
            "upspeed": 0,
            "uploaded": 0,
            "uploaded_session": 0,
            "leechers": 0,
            "downloading": False,
            "host": "alpha.example",
            "category": "",
            "tags": "",
            "name": f"torrent {n}",
        }
        | dict(row)
        for n, row in enumerate(rows)
    ]
    full.sort(key=lambda row: row["infohash"])
    announce = [(f"http%3A%2F%2F{row['host']}%2Fannounce%3Fpasskey%3D0123",) if row["host"] else () for row in full]

    def things(values: Sequence[object]) -> np.ndarray:
        return np.fromiter(values, np.object_, len(values))

    numbers = ("added_on", "up_limit", "upspeed", "uploaded", "uploaded_session", "leechers")
    return Torrents(
        infohash=np.array([row["infohash"] for row in full], "S40"),
        downloading=np.array([row["downloading"] for row in full], np.bool_),
        announce=things(announce),
        **{name: np.array([row[name] for row in full], np.int64) for name in numbers},
        **{name: things([row[name] for row in full]) for name in ("category", "tags", "name")},
    )


def rules(
    trackers: str = TWO_TRACKERS, controls: Mapping[Any, Any] | None = None, now: float = 0.0, **keys: Any
) -> Policy:
    """A policy of the given tracker rules; `keys` go into the section `global` (rollout 100 unless said)."""
    section = "".join(f"  {key}: {value}\n" for key, value in ({"rollout_percentage": 100} | keys).items())
    text = f"global:\n{section}qbittorrent: {{url: 'http://127.0.0.1:1'}}\ntrackers:{trackers}"
    settings = _settings(text)
    return policy.make(
        settings,
        controls or {},
        now,
        matcher=policy.make_matcher(settings),
        allocator=policy.make_allocator(settings),
    )


@cache
def _settings(text: str) -> Settings:
    return parse(text, source=Path("test.yaml"), environ={}, strategies=_installed()).settings


@cache
def _installed() -> tuple[str, ...]:
    """To look through all that is installed for each example would take longer than the tests."""
    return installed_strategies()


def reading(seen: Torrents, at: float = 0.0, *, maybe_reset: bool = False) -> Reading:
    return Reading(
        seen,
        at,
        full=True,
        maybe_reset=np.full(len(seen), maybe_reset),
        fresh=np.ones(len(seen), np.bool_),
        full_at=at,
        full_cost=0.0,
        sessions=1,
    )


def claim(number: int, *, original: int | None = 0, written: int | None = None, **more: Any) -> tuple[Key, Claim]:
    values = {
        "tracker": "alpha",
        "pending": None,
        "pending_change": None,
        "hold": "",
        "hold_value": None,
        "claimed_at": 0.0,
        "written_at": 1.0,
        "last_action": 1,
    } | more
    key = (infohash(number), ADDED_ON)
    return key, Claim(hash=key[0], added_on=key[1], original=original, written=written, **values)


def decide(
    seen: Torrents,
    rule_set: Policy,
    claims: Mapping[Key, Claim] | None = None,
    state: State | None = None,
    *,
    at: float = 0.0,
    maybe_reset: bool = False,
    written_before: Mapping[Key, frozenset[int]] | None = None,
) -> Decision:
    """The four pure steps, as `cycle.look` takes them."""
    state = state or Memory().state
    now = reading(seen, at, maybe_reset=maybe_reset)
    matched = decision.match(now, rule_set, columns(claims or {}, seen, at + 1e6), written_before or {})
    estimated = decision.estimate(now, rule_set, matched, state)
    allocated = decision.allocate(now, rule_set, matched, estimated, state)
    planned = decision.plan(now, rule_set, matched, estimated, allocated)
    after = decision.next_state(now, rule_set, estimated, allocated)
    return Decision(now, rule_set, matched, estimated, allocated, planned, after)


def applied(decided: Decision, claims: Mapping[Key, Claim] | None = None) -> tuple[Torrents, dict[Key, Claim]]:
    """The client and the claims after the plan went through."""
    seen, plan = decided.reading.torrents, decided.planned.plan
    limit = seen.up_limit.copy()
    limit[plan.rows] = plan.new
    after = dict(claims or {})
    for key, old, new in zip(seen.keys(plan.rows), plan.old.tolist(), plan.new.tolist(), strict=True):
        before = after.get(key) or claim(int(key[0], 16), original=old)[1]
        after[key] = msgspec.structs.replace(before, written=new, written_at=1.0)
    return replace(seen, up_limit=limit), after


def changes(decided: Decision) -> dict[str, int]:
    """Info-hash -> new limit."""
    plan = decided.planned.plan
    hashes = [h.decode() for h in decided.reading.torrents.infohash[plan.rows].tolist()]
    return dict(zip(hashes, plan.new.tolist(), strict=True))

"""What people ask about torrents and trackers; answered from the last decision, pure."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from qguard import report
from qguard.answers import AnnounceHost, MatchReport, RequestError, RuleMatch
from qguard.config import Settings
from qguard.decision import Decision
from qguard.ledger import Claim, Key
from qguard.trackers import Matcher, host_of

SHORTEST_PREFIX: Final = 6
"""Digits of an info-hash that are enough to name a torrent, when only one begins with them."""


def explain(decision: Decision, claims: Mapping[Key, Claim], name: str) -> report.Explanation:
    """Why a torrent has the limit it has.

    Args:
        decision: the last one.
        claims: of the ledger.
        name: its info-hash, or the first digits of it.

    Raises:
        RequestError: no torrent, or more than one, is called so.
    """
    torrents = decision.reading.torrents
    wanted = name.strip().lower().encode()
    starts = np.char.startswith(torrents.infohash, wanted) if len(torrents) else np.zeros(0, np.bool_)
    rows = np.flatnonzero(starts) if len(wanted) >= SHORTEST_PREFIX else np.zeros(0, np.int64)
    if len(rows) != 1:
        few = f"{len(rows)} torrents begin with" if len(rows) else "no torrent has the info-hash"
        raise RequestError(
            "unknown_torrent", f"{few} {name!r}", "give the 40 digits that qBittorrent shows as its hash", 404
        )
    (key,) = torrents.keys(rows)
    return report.explain(decision, int(rows[0]), claims.get(key))


def announce_hosts(decision: Decision) -> tuple[AnnounceHost, ...]:
    """The announce hosts of the client's torrents, busiest first; never more of a URL than its host."""
    matcher = decision.policy.matcher
    rows: dict[str, tuple[int, float, set[str]]] = {}
    columns = (
        decision.reading.torrents.announce,
        decision.estimated.demand.rate.tolist(),
        decision.matched.rule.tolist(),
    )
    for announce, rate, rule in zip(*columns, strict=True):
        for host in {host_of(url) for url in matcher.urls(announce)} or {"(no tracker)"}:
            count, total, rules = rows.get(host, (0, 0.0, set()))
            rows[host] = (count + 1, total + rate, rules | {decision.policy.ids[rule]})
    hosts = [AnnounceHost(host, count, int(rate), tuple(sorted(rules))) for host, (count, rate, rules) in rows.items()]
    return tuple(sorted(hosts, key=lambda row: (-row.rate, -row.torrents, row.host)))


def match_url(settings: Settings, matcher: Matcher, url: str, category: str = "", tags: str = "") -> MatchReport:
    """Which rule takes a torrent with this announce URL."""
    urls = [url] if url else []
    chosen = matcher.choose(urls, category, tags)
    found = {reason.rule: reason.by for reason in matcher.reasons(urls, category, tags)} or {chosen.rule: chosen.by}
    scheme = url.split("://", 1)[0] + "://" if "://" in url else ""
    return MatchReport(
        url=scheme + host_of(url),
        matched_tracker=settings.trackers[chosen.rule].id,
        by=chosen.by,
        matches=tuple(
            RuleMatch(rule.id, rule.pattern, i in found, found.get(i, "")) for i, rule in enumerate(settings.trackers)
        ),
    )

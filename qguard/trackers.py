"""Announce URL, category and tags -> tracker rule.

The first rule in file order that matches any of a torrent's announce URLs, its category or one of its tags wins (or,
with `multi_tracker: strictest`, the one with the lowest cap). The catch-all takes what no other rule matched.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

import numpy as np

from qguard.config import TrackerRule
from qguard.snapshot import Int64, Torrents

_CACHE_LIMIT: Final = 200_000
"""Distinct (URLs, category, tags) remembered; a client has a few per tracker, so this only bounds the worst case."""


def host_of(url: str) -> str:
    """The host of an announce URL in lower case, "" when it has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a rule matched."""

    rule: int
    """Index in file order."""
    by: str
    """In words for people; never contains more of a URL than its host."""


class Matcher:
    """The rules of one configuration, ready to match."""

    def __init__(self, rules: Sequence[TrackerRule], *, strictest: bool = False) -> None:
        self.rules = tuple(rules)
        self._strictest = strictest
        self._catch_all = next(i for i, rule in enumerate(self.rules) if rule.is_catch_all)
        self._patterns = [
            None if rule.is_catch_all or rule.pattern is None else re.compile(rule.pattern, re.IGNORECASE)
            for rule in self.rules
        ]
        self._domains = [
            tuple(domain.lower().removeprefix("*").strip(".") for domain in rule.match) for rule in self.rules
        ]
        self._cache: dict[tuple[tuple[str, ...], str, str], int] = {}

    def match(self, torrents: Torrents) -> Int64:
        """(N,) index of each torrent's rule."""
        return np.fromiter(
            map(self._rule, zip(torrents.announce, torrents.category, torrents.tags, strict=True)),
            np.int64,
            len(torrents),
        )

    def _rule(self, known_by: tuple[tuple[str, ...], str, str]) -> int:
        rule = self._cache.get(known_by)
        if rule is None:
            if len(self._cache) >= _CACHE_LIMIT:
                self._cache.clear()
            urls, category, tags = known_by
            rule = self._cache[known_by] = self.explain(urls, category, tags).rule
        return rule

    def explain(self, announce: Sequence[str], category: str, tags: str) -> Reason:
        """The rule of a torrent as it stands in a listing, and why."""
        return self.choose(self.urls(announce), category, tags)

    @staticmethod
    def urls(announce: Sequence[str]) -> list[str]:
        """Announce URLs of a listing, decoded."""
        return [unquote(url) for url in announce]

    def choose(self, urls: Sequence[str], category: str = "", tags: str = "") -> Reason:
        """The rule of a torrent with these announce URLs, and why."""
        reasons = self.reasons(urls, category, tags)
        if not reasons:
            return Reason(
                self._catch_all, "the catch-all: no other rule matches" if urls else "the catch-all: no tracker"
            )
        if self._strictest:
            return min(reasons, key=lambda reason: (self._cap(reason.rule), reason.rule))
        return reasons[0]

    def reasons(self, urls: Sequence[str], category: str = "", tags: str = "") -> list[Reason]:
        """Every rule that matches, in file order, without the catch-all."""
        found = []
        for i, rule in enumerate(self.rules):
            by = None if i == self._catch_all else self._why(i, rule, urls, category, tags)
            if by:
                found.append(Reason(i, by))
        return found

    def _why(self, i: int, rule: TrackerRule, urls: Sequence[str], category: str, tags: str) -> str | None:
        pattern = self._patterns[i]
        for url in urls:
            host = host_of(url)
            for domain in self._domains[i]:
                if host == domain or host.endswith("." + domain):
                    return f"announce host {host} is in match domain {domain}"
            if pattern and pattern.search(url):
                return f"pattern {rule.pattern} finds announce URL of {host or 'no host'}"
        if category and category in rule.categories:
            return f"category {category}"
        for tag in tags.split(", ") if tags else ():
            if tag in rule.tags:
                return f"tag {tag}"
        return None

    def _cap(self, rule: int) -> float:
        cap = self.rules[rule].max_upload_speed
        return float("inf") if cap is None else cap

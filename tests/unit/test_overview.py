"""Numbers about a decision, overrides among them, and what a strategy forgets."""

from dataclasses import dataclass

import pytest

from qguard import overview
from qguard.ledger import Control
from qguard.policy import NO_CAP
from qguard.summary import Caps, summarise
from tests.support.columns import applied, decide, rules, torrents

BUSY = [{"upspeed": 50_000}] * 3


def override(rate: int, until: float | None = None) -> dict[tuple[str, str], Control]:
    return {("override", "alpha"): Control({"rate": rate, "until": until, "reason": "guests"}, 0.0, "api", "")}


@pytest.mark.parametrize("rate", [300_000, 3_000_000])
def test_limits_add_up_to_the_override_while_it_lasts(rate: int) -> None:
    decided = decide(torrents(BUSY), rules(controls=override(rate, until=100.0), now=99.0))
    assert applied(decided)[0].up_limit.sum() == rate
    assert overview.tracker_stats(decided)["alpha"].override is not None


def test_an_override_that_is_over_counts_no_more() -> None:
    decided = decide(torrents(BUSY), rules(controls=override(300_000, until=100.0), now=100.0))
    assert applied(decided)[0].up_limit.sum() == 1_000_000
    assert overview.tracker_stats(decided)["alpha"].override is None


def test_an_override_without_cap_gives_the_originals_back() -> None:
    limited = decide(torrents(BUSY), rules())
    seen, claims = applied(limited)
    freed = decide(seen, rules(controls=override(NO_CAP)), claims)
    assert applied(freed, claims)[0].up_limit.tolist() == [0, 0, 0]
    assert overview.tracker_stats(freed)["alpha"].cap is None


def test_scores_sort_torrents_by_the_part_of_their_limit_that_they_use() -> None:
    seen = torrents([{"upspeed": rate} for rate in (250_000, 150_000, 60_000, 20_000)])
    scores = overview.scores(decide(seen, rules()))
    assert (scores.high, scores.medium, scores.low, scores.ignored) == (1, 1, 1, 1)


@dataclass(frozen=True)
class Smoothed:
    caps: dict[str, float]
    lent: dict[str, float]
    turn: int = 7


def test_a_strategy_forgets_one_tracker_and_keeps_the_rest() -> None:
    state, count = overview.forget(Smoothed({"a": 1.0, "b": 2.0}, {"a": 3.0}), "a", ["a", "b"])
    assert (state, count) == (Smoothed({"b": 2.0}, {}), 1)


def test_a_strategy_forgets_everything_when_all_is_said() -> None:
    assert overview.forget(Smoothed({"a": 1.0, "b": 2.0}, {}), None, ["a", "b"]) == (None, 2)


def test_a_strategy_that_remembers_nothing_has_nothing_to_forget() -> None:
    assert overview.forget(None, None, ["a", "b"]) == (None, 0)
    assert overview.forget(None, "a", ["a", "b"]) == (None, 0)


def test_a_summary_is_in_units_for_people() -> None:
    found = summarise({"a": Caps(2**20, 3 * 2**19, 2**19), "b": Caps(None, None, 0)}, [("f" * 40, 0, 10_240)])
    capped, free = found.trackers
    assert (capped.base_cap_mbps, capped.effective_cap_mbps, capped.borrowed_h) == (1.0, 1.5, "512.0 KiB/s")
    assert (free.base_cap_mbps, free.base_cap_h) == (None, "unlimited")
    (change,) = found.top_changes
    assert (change.new_limit_kib, change.delta_kib, change.delta_h) == (10.0, None, "unlimited to 10.0 KiB/s")

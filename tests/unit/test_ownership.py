"""Whose limit is it? Every way in which the client's value and our last write can differ."""

import numpy as np
import pytest

from qguard.ownership import NONE, columns, reconcile, suspects
from tests.support.columns import claim, torrents

OURS, EARLIER, HAND = 50_000, 70_000, 12_345


def judge(value: int, *, reset: bool, reassert: bool = False, **of_claim: object) -> tuple[str, dict[str, object]]:
    """How one torrent with this value is judged: ours, foreign or reset, and the findings."""
    one = torrents([{"up_limit": value}])
    ((key, held),) = [claim(0, **({"original": 0, "written": OURS} | of_claim))]
    own = columns({key: held}, one, 100.0)
    maybe = np.array([reset])
    asked = [one.keys(suspects(own, one, maybe))]
    before = {key: frozenset({EARLIER, OURS})} if asked else {}
    after, found = reconcile(own, one, maybe, written_before=before, reassert=np.array([reassert]))
    verdict = "foreign" if after.foreign[0] else "reset" if found.reset else "ours"
    return verdict, {"outcomes": [outcome for _, outcome, _ in found.outcomes], "seen": len(found.seen)}


@pytest.mark.parametrize(
    ("value", "reset", "verdict"),
    [
        (OURS, False, "ours"),
        (OURS, True, "ours"),
        (HAND, False, "foreign"),
        (HAND, True, "foreign"),
        (EARLIER, False, "foreign"),
        (EARLIER, True, "reset"),
        (0, False, "foreign"),  # the original, put back by hand while the client ran on
        (0, True, "reset"),
    ],
)
def test_values_after_a_known_write(value: int, reset: bool, verdict: str) -> None:
    assert judge(value, reset=reset)[0] == verdict


@pytest.mark.parametrize(("value", "outcome"), [(60_000, "applied"), (OURS, "lost"), (0, "lost"), (HAND, "overridden")])
def test_a_write_of_unknown_outcome_is_settled_by_what_is_there(value: int, outcome: str) -> None:
    verdict, found = judge(value, reset=False, pending=60_000, pending_change=7)
    assert found["outcomes"] == [outcome]
    assert (verdict == "foreign") == (outcome == "overridden")


def test_the_first_write_of_unknown_outcome_is_lost_when_the_original_is_there() -> None:
    assert judge(0, reset=False, written=None, pending=60_000, pending_change=7)[1]["outcomes"] == ["lost"]


def test_reassert_takes_a_foreign_value_as_one_to_overwrite() -> None:
    verdict, found = judge(HAND, reset=False, reassert=True)
    assert (verdict, found["seen"]) == ("reset", 1)


@pytest.mark.parametrize("hold", ["foreign", "rollback"])
def test_held_torrents_are_not_judged(hold: str) -> None:
    verdict, found = judge(HAND, reset=False, hold=hold, hold_value=1)
    assert found == {"outcomes": [], "seen": 0}
    assert verdict in {"ours", "foreign"}


def test_a_claim_on_a_torrent_that_was_added_again_does_not_count() -> None:
    again = torrents([{"added_on": 1_800_000_000}])
    own = columns(dict([claim(0, written=OURS)]), again, 100.0)
    assert (own.claimed.tolist(), own.original.tolist()) == ([False], [NONE])

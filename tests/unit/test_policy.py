"""Commands and file together: percentages and pauses."""

from qguard import policy
from qguard.ledger import Control
from tests.support.columns import rules

TWO = """
  - {id: a, match: [a.example], max_upload_speed: 5000, rollout_percentage: 30}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


def controls(**values: object) -> dict[tuple[str, str], Control]:
    return {tuple(key.split("__")): Control(value, 0.0, "me", "test") for key, value in values.items()}


def percent(given: dict, tracker: str, **keys: object) -> int:
    return policy.percentage(rules(TWO, **keys).settings, given, tracker)


def test_a_trackers_own_percentage_goes_before_the_global_one() -> None:
    assert (percent({}, "a"), percent({}, "rest")) == (30, 100)


def test_a_command_goes_before_the_file_until_the_file_changes() -> None:
    given = {("rollout", "*"): Control({"percentage": 10, "file": 100}, 0.0, "me", "")}
    assert percent(given, "rest") == 10
    assert percent(given, "rest", rollout_percentage=50) == 50
    assert percent(given, "a") == 30


def test_a_command_for_a_tracker_holds_for_it_alone() -> None:
    given = {("rollout", "a"): Control({"percentage": 0, "file": 30}, 0.0, "me", "")}
    assert (percent(given, "a"), percent(given, "rest")) == (0, 100)


def test_pauses_end_by_themselves() -> None:
    given = controls(pause__a={"until": 100.0})
    assert policy.pause_reason(given, "a", 99.0) == "paused by me: test"
    assert policy.pause_reason(given, "a", 100.0) == ""
    assert policy.pause_reason(given, "rest", 0.0) == ""
    assert policy.pause_reason(controls(**{"pause__*": {"until": None}}), "rest", 1e12)


def test_what_is_paused_or_dry_is_not_written() -> None:
    assert rules(TWO, controls(pause__a={"until": None})).paused.tolist() == [True, False]
    assert rules(TWO, dry_run="true").observe_only == "global.dry_run is on"
    assert rules(TWO).observe_only == ""

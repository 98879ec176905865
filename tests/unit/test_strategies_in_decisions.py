"""Strategies with a memory, decision by decision: previews, rollouts, standstill, forgetting, and what is told."""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from allocators.base import Allocation, BadAllocationError, Options, Request, load_strategy
from qguard import decision, overview, report
from qguard.decision import Decision, State
from qguard.ledger import Claim, Key
from qguard.policy import Policy
from qguard.snapshot import Torrents
from tests.support.columns import applied, changes, decide, infohash, rules, torrents

ROOT = Path(__file__).parents[2]
OURS = ["adaptive", "equal", "soft", "weighted"]
REMEMBERING = ["adaptive", "soft", "weighted"]
TURN = 5.0
"""Seconds between two decisions."""

LENDING = """
  - {id: alpha, match: [alpha.example], max_upload_speed: 4000000}
  - {id: beta, match: [beta.example], max_upload_speed: 2000000}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""
QUIET = 50_000
"""bytes/s that a torrent of alpha wants which leaves most of alpha's cap to be lent."""
ALL = 10_000_000
"""More bytes/s than there are."""


@dataclass
class Client:
    """A client whose torrents upload what they want and their limits allow, and the ledger's claims on them."""

    there: Torrents
    claims: dict[Key, Claim] = field(default_factory=dict)
    at: float = 0.0

    @classmethod
    def of(cls, alpha: int, beta: int, leechers: Sequence[int] = (5,)) -> "Client":
        hosts = ["alpha.example"] * alpha + ["beta.example"] * beta
        return cls(torrents([{"host": h, "leechers": leechers[n % len(leechers)]} for n, h in enumerate(hosts)]))

    def pass_time(self, wants: Sequence[int], seconds: float = TURN) -> None:
        """Upload for a while. `wants`: bytes/s of each torrent."""
        limit = np.where(self.there.up_limit == 0, np.inf, self.there.up_limit)
        rate = np.minimum(np.array(wants), limit).astype(np.int64)
        uploaded = self.there.uploaded + (rate * seconds).astype(np.int64)
        self.there = replace(self.there, upspeed=rate, uploaded=uploaded)
        self.at += seconds

    def decide(self, rule_set: Policy, state: State | None) -> Decision:
        return decide(self.there, rule_set, self.claims, state, at=self.at)

    def take(self, decided: Decision) -> None:
        """Let the plan go through."""
        self.there, self.claims = applied(decided, self.claims)

    def live(self, rule_set: Policy, wants: Sequence[int], turns: int, state: State | None = None) -> Decision:
        """So many turns; the last decision, which has gone through."""
        for _ in range(turns):
            self.pass_time(wants)
            decided = self.decide(rule_set, state)
            self.take(decided)
            state = decided.state
        return decided


PHASES: list[list[int]] = [
    [0, 0, 0, 0, 0, 0],
    [QUIET, QUIET, 0, ALL, ALL, 30_000],
    [QUIET, ALL, 0, ALL, 200_000, 30_000],
    [ALL, ALL, 400_000, ALL, ALL, ALL],
    [ALL, 0, 0, 0, 0, 700_000],
]
"""What three torrents of alpha and three of beta want, bytes/s: all quiet, lending, in between, all busy, and the
other way round."""
ENOUGH = 3
"""Decisions of a history that write something: `equal` moves when torrents wake and fall asleep, and at no other time.
A history in which nothing happens would show nothing."""


def history(name: str, turns: int = 4, **keys: Any) -> list[tuple[Client, Policy, State | None]]:
    """What every decision of a run through all phases begins with."""
    rule_set, client, state = rules(LENDING, allocation_strategy=name, **keys), Client.of(3, 3, [1, 20, 4]), None
    moments = []
    for wants in PHASES:
        for _ in range(turns):
            client.pass_time(wants)
            moments.append((replace(client), rule_set, state))
            decided = client.decide(rule_set, state)
            client.take(decided)
            state = decided.state
    return moments


@pytest.mark.parametrize("name", OURS)
def test_i07_any_number_of_previews_changes_nothing_of_the_cycle_after_them(name: str) -> None:
    moved = 0
    for client, rule_set, state in history(name):
        before = pickle.dumps(state)
        previews = [client.decide(rule_set, state) for _ in range(3)]
        assert pickle.dumps(state) == before, "a preview changed what the next decision begins with"
        cycle = client.decide(rule_set, state)
        assert [list(changes(one).items()) for one in previews] == [list(changes(cycle).items())] * 3
        assert pickle.dumps(previews[-1].state.strategy) == pickle.dumps(cycle.state.strategy)
        moved += len(changes(cycle)) > 0
    assert moved >= ENOUGH


@pytest.mark.parametrize("name", OURS)
def test_i10_torrents_in_the_rollout_get_the_limits_of_a_hundred_percent(name: str) -> None:
    seen = set()
    for client, rule_set, state in history(name):
        whole = client.decide(rule_set, state)
        for percentage in (0, 20, 50, 90):
            part = client.decide(replace(rule_set, percentage=np.full(3, percentage)), state)
            inside = part.planned.managed
            assert part.allocated.limit.tolist() == whole.allocated.limit.tolist()
            assert part.planned.wanted[inside].tolist() == whole.planned.wanted[inside].tolist()
            assert pickle.dumps(part.state.strategy) == pickle.dumps(whole.state.strategy)
            seen.add(int(inside.sum()))
    assert len(seen) >= 3, f"of six torrents only ever {seen} were inside"


@pytest.mark.parametrize("name", OURS)
def test_i11_the_same_snapshot_twice_writes_nothing_the_second_time(name: str) -> None:
    moved = 0
    for client, rule_set, state in history(name):
        first = client.decide(rule_set, state)
        client.take(first)
        second = client.decide(rule_set, first.state)
        assert changes(second) == {}
        moved += len(changes(first)) > 0
    assert moved >= ENOUGH


@pytest.mark.parametrize("name", ["equal", "soft", "weighted"])
@pytest.mark.parametrize("wants", PHASES)
def test_i11_a_client_that_goes_on_as_it_is_is_left_alone(name: str, wants: list[int]) -> None:
    client, rule_set = Client.of(3, 3, [1, 20, 4]), rules(LENDING, allocation_strategy=name)
    # A minute: torrents have fallen asleep or grown, and so have bonuses.
    state = client.live(rule_set, wants, 12).state
    for _ in range(60):
        client.pass_time(wants)
        decided = client.decide(rule_set, state)
        assert changes(decided) == {}
        state = decided.state


@pytest.mark.parametrize("wants", PHASES)
def test_adaptive_steers_a_client_that_goes_on_as_it_is_now_and_then(wants: list[int]) -> None:
    client, rule_set = Client.of(3, 3, [1, 20, 4]), rules(LENDING, allocation_strategy="adaptive")
    state = client.live(rule_set, wants, 12).state
    moved = 0
    for _ in range(60):
        client.pass_time(wants)
        decided = client.decide(rule_set, state)
        moved += len(changes(decided)) > 0
        client.take(decided)
        state = decided.state
    # Its trim looks for a level until the cap is used: two trackers, once a minute each at most.
    assert moved <= 2 * 5


@pytest.mark.parametrize("name", OURS)
def test_limits_stay_within_the_caps_in_every_decision(name: str) -> None:
    for client, rule_set, state in history(name):
        decided = client.decide(rule_set, state)
        most = rule_set.overcommit if name == "adaptive" else 1.0
        cap = decided.allocated.effective_cap
        assert (decided.planned.promised <= np.where(cap > 0, most * cap, 0)).all()
        assert cap[:2].sum() <= 6_000_000


def test_a_tracker_that_wakes_has_its_cap_back_in_the_next_decision() -> None:
    client, rule_set = Client.of(3, 3), rules(LENDING, allocation_strategy="soft")
    lent = client.live(rule_set, [QUIET] * 3 + [ALL] * 3, 12)
    assert report.caps_of(lent)["beta"].borrowed == 1_000_000
    client.pass_time([ALL] * 6)
    woken = client.decide(rule_set, lent.state)
    client.take(woken)
    state, turns = woken.state, 1
    while report.caps_of(woken)["alpha"].effective_cap != 4_000_000:
        assert sum(caps.effective_cap or 0 for caps in report.caps_of(woken).values()) <= 6_000_000
        client.pass_time([ALL] * 6)
        woken = client.decide(rule_set, state)
        client.take(woken)
        state, turns = woken.state, turns + 1
    assert turns <= 4, "doubling from nothing to all of a cap"
    assert report.caps_of(woken)["beta"].borrowed == 0
    assert client.there.up_limit[3:].sum() <= 2_000_000


class Spy:
    """A strategy that keeps what it is given, and answers as `equal`."""

    def __init__(self, remembers: str) -> None:
        self.states: list[Any] = []
        self._remembers = remembers

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, str]:
        self.states.append(state)
        return load_strategy("equal", Options()).allocate(request, None)[0], self._remembers


def test_another_strategy_is_not_given_the_state_of_the_one_before() -> None:
    client, state = Client.of(2, 2), None
    one, other = Spy("of one"), Spy("of the other")
    named = {
        spy: replace(rules(LENDING, allocation_strategy=name), allocator=spy)
        for spy, name in ((one, "weighted"), (other, "soft"))
    }
    for spy in (one, one, other, other, one):
        client.pass_time([QUIET] * 4)
        state = client.decide(named[spy], state).state
    assert one.states == [None, "of one", None]
    assert other.states == [None, "of the other"]


@pytest.mark.parametrize("to", OURS)
@pytest.mark.parametrize("from_", OURS)
def test_strategies_can_be_switched_at_any_time(from_: str, to: str) -> None:
    client, wants = Client.of(3, 3, [1, 20, 4]), PHASES[1]
    state = client.live(rules(LENDING, allocation_strategy=from_), wants, 6).state
    fresh = replace(state, strategy=None, strategy_name="")
    rule_set = rules(LENDING, allocation_strategy=to)
    client.pass_time(wants)
    switched = client.decide(rule_set, state)
    if from_ != to:
        assert switched.allocated.limit.tolist() == client.decide(rule_set, fresh).allocated.limit.tolist()
    client.take(switched)
    assert changes(client.decide(rule_set, switched.state)) == {}


# Forgetting


@pytest.mark.parametrize("name", ["soft", "adaptive"])
def test_one_tracker_is_forgotten_and_the_other_kept(name: str) -> None:
    client, rule_set = Client.of(3, 3), rules(LENDING, allocation_strategy=name)
    state = client.live(rule_set, PHASES[1], 6).state
    forgotten, count = overview.forget(state.strategy, "beta", ["alpha", "beta", "rest"])
    assert count == 1
    assert forgotten.loans == {"alpha": state.strategy.loans["alpha"]}
    if name == "adaptive":
        assert forgotten.courses == {"alpha": state.strategy.courses["alpha"]}
    assert forgotten.torrents is state.strategy.torrents
    assert set(state.strategy.loans) == {"alpha", "beta"}, "what previews hold is another thing"
    assert overview.forget(state.strategy, None, ["alpha", "beta", "rest"]) == (None, 2)
    client.pass_time(PHASES[1])
    after = client.decide(rule_set, replace(state, strategy=forgotten))
    assert set(after.state.strategy.loans) == {"alpha", "beta"}


def test_a_bonus_that_grew_slowly_is_there_at_once_after_forgetting() -> None:
    client, rule_set = Client.of(3, 3), rules(LENDING, allocation_strategy="soft")
    lent = client.live(rule_set, [ALL] * 6, 6)
    # Alpha's torrents are taken to want what they used for some seconds; then there is much to borrow at once.
    state = lent.state
    for _ in range(20):
        client.pass_time([QUIET] * 3 + [ALL] * 3)
        decided = client.decide(rule_set, state)
        forgotten, _ = overview.forget(state.strategy, "beta", rule_set.ids)
        at_once = client.decide(rule_set, replace(state, strategy=forgotten))
        slowly, quickly = (report.caps_of(one)["beta"].borrowed for one in (decided, at_once))
        assert slowly <= quickly
        if slowly < quickly:
            return
        client.take(decided)
        state = decided.state
    pytest.fail("nothing was ever smoothed")


def test_weighted_has_nothing_by_tracker_to_forget_but_can_forget_all() -> None:
    client, rule_set = Client.of(3, 3), rules(LENDING, allocation_strategy="weighted")
    state = client.live(rule_set, PHASES[1], 6).state
    same, count = overview.forget(state.strategy, "beta", rule_set.ids)
    assert (same.limit is state.strategy.limit, count) == (True, 0)
    assert overview.forget(state.strategy, None, rule_set.ids)[0] is None


# What is told


def distribution(decided: Decision) -> tuple[int, int, int, int]:
    found = overview.scores(decided)
    return found.high, found.medium, found.low, found.ignored


@pytest.mark.parametrize("name", ["soft", "weighted"])
def test_scores_are_sorted_where_a_strategy_gives_them(name: str) -> None:
    # 0.6 for 20 leechers, 0.4 for 1 MiB/s: 1.0, 0.8 (12 leechers: 0.36), 0.6, 0.3, 0.19, and 0 asleep.
    seen = torrents(
        [
            {"leechers": leechers, "upspeed": rate}
            for leechers, rate in ((40, 2**20), (20, 2**19), (20, 20_000), (10, 20_000), (6, 20_000), (0, 0))
        ]
    )
    decided = decide(seen, rules(allocation_strategy=name))
    assert distribution(decided) == (2, 1, 1, 2)
    assert distribution(decide(seen, rules(allocation_strategy=name, rollout_percentage=0))) == (0, 0, 0, 0)


def test_bounds_of_scores_belong_to_the_better_bucket() -> None:
    seen = torrents([{"leechers": n, "upspeed": 20_000} for n in (20, 16, 10, 4, 3)])
    policy = rules(allocation_strategy="weighted", leechers_weight=1.0)
    assert distribution(decide(seen, policy)) == (2, 1, 1, 1)


@pytest.mark.parametrize("name", ["adaptive", "equal"])
def test_without_scores_the_part_of_its_limit_counts_that_a_torrent_uses(name: str) -> None:
    client, rule_set = Client.of(3, 0, [40]), rules(LENDING, allocation_strategy=name)
    decided = client.live(rule_set, [ALL, 20_000, 0], 12)
    used = decided.estimated.demand.rate / decided.planned.wanted
    expected = [
        int(((used >= low) & (used < high)).sum()) for low, high in ((0.8, 9), (0.5, 0.8), (0.2, 0.5), (-1, 0.2))
    ]
    assert list(distribution(decided)) == expected
    assert expected[0] >= 1
    assert report.scores(decided) is None


def explained(decided: Decision, number: int) -> report.Explanation:
    (row,) = decided.reading.torrents.rows_of([infohash(number)])
    return report.explain(decided, int(row), None)


def test_explain_says_what_a_share_came_from() -> None:
    client, rule_set = Client.of(3, 3, [10, 20, 0]), rules(LENDING, allocation_strategy="soft")
    decided = client.live(rule_set, [QUIET, 0, 0, ALL, ALL, ALL], 12)
    quiet, asleep, busy = (explained(decided, number) for number in (0, 1, 3))
    assert (quiet.strategy, quiet.pressing, busy.pressing, asleep.pressing) == ("soft", False, True, False)
    assert (busy.cap, busy.effective_cap, busy.borrowed) == (2_000_000, 3_000_000, 1_000_000)
    assert (quiet.cap, quiet.borrowed) == (4_000_000, 0)
    assert quiet.claim is not None
    assert QUIET * 1.2 <= quiet.claim <= 2 * (QUIET * 1.25 + 4096)
    assert (busy.claim, asleep.claim) == (None, None)
    assert quiet.score == pytest.approx(0.6 * 0.5 + 0.4 * QUIET / 2**20, abs=0.02)
    assert busy.score is not None
    assert busy.score > quiet.score
    assert (quiet.level, busy.level) == (None, None)


def test_explain_says_what_level_adaptive_has() -> None:
    client, rule_set = Client.of(3, 3), rules(LENDING, allocation_strategy="adaptive")
    decided = client.live(rule_set, [QUIET, 0, 0, ALL, ALL, ALL], 12)
    quiet, busy = explained(decided, 0), explained(decided, 3)
    assert busy.level == busy.wanted == decided.state.strategy.courses["beta"].level
    assert (busy.pressing, busy.claim, busy.score) == (True, None, None)
    assert quiet.claim is not None
    assert quiet.level is None or quiet.level > (quiet.wanted or 0)


def test_explain_of_equal_knows_neither_claim_nor_score_nor_level() -> None:
    client = Client.of(3, 3)
    told = explained(client.live(rules(LENDING), [ALL] * 6, 3), 0)
    assert (told.strategy, told.claim, told.score, told.level, told.borrowed) == ("equal", None, None, None, 0)


def test_explain_of_a_torrent_that_takes_no_part() -> None:
    seen = torrents([{"host": "other.example", "upspeed": 50_000}, {"upspeed": 50_000}])
    told = explained(decide(seen, rules(allocation_strategy="weighted")), 0)
    assert (told.tracker, told.claim, told.score, told.borrowed) == ("rest", None, None, 0)


# Strategies from elsewhere


class Third:
    """A strategy that does as it is told."""

    def __init__(self, work: Callable[[Request, Any], Any]) -> None:
        self.allocate = work


def asked(work: Callable[[Request, Any], Any], state: State | None = None) -> Decision:
    client = Client.of(2, 2)
    client.pass_time([QUIET] * 4)
    return client.decide(replace(rules(LENDING), allocator=Third(work)), state)


def good(request: Request) -> Allocation:
    return load_strategy("equal", Options()).allocate(request, None)[0]


def refused(work: Callable[[Request, Any], Any], state: State | None = None) -> str:
    with pytest.raises(BadAllocationError) as error:
        asked(work, state)
    words = str(error.value)
    assert words.startswith("strategy 'equal' is refused, nothing was written: ")
    assert "\n" not in words
    return words


def test_whatever_a_strategy_raises_bears_its_name() -> None:
    def fails(request: Request, state: Any) -> Any:
        raise KeyError("a line\nand another " + "x" * 1000)

    words = refused(fails)
    assert "it raised KeyError: 'a line" in words
    assert len(words) < 100 + decision.LONGEST_FAULT


@pytest.mark.parametrize("answer", [None, 7, (), (None, None), ([1, 2], None), "four"])
def test_whatever_is_no_answer_bears_its_name(answer: Any) -> None:
    refused(lambda request, state: answer)


@pytest.mark.parametrize(
    "column", [name for name in Request.__dataclass_fields__ if name not in {"tracker", "link", "elapsed"}]
)
def test_the_question_cannot_be_changed(column: str) -> None:
    def changes_it(request: Request, state: Any) -> Any:
        getattr(request, column)[:1] = getattr(request, column)[1:2]
        return good(request), None

    assert "read-only" in refused(changes_it)


def test_a_state_changed_in_place_is_refused() -> None:
    def counts(request: Request, state: Any) -> Any:
        state["column"][0] += 1
        return good(request), state

    state = State(strategy={"column": np.zeros(3)}, strategy_name="equal")
    assert "changed its state in place" in refused(counts, state)


def test_a_state_that_cannot_be_compared_is_let_through() -> None:
    state = State(strategy=lambda: 0, strategy_name="equal")
    assert asked(lambda request, state: (good(request), state), state).state.strategy is state.strategy


def test_where_a_strategy_broke_down_is_logged_once() -> None:
    def fails(request: Request, state: Any) -> Any:
        raise ArithmeticError("only this once")

    with capture_logs() as lines:
        for _ in range(3):
            refused(fails)
    (told,) = [str(line["event"]) for line in lines]
    assert told.startswith("strategy 'equal' broke down:\nTraceback")
    assert "in fails" in told
    assert told.endswith("ArithmeticError: only this once")


def test_the_example_of_the_docs_is_the_one_that_is_tested() -> None:
    package, text = ROOT / "tests" / "strategy_package", (ROOT / "docs" / "strategies-of-your-own.md").read_text()
    assert (package / "qguard_strategies_for_tests" / "rounded.py").read_text() in text
    (line,) = [line for line in (package / "pyproject.toml").read_text().splitlines() if line.startswith("rounded =")]
    assert f'[project.entry-points."qguard.allocators"]\n{line}\n' in text

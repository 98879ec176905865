"""The examples of docs/strategies.md are what the strategies answer."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from allocators.base import MAX_LIMIT, Allocation, Options, Request, installed_strategies, load_strategy
from allocators.grid import FEW, round_down, round_up
from allocators.scoring import UNIT

DOCS = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()
MIB = 2**20


def request(caps: list[float], torrents: list[list[float]], *, leechers: int = 5, pressing: str = "") -> Request:
    """Caps and, tracker by tracker, the torrents' rates in MiB/s. `pressing`: a letter for each torrent, p for yes."""
    trackers, count = len(caps), sum(map(len, torrents))
    press = np.array([letter == "p" for letter in pressing.ljust(count)], np.bool_)
    return Request(
        tracker=tuple("ABC"[:trackers]),
        start=np.cumsum([0, *map(len, torrents[:-1])], dtype=np.int64),
        base_cap=(np.array(caps) * MIB).astype(np.int64),
        outside=np.zeros(trackers, np.int64),
        wakeups=np.full(trackers, 48),
        priority=np.ones(trackers, np.int64),
        guaranteed=np.zeros(trackers, np.int64),
        hard=np.zeros(trackers, np.bool_),
        may_lend=np.ones(trackers, np.bool_),
        may_borrow=np.ones(trackers, np.bool_),
        infohash=np.array([f"{n:040x}" for n in range(count)], "S40"),
        rate=np.array([rate * MIB for part in torrents for rate in part]),
        leechers=np.full(count, leechers),
        awake=np.array([rate > 0 for part in torrents for rate in part]),
        pressing=press,
        current=np.zeros(count, np.int64),
        floor=np.zeros(count, np.int64),
        ceiling=np.full(count, MAX_LIMIT),
    )


def first(name: str, asked: Request) -> Allocation:
    return load_strategy(name, Options()).allocate(asked, None)[0]


def mib(column: np.ndarray) -> list[float]:
    return [round(value / MIB, 2) for value in column.tolist()]


def test_every_strategy_of_ours_has_its_section() -> None:
    ours = [name for name in installed_strategies() if f"\n## {name}\n" in DOCS]
    assert {"adaptive", "equal", "soft", "weighted"} <= set(ours)


def test_sleepers_are_paid_for_by_the_cap() -> None:
    answer = first("equal", request([4], [[1.0] * 4 + [0.0] * 100]))
    assert mib(answer.limit[:4]) == [0.95] * 4
    assert answer.standing.tolist() == [4096]
    assert "48 standing limits of 4 KiB/s each" in DOCS


def test_equal() -> None:
    assert mib(first("equal", request([4], [[1.0] * 4])).limit) == [1.0] * 4
    limit = first("equal", request([4], [[0.01] * 400])).limit
    assert sorted(set(limit.tolist())) == [10485, 10486]
    assert limit.sum() == 4 * MIB
    assert "10,485 or 10,486 bytes/s each" in DOCS


@pytest.mark.parametrize(
    ("rates", "leechers", "pressing", "wanted", "words"),
    [
        ([0.8, 0.2], [40, 5], "", [3.6, 2.4], "| A 3.6 |"),
        ([0.8, 0.2, 0.2, 0.2], [40, 5, 5, 5], "pppp", [3.43, 0.86, 0.86, 0.86], "3.43 MiB/s, the others 0.86 MiB/s"),
        ([0.8, 0.2, 2.0], [40, 5, 5], "  p", [1.92, 0.48, 3.6], "1.92 and 0.48 MiB/s"),
    ],
)
def test_weighted(rates, leechers, pressing: str, wanted, words: str) -> None:
    asked = replace(request([6], [rates], pressing=pressing), leechers=np.array(leechers))
    assert mib(first("weighted", asked).limit) == wanted
    assert words.strip("| ") in DOCS


@pytest.mark.parametrize("name", ["weighted", "soft"])
def test_on_the_grid_twelve_torrents_have_three_limits(name: str) -> None:
    rates = [0.8, 0.79, 0.78, 0.77, 0.6, 0.6, 0.59, 0.58, 0.3, 0.3, 0.29, 0.29]
    scores = [0.6 * 5 / 20 + 0.4 * rate for rate in rates]
    assert [round(max(scores), 2), round(min(scores), 2)] == [0.47, 0.27]
    shares = np.array([int(12 * MIB * score / sum(scores)) for score in scores])
    assert mib(shares) == [1.26, 1.25, 1.24, 1.23, 1.05, 1.05, 1.03, 1.02, 0.72, 0.72, 0.71, 0.71]
    rounded = round_down(shares)
    assert mib(rounded) == [1.21] * 4 + [1.04] * 2 + [0.99] * 2 + [0.71] * 4
    lost = [1 - rounded[rounded == value].sum() / shares[rounded == value].sum() for value in np.unique(rounded)]
    assert [round(100 * part, 1) for part in lost] == [1.7, 3.5, 0.2, 2.9]
    limit = first(name, request([12], [rates], pressing="p" * 12)).limit
    assert limit.tolist() == [1_311_550] * 4 + [1_093_831] * 4 + [740_347] * 4
    assert limit.sum() == 12 * MIB
    assert mib(limit) == [1.25] * 4 + [1.04] * 4 + [0.71] * 4
    assert mib(round_up(rounded[:1] + 1)) == [1.27]
    assert "takes 1.21 most of the way to 1.27" in DOCS
    assert re.search(r"lost +2\.9 % +0\.2 % +3\.5 % +1\.7 %", DOCS)
    assert re.search(r"rounded +1\.21 each +1\.04 each +0\.99 each +0\.71 each", DOCS)
    assert re.search(r"limits +1\.25 each +1\.04 each +1\.04 each +0\.71 each", DOCS)
    assert "1.26  1.25  1.24  1.23   1.05  1.05   1.03  1.02   0.72  0.72  0.71  0.71 MiB/s" in DOCS
    assert "scores from 0.27 to 0.47" in DOCS
    assert "1,311,550, 1,093,831 and 740,347 bytes/s" in DOCS


@pytest.mark.parametrize("name", ["weighted", "soft"])
def test_equal_shares_stay_equal_and_a_few_are_exact(name: str) -> None:
    assert first(name, request([12], [[0.5] * 12], pressing="p" * 12)).limit.tolist() == [MIB] * 12
    assert round_down(np.array([MIB])) < MIB
    assert "twelve equal ones have 1,048,576 bytes/s each" in DOCS
    rates = [0.8, 0.79, 0.78, 0.77, 0.6, 0.6, 0.59, 0.58]
    weight = np.array([round((0.6 * 5 / 20 + 0.4 * rate) * UNIT) for rate in rates])
    few = first(name, request([8], [rates], pressing="p" * 8)).limit
    assert np.abs(few - 8 * MIB * weight / weight.sum()).max() < 1
    assert len(few) == FEW
    assert f"up to {FEW} torrents" in DOCS


def test_the_grid_is_as_described() -> None:
    values = np.unique(round_up(np.append(np.arange(1, 2**11), np.exp2(np.arange(11, 31, 0.01)).astype(np.int64))))
    assert values[:29].tolist() == [*range(1, 24), 25, 26, 27, 28, 30, 31]
    assert "1, 2, 3 ... 23, 25, 26, 27, 28, 30 and so on" in DOCS
    assert len(np.unique(np.append(values, MAX_LIMIT))) == 399
    assert "399 values" in DOCS


def test_soft_lends_and_gives_back_in_the_next_cycle() -> None:
    asked = replace(
        request([4, 2], [[1.0], [2.0]], pressing=" p"),
        current=np.array([4 * MIB, 2 * MIB]),
        priority=np.array([1, 10]),
    )
    soft = load_strategy("soft", Options())
    answer, state = soft.allocate(asked, None)
    assert mib(answer.effective_cap) == [3.0, 3.0]
    awake = replace(
        asked,
        rate=answer.limit.astype(float),
        current=answer.limit,
        pressing=np.array([True, True]),
        elapsed=5.0,
    )
    answer, _ = soft.allocate(awake, state)
    assert mib(answer.effective_cap) == [4.0, 2.0]


def test_soft_shares_what_is_lent_by_priority() -> None:
    asked = replace(
        request([4, 2, 2], [[2.6], [2.0], [2.0]], pressing=" pp"),
        current=np.array([4 * MIB, 2 * MIB, 2 * MIB]),
        priority=np.array([1, 3, 1]),
    )
    _, b, c = (first("soft", asked).effective_cap - asked.base_cap).tolist()
    assert b / c == pytest.approx(3, rel=0.001)
    assert 0 < b + c <= MIB


def test_adaptive() -> None:
    asked = request([10], [[0.25] * 8 + [1.0] * 2], pressing=" " * 8 + "pp")
    assert mib(first("equal", asked).limit) == [1.0] * 10
    limit = first("adaptive", asked).limit
    assert mib(limit) == [0.32] * 8 + [4.0] * 2
    assert round(limit.sum() / MIB, 1) == 10.6
    assert "add up to 10.6 MiB/s" in DOCS

"""I1: the limits of awake torrents and of K sleeping ones add up to no more than the effective cap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocators.base import MIN_LIMIT, BadAllocationError, Options, Request, check, promised_rate
from tests.properties.histories import STRATEGIES, strategy
from tests.properties.requests import requests


@pytest.mark.parametrize("name", STRATEGIES)
@given(request=requests())
def test_p01_limits_fit_the_cap(name: str, request: Request) -> None:
    # adaptive promises rates, unless it is held to limits
    answer, _ = strategy(name, Options(max_overcommit=1.0)).allocate(request, None)
    available = answer.effective_cap - request.outside
    for g, tracker in enumerate(request.tracker):
        rows = slice(request.start[g], request.start[g] + request.count[g])
        counted = request.awake[rows] | (request.floor[rows] > 0)
        sleepers = sorted(answer.limit[rows][~counted], reverse=True)[: request.wakeups[g]]
        total = int(answer.limit[rows][counted].sum()) + sum(map(int, sleepers))
        if tracker in answer.conflicts:
            assert (answer.limit[rows][counted] == MIN_LIMIT).all()
        else:
            assert total <= available[g]


@pytest.mark.parametrize("name", STRATEGIES)
@given(request=requests())
def test_p11_effective_caps_only_move_cap(name: str, request: Request) -> None:
    answer, _ = strategy(name, Options()).allocate(request, None)
    pool = int(request.base_cap.sum())
    assert int(answer.effective_cap.sum()) <= (pool if request.link is None else min(pool, request.link))
    assert (answer.effective_cap <= request.base_cap * 1.5).all()
    if name in {"equal", "weighted"}:
        assert (answer.effective_cap <= request.base_cap).all()


@given(request=requests(linked=False))
def test_equal_gives_the_whole_cap_to_awake_torrents_to_the_byte(request: Request) -> None:
    answer, _ = strategy("equal", Options()).allocate(request, None)
    for g, tracker in enumerate(request.tracker):
        rows = slice(request.start[g], request.start[g] + request.count[g])
        awake = request.awake[rows]
        if tracker in answer.conflicts or not awake.any():
            continue
        sleepers = int((~awake & (request.floor[rows] == 0)).sum())
        rounded = 1 << (sleepers - 1).bit_length() if sleepers else 0  # up to a power of two
        reserve = min(int(request.wakeups[g]), rounded) * int(answer.standing[g])
        held = int(answer.limit[rows][~awake & (request.floor[rows] > 0)].sum())
        left = int(request.base_cap[g] - request.outside[g]) - reserve - held
        assert int(answer.limit[rows][awake].sum()) == min(left, int(request.ceiling[rows][awake].sum()))


@given(request=requests(linked=False))
def test_equal_is_equal_up_to_a_byte_and_to_bounds(request: Request) -> None:
    answer, _ = strategy("equal", Options()).allocate(request, None)
    for g in range(len(request.tracker)):
        rows = slice(request.start[g], request.start[g] + request.count[g])
        limit, ceiling, floor = answer.limit[rows], request.ceiling[rows], request.floor[rows]
        free = request.awake[rows] & (limit < ceiling) & (limit > floor)
        if free.any():
            assert limit[free].max() - limit[free].min() <= 1
            bounded = request.awake[rows] & (limit == ceiling) & (floor < ceiling)
            assert (limit[bounded] <= limit[free].min() + 1).all()


@given(request=requests())
def test_standing_limits_take_at_most_5_percent(request: Request) -> None:
    answer, _ = strategy("equal", Options()).allocate(request, None)
    large = answer.standing > 1  # 1 B/s is the least there is
    assert (20 * answer.standing * request.wakeups <= request.base_cap)[large].all()
    sleeping = ~request.awake & (request.floor == 0)
    assert (answer.limit[sleeping] <= np.maximum(request.spread(answer.standing), 1)[sleeping]).all()


@given(request=requests(), which=st.integers(0, 1000))
def test_an_answer_over_the_cap_is_refused(request: Request, which: int) -> None:
    answer, _ = strategy("equal", Options()).allocate(request, None)
    check("equal", request, answer)
    awake = np.flatnonzero(request.awake)
    if not len(awake):
        return
    row = awake[which % len(awake)]
    g = int(np.searchsorted(request.start, row, side="right")) - 1
    room = int(answer.effective_cap[g] - request.outside[g] - promised_rate(request, answer.limit)[g])
    answer.limit[row] += max(room, 0) + 1
    with pytest.raises(BadAllocationError, match=r"'equal' is refused.*"):
        check("equal", request, answer)

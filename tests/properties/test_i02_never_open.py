"""I2: a capped torrent is only ever sent an integer from 1 to 2147483646."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocators.base import BadAllocationError, Options, Request, check
from qguard.qbittorrent.client import Address, QbittorrentClient
from tests.properties.histories import STRATEGIES, strategy
from tests.properties.requests import requests


@pytest.mark.parametrize("name", STRATEGIES)
@given(request=requests())
def test_p04_every_limit_is_one_that_the_client_keeps(name: str, request: Request) -> None:
    answer, _ = strategy(name, Options()).allocate(request, None)
    assert answer.limit.dtype == np.int64
    assert ((answer.limit >= 1) & (answer.limit <= 2147483646)).all()
    assert (answer.limit <= request.ceiling).all()


@given(
    request=requests().filter(lambda r: len(r.infohash)), value=st.sampled_from([0, -1, 2147483647, 2**31, 2**32 + 1])
)
def test_an_answer_that_would_open_a_torrent_is_refused(request: Request, value: int) -> None:
    answer, _ = strategy("equal", Options()).allocate(request, None)
    answer.limit[0] = value
    with pytest.raises(BadAllocationError, match="unlimited"):
        check("equal", request, answer)


@pytest.mark.parametrize("value", [0, -1, 2147483647, 2**31, 2**32 + 1, 10.5, "10", True, None, float("nan")])
def test_the_client_refuses_to_send_what_means_unlimited(value: object) -> None:
    async def send() -> None:
        client = QbittorrentClient(Address("http://127.0.0.1:1"))
        try:
            await client.set_limit(["0" * 40], value)
        finally:
            await client.close()

    with pytest.raises(ValueError, match="whole number from 1 to 2147483646"):
        asyncio.run(send())

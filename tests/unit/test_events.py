"""Listeners hear everything in order, and no listener holds up or outgrows the service."""

import asyncio

import pytest

from qguard.events import Events, TooManyListenersError


async def test_a_listener_hears_first_what_is_and_then_what_happens() -> None:
    events = Events()
    stream = events.listen(("health", {"status": "healthy"}))
    first = await anext(stream)
    events.publish("cycle", {"cycle": 1})
    events.publish("trackers", {})
    heard = [first, await anext(stream), await anext(stream)]
    assert [event.kind for event in heard] == ["health", "cycle", "trackers"]
    assert [event.id for event in heard] == [0, 1, 2]
    assert heard[1].data == b'{"cycle":1}'
    await stream.aclose()


async def test_a_listener_that_falls_behind_is_dropped_and_the_others_are_not() -> None:
    events = Events(backlog=2)
    slow, quick = events.listen(("health", 0)), events.listen(("health", 0))
    await anext(slow)
    await anext(quick)
    for number in range(3):
        events.publish("cycle", number)
        assert (await anext(quick)).data == str(number).encode()
    assert (events.dropped, len(events)) == (1, 1)
    assert [event async for event in slow] == []
    await quick.aclose()


async def test_only_so_many_may_listen_and_leaving_makes_room() -> None:
    events = Events(most=1)
    stream = events.listen(("health", 0))
    await anext(stream)
    assert events.is_full
    with pytest.raises(TooManyListenersError):
        await anext(events.listen())
    await stream.aclose()
    assert not events.is_full


async def test_closing_ends_all_streams() -> None:
    events = Events()
    stream = events.listen(("health", 0))
    await anext(stream)
    events.close()
    assert [event async for event in stream] == []


async def test_who_may_listen_no_longer_hears_nothing_more_even_when_nothing_happens() -> None:
    events, may = Events(), True
    stream = events.listen(("health", 0), may_listen=lambda: may, look_every=0.01)
    await anext(stream)
    events.publish("cycle", 1)
    assert (await anext(stream)).kind == "cycle"
    events.publish("cycle", 2)
    may = False
    assert [event async for event in stream] == []
    assert len(events) == 0

    asked = 0

    def may_once() -> bool:
        nonlocal asked
        asked += 1
        return asked == 1

    stream = events.listen(("health", 0), may_listen=may_once, look_every=0.01)
    await anext(stream)
    async with asyncio.timeout(10):
        assert [event async for event in stream] == []


async def test_after_the_end_a_listener_gets_what_is_and_no_more() -> None:
    events = Events()
    events.close()
    async with asyncio.timeout(10):
        assert [event.kind async for event in events.listen(("health", 0))] == ["health"]


async def test_an_announce_url_is_told_without_its_path() -> None:
    events = Events()
    stream = events.listen(("health", {"problem": "http://alpha.example/0123456789abcdef/announce"}))
    assert b"0123456789abcdef" not in (await anext(stream)).data
    await stream.aclose()

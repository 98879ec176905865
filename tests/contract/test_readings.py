"""Full listings are made as often as they are cheap; in between the active torrents are enough."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from qguard import observe
from qguard.config import load
from qguard.cycle import Memory
from qguard.ledger import Ledger
from qguard.rollback import Scope
from qguard.service import Service
from tests.support.daemon import PASSWORD, REQUIRED, USERNAME, VERSIONS, Daemon, unavailable_reason
from tests.support.proxy import Proxy
from tests.support.simulated import SIMULATED, AnyDaemons
from tests.support.torrents import make_torrents, seed

COUNT = 12
CONFIGURATION = """
global: {rollout_percentage: 100}
qbittorrent: {url: "http://127.0.0.1:%d", username: %s, password: %s}
trackers:
  - {id: capped, match: [127.0.0.2], max_upload_speed: 1000000}
  - {id: rest, pattern: ".*", max_upload_speed: unlimited}
"""


@pytest.fixture(params=[*VERSIONS, *SIMULATED])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Service, Proxy, Daemon]]:
    version = str(request.param)
    if version not in SIMULATED and (reason := unavailable_reason(version)):
        if version in REQUIRED:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with AnyDaemons() as daemons, daemons.start(version) as daemon, daemon.api() as api, Proxy(daemon.port) as proxy:
        seed(daemon, api, make_torrents(COUNT, daemon.data, tiers=[["http://127.0.0.2:9/announce"]]))
        path = tmp_path / "qguard.yaml"
        path.write_text(CONFIGURATION % (proxy.port, USERNAME, PASSWORD))
        loaded = load(path)
        service = Service(loaded, await Ledger.open(loaded.settings.rollback.database_path))
        yield service, proxy, daemon
        await service.close()


async def test_a_cheap_client_is_listed_in_full_every_time(scene: tuple[Service, Proxy, Daemon]) -> None:
    service, proxy, _ = scene
    for _ in range(3):
        await service.cycle(who="test", reason="")
        service._memory = expired(service)
    assert [request.form().get("filter") for request in proxy.requests("torrents/info")] == [None] * 3


async def test_limits_that_qguard_wrote_are_not_foreign_to_a_reading_of_the_active_ones(
    scene: tuple[Service, Proxy, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, proxy, _ = scene
    monkeypatch.setattr(observe, "pause_between", lambda _cost: 3600.0)
    first = await service.cycle(who="test", reason="")
    assert first.applied == COUNT
    second = await service.cycle(who="test", reason="")
    assert [request.form().get("filter") for request in proxy.requests("torrents/info")] == [None, "active"]
    assert (second.changed, second.requests) == (0, 1)
    assert not any(claim.hold for claim in service.ledger.claims.values())


async def test_after_a_failed_write_everything_is_listed_again(
    scene: tuple[Service, Proxy, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, proxy, daemon = scene
    monkeypatch.setattr(observe, "pause_between", lambda _cost: 3600.0)
    proxy.drop_reply("setUploadLimit")  # the client does it, and we do not hear of it
    await service.turn()
    assert "client" in service.problems
    await service.turn()
    assert service.problems == {}
    assert not any(claim.hold or claim.pending for claim in service.ledger.claims.values())
    with daemon.api() as api:
        assert len(set(api.limits().values())) == 1
    assert [request.form().get("filter") for request in proxy.requests("torrents/info")] == [None, None]


async def test_a_first_listing_that_lacks_what_the_ledger_knows_is_not_believed(
    scene: tuple[Service, Proxy, Daemon],
) -> None:
    service, proxy, _ = scene
    await service.cycle(who="test", reason="")
    service._memory = Memory()  # as after a restart of qguard
    proxy.rewrite("torrents/info", lambda body: json.dumps(json.loads(body)[:1]).encode())
    with pytest.raises(observe.ImplausibleError, match="1 torrents in one way and 12 in another"):
        await service.cycle(who="test", reason="")


async def test_a_rollback_is_seen_by_the_next_reading(
    scene: tuple[Service, Proxy, Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _, _ = scene
    monkeypatch.setattr(observe, "pause_between", lambda _cost: 3600.0)
    await service.cycle(who="test", reason="")
    done = await service.rollback(Scope(), who="test", reason="")
    assert (done.status, done.changes_reversed) == ("completed", COUNT)
    await service.resume(tracker=None, who="test", reason="")
    again = await service.cycle(who="test", reason="")
    assert again.applied == COUNT
    assert not any(claim.hold for claim in service.ledger.claims.values())


def expired(service: Service) -> Memory:
    """The memory of a cycle some time ago."""
    reading = service._memory.reading
    return replace(service._memory, reading=replace(reading, full_at=reading.full_at - 3600))

"""Finished torrents reach cross-seed, whatever it does, and nothing else of qguard notices."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from qguard import cross_seed
from qguard.config.model import CrossSeed
from qguard.cross_seed import Forwarder
from qguard.qbittorrent.decode import TorrentDetails
from qguard.qbittorrent.errors import UnreachableError
from tests.support.daemon import Daemon
from tests.support.ports import free_port
from tests.support.process import ALPHA, BETA, Seeds, Service, Setup, sown, until
from tests.support.torrents import make_torrent

KEY = "cross-seeds-own-key"


@dataclass
class Receiver:
    """What stands in for cross-seed: answers with the next of `statuses`, then with 204."""

    statuses: list[int] = field(default_factory=list)
    got: list[tuple[str | None, dict[str, Any]]] = field(default_factory=list)
    """The key and the JSON body of each request."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Closed: requests are taken and not answered."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/webhook"

    @property
    def hashes(self) -> list[str]:
        return [body["infoHash"] for _, body in self.got]


@contextmanager
def receiving(*statuses: int) -> Iterator[Receiver]:
    receiver = Receiver(list(statuses))
    receiver.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.got.append((self.headers["X-API-Key"], body))
            receiver.gate.wait(30)
            self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    with closing(server.socket):
        try:
            yield receiver
        finally:
            receiver.gate.set()
            server.shutdown()
            thread.join(10)


# Within a running service


@pytest.fixture(scope="module")
def planted(module_daemon: Callable[..., Daemon]) -> Iterator[Seeds]:
    with sown(module_daemon) as seeds:
        yield seeds


@pytest.fixture
def setup(planted: Seeds, tmp_path: Path) -> Setup:
    planted.reset()
    return Setup.of(tmp_path, planted)


def point(setup: Setup, url: str, *, enabled: bool = True) -> None:
    setup.config["cross_seed"] = {"enabled": enabled, "url": url, "api_key": KEY}
    setup.save()


def hook(service: Service, infohash: str, event: str = "complete", **more: str) -> float:
    """Send a hook; seconds until it was answered."""
    began = time.monotonic()
    answer = service.http.post("/webhook", data={"event": event, "hash": infohash, **more})
    assert answer.status_code == 202, answer.text
    return time.monotonic() - began


@pytest.mark.qbittorrent
def test_a_finished_torrent_is_passed_on_as_the_client_knows_it(planted: Seeds, setup: Setup) -> None:
    torrent = planted.torrents[ALPHA][0]
    planted.api.post("torrents/addTags", hashes=torrent.infohash, tags="one,two")
    with receiving() as receiver:
        point(setup, receiver.url)
        with setup.start() as service:
            hook(service, planted.torrents[BETA][0].infohash, "add")
            hook(service, torrent.infohash, name="a name of the hook's own")
            until(lambda: receiver.got, "the torrent at cross-seed")
            assert KEY not in service.log + service.http.get("/health").text
    ((key, body),) = receiver.got
    assert key == KEY
    assert body == {
        "infoHash": torrent.infohash,
        "name": torrent.name,
        "category": "",
        "tags": "one, two",
        "savePath": str(planted.daemon.data),
    }


@pytest.mark.qbittorrent
def test_what_the_client_does_not_have_is_not_passed_on(planted: Seeds, setup: Setup) -> None:
    known = planted.torrents[ALPHA][0].infohash
    with receiving() as receiver:
        point(setup, receiver.url)
        with setup.start() as service:
            for unknown in ("0" * 40, "f" * 64):
                hook(service, unknown)
            hook(service, known)  # it comes after them
            until(lambda: receiver.got, "the known torrent at cross-seed")
            assert "cross-seed" not in service.health()["problems"]
    assert receiver.hashes == [known]


@pytest.mark.qbittorrent
def test_hooks_of_anybody_near_reach_cross_seed_once_and_for_finished_torrents_only(
    planted: Seeds, setup: Setup
) -> None:
    unfinished = make_torrent("not-here-yet", None, tiers=[[f"http://{ALPHA}:9/announce"]])
    planted.api.add([("not-here-yet.torrent", unfinished.metainfo)], {"savepath": str(planted.daemon.data)})
    finished = planted.hashes[0]
    with receiving() as receiver:
        point(setup, receiver.url)
        try:
            until(lambda: unfinished.infohash in planted.api.torrents(), "the torrent that is not finished")
            with setup.start() as service:
                for _ in range(4):
                    hook(service, unfinished.infohash)
                    hook(service, finished)
                    until(lambda: receiver.got, "the finished torrent at cross-seed")
                until(lambda: not list(setup.folder.glob("*.cross-seed")), "nothing that waits")
                hooks = service.http.get("/stats").json()["hooks"]
        finally:
            planted.api.delete([unfinished.infohash])
    assert receiver.hashes == [finished]
    assert (hooks["cross_seed_forwarded"], hooks["cross_seed_dropped"]) == (1, 0)


@pytest.mark.qbittorrent
def test_a_cross_seed_that_hangs_holds_up_neither_hooks_nor_cycles(planted: Seeds, setup: Setup) -> None:
    with receiving() as receiver:
        receiver.gate.clear()
        point(setup, receiver.url)
        with setup.start() as service:
            hook(service, planted.hashes[0])
            until(lambda: receiver.got, "the first torrent at cross-seed")
            assert max(hook(service, name) for name in planted.hashes[1:]) < 0.5
            began = time.monotonic()
            service.cycle()
            assert time.monotonic() - began < 5.0
            assert len(receiver.got) == 1
            receiver.gate.set()
            until(lambda: len(receiver.got) == len(planted.hashes), "all torrents at cross-seed")
    assert sorted(receiver.hashes) == sorted(planted.hashes)


@pytest.mark.qbittorrent
def test_reload_switches_it_on_points_it_elsewhere_and_switches_it_off(planted: Seeds, setup: Setup) -> None:
    first, second, third, fourth = planted.hashes[:4]
    with receiving() as here, receiving() as there, setup.start() as service:
        hook(service, first)
        point(setup, here.url)
        service.reload()
        hook(service, second)
        until(lambda: here.got, "the second torrent here")
        point(setup, there.url)
        service.reload()
        hook(service, third)
        until(lambda: there.got, "the third torrent there")
        there.gate.clear()
        hook(service, fourth)
        until(lambda: len(there.got) == 2, "the fourth torrent there")
        hook(service, first)  # waits behind it, and is not wanted any more in a moment
        point(setup, there.url, enabled=False)
        service.reload()
        there.gate.set()
        hook(service, second)
        service.stop()
    assert (here.hashes, there.hashes) == ([second], [third, fourth])


END: dict[str, Callable[[Service], object]] = {"killed": Service.kill, "stopped": Service.stop}


@pytest.mark.qbittorrent
@pytest.mark.parametrize("end", END.values(), ids=END.keys())
def test_what_was_accepted_and_not_passed_on_is_passed_on_after_a_restart(
    planted: Seeds, setup: Setup, end: Callable[[Service], object]
) -> None:
    through, *waiting = planted.hashes[:5]
    with receiving() as receiver:
        point(setup, receiver.url)
        with setup.start() as service:
            hook(service, through)
            until(lambda: not list(setup.folder.glob("*.cross-seed")), "the first torrent passed on")
            receiver.gate.clear()
            for name in waiting:
                hook(service, name)
            until(lambda: len(receiver.got) == 2, "the second torrent at cross-seed, which does not answer")
            end(service)
        assert receiver.hashes == [through, waiting[0]]
        receiver.gate.set()
        with setup.start() as service:
            until(lambda: len(receiver.got) >= 2 + len(waiting), "those that waited")
            until(lambda: not list(setup.folder.glob("*.cross-seed")), "nothing that waits")
            assert "cross-seed" not in service.health()["problems"]
    assert receiver.hashes == [through, waiting[0], *waiting], "in order, and what was through is not sent again"


@pytest.mark.qbittorrent
def test_commands_beside_no_service_leave_alone_what_waits(planted: Seeds, setup: Setup) -> None:
    with receiving() as receiver:
        receiver.gate.clear()
        point(setup, receiver.url)
        with setup.start() as service:
            hook(service, planted.hashes[0])
            until(lambda: receiver.got, "the torrent at cross-seed")
            service.kill()
        (file,) = setup.folder.glob("*.cross-seed")
        kept = file.read_bytes()
        point(setup, receiver.url, enabled=False)
        setup.command("ledger").expect()
        setup.command("preview").expect()
    assert file.read_bytes() == kept
    assert file.stat().st_mode & 0o777 == 0o600


# The worker alone


class Client:
    """Has the torrents it is told of, all finished, and answers when it is told to."""

    def __init__(self, *names: str, aliases: dict[str, str] | None = None) -> None:
        self.names = set(names)
        self.progress: dict[str, float] = {}
        self.states: dict[str, str] = {}
        self.added_on = 1_700_000_000
        self.other = aliases or {}
        self.listings = 0
        self.away = 0

    async def details(self, infohash: str) -> TorrentDetails | None:
        if self.away:
            self.away -= 1
            raise UnreachableError("away")
        if infohash not in self.names:
            return None
        return TorrentDetails(
            infohash,
            name=infohash,
            added_on=self.added_on,
            progress=self.progress.get(infohash, 1.0),
            state=self.states.get(infohash, "stalledUP"),
        )

    async def aliases(self) -> dict[str, str]:
        self.listings += 1
        return self.other


@contextmanager
def no_more_than(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def names(count: int) -> list[str]:
    return [f"{number:040x}" for number in range(count)]


async def passed_on(forwarder: Forwarder, infohashes: Sequence[str]) -> None:
    """Offer all, wait until nothing waits any more, and end the worker."""
    for infohash in infohashes:
        forwarder.offer(infohash)
    assert forwarder._worker is not None
    while len(forwarder) and not forwarder._worker.done():
        await cross_seed.asyncio.sleep(0.01)  # the queue tells nobody when it is empty
    await forwarder.close()


def forward(
    url: str,
    client: Client,
    *,
    path: Path | None = None,
    enabled: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Forwarder:
    settings = CrossSeed(enabled=enabled, url=url, api_key=KEY)
    return Forwarder(lambda: settings, lambda: client, path=path, pause=0.01, clock=clock)  # type: ignore[arg-type, return-value] # a part of one


async def test_5xx_is_tried_again_until_it_is_taken() -> None:
    with receiving(503, 500) as receiver:
        forwarder = forward(receiver.url, Client(*names(1)))
        await passed_on(forwarder, names(1))
    assert receiver.hashes == names(1) * 3
    assert (forwarder.forwarded, forwarder.dropped, forwarder.problem) == (1, 0, "")


async def test_after_five_tries_a_torrent_is_dropped_counted_and_told_until_the_next_gets_through() -> None:
    with receiving(*[503] * 5) as receiver:
        forwarder = forward(receiver.url, Client(*names(2)))
        await passed_on(forwarder, names(1))
        assert len(receiver.got) == 5
        assert forwarder.dropped == 1
        assert forwarder.problem.startswith("1 finished torrents were not passed on to cross-seed")
        assert "503" in forwarder.problem
        await passed_on(forwarder, names(2)[1:])
    assert (forwarder.forwarded, forwarder.dropped, forwarder.problem) == (1, 1, "")


async def test_a_refused_connection_is_tried_again() -> None:
    forwarder = forward(f"http://127.0.0.1:{free_port()}/", Client(*names(1)))
    await passed_on(forwarder, names(1))
    assert forwarder.dropped == 1
    assert "cannot be reached" in forwarder.problem


@pytest.mark.parametrize(("status", "remedy"), [(401, "cross_seed.api_key"), (404, "cross_seed.url"), (302, "url")])
async def test_what_another_try_cannot_mend_is_not_tried_again(status: int, remedy: str) -> None:
    with receiving(status) as receiver:
        forwarder = forward(receiver.url, Client(*names(1)))
        await passed_on(forwarder, names(1))
    assert len(receiver.got) == 1
    assert remedy in forwarder.problem
    assert KEY not in forwarder.problem


async def test_a_client_that_is_away_is_waited_for() -> None:
    client = Client(*names(1))
    client.away = cross_seed.ATTEMPTS + 1
    with receiving() as receiver:
        forwarder = forward(receiver.url, client)
        await passed_on(forwarder, names(1))
    assert receiver.hashes == names(1)
    assert (forwarder.dropped, forwarder.problem) == (0, "")


async def test_a_hybrid_torrent_is_found_by_its_v1_hash_and_invented_hashes_cost_one_listing() -> None:
    v1, *invented = names(50)
    client = Client("d" * 40, aliases={v1: "d" * 40})
    with receiving() as receiver:
        forwarder = forward(receiver.url, client)
        await passed_on(forwarder, [v1, *invented])
    assert receiver.hashes == ["d" * 40]
    assert client.listings == 1
    assert (forwarder.unknown, forwarder.dropped) == (49, 0)


async def test_the_queue_is_bounded_and_what_does_not_fit_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_seed, "MOST", 3)
    with receiving() as receiver:
        forwarder = forward(receiver.url, Client(*names(5)))
        await passed_on(forwarder, [*names(5), names(1)[0]])
    assert receiver.hashes == names(3)
    assert forwarder.dropped == 2


async def test_what_the_client_has_not_finished_is_not_passed_on_and_is_no_problem() -> None:
    begun, almost, done = names(3)
    client = Client(begun, almost, done)
    client.progress |= {begun: 0.0, almost: 0.999}
    client.states[begun] = "missingFiles"
    with receiving() as receiver:
        forwarder = forward(receiver.url, client)
        await passed_on(forwarder, [begun, almost, done])
    assert receiver.hashes == [done]
    assert (forwarder.unfinished, forwarder.dropped, forwarder.problem) == (2, 0, "")


async def test_what_is_being_checked_is_waited_for() -> None:
    (name,) = names(1)

    class Checking(Client):
        looks = 0

        async def details(self, infohash: str) -> TorrentDetails | None:
            self.looks += 1
            self.progress[name], self.states[name] = (
                (1.0, "stalledUP") if self.looks > 2 else (0.3, "checkingResumeData")
            )
            return await super().details(infohash)

    client = Checking(name)
    with receiving() as receiver:
        await passed_on(forward(receiver.url, client), [name])
    assert (receiver.hashes, client.looks) == ([name], 3)


async def test_a_torrent_is_passed_on_once_however_often_its_hook_comes() -> None:
    first, second = names(2)
    now = [0.0]
    client = Client(first, second)
    with receiving() as receiver:
        forwarder = forward(receiver.url, client, clock=lambda: now[0])
        for _ in range(4):
            await passed_on(forwarder, [first, second])
            now[0] += cross_seed.REPEAT_AFTER / 5
        assert receiver.hashes == [first, second]
        assert (forwarder.forwarded, forwarder.repeated, forwarder.problem) == (2, 6, "")
        client.added_on += 1  # deleted, and added again
        await passed_on(forwarder, [first])
        now[0] += cross_seed.REPEAT_AFTER
        await passed_on(forwarder, [first])
        forwarder.reconfigured()
        await passed_on(forwarder, [first])
    assert receiver.hashes == [first, second, first, first, first]


async def test_what_was_not_taken_may_be_sent_again_and_what_is_worked_on_may_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, slow = names(2)
    with receiving(401, 204) as receiver:
        forwarder = forward(receiver.url, Client(refused, slow))
        await passed_on(forwarder, [refused])
        await passed_on(forwarder, [refused])
        assert receiver.hashes == [refused, refused]
        receiver.gate.clear()
        settings = CrossSeed(enabled=True, url=receiver.url, api_key=KEY)
        monkeypatch.setattr(forwarder, "_settings", lambda: settings.model_copy(update={"timeout": 0.1}))
        await passed_on(forwarder, [slow])
        assert "no answer" in forwarder.problem
        receiver.gate.set()
        await passed_on(forwarder, [slow])
    assert receiver.hashes == [refused, refused, slow]


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_seed, "REMEMBERED", 2)
    with receiving() as receiver:
        forwarder = forward(receiver.url, Client(*names(3)))
        await passed_on(forwarder, names(3))
        await passed_on(forwarder, names(3)[1:])
        assert len(receiver.got) == 3
        assert len(forwarder._passed) == 2


# The file


@dataclass
class File:
    """Where what waits is kept."""

    path: Path

    def write(self, content: bytes) -> None:
        self.path.write_bytes(content)

    @property
    def exists(self) -> bool:
        return self.path.exists()

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def waiting(self) -> list[str]:
        return cross_seed.Kept(self.path).read()

    def make_folder(self) -> None:
        self.path.parent.mkdir()


@pytest.fixture
def kept(tmp_path: Path) -> File:
    return File(tmp_path / "ledger.cross-seed")


def lines(infohashes: Sequence[str]) -> bytes:
    return b"".join(json.dumps({"hash": name}).encode() + b"\n" for name in infohashes)


async def drained(forwarder: Forwarder) -> None:
    """Take up what is in the file, and wait until nothing waits any more."""
    forwarder.start()
    while len(forwarder):
        await cross_seed.asyncio.sleep(0.01)  # the queue tells nobody when it is empty
    await forwarder.close()


async def test_a_damaged_file_costs_its_damaged_lines_only(kept: File) -> None:
    first, second, third = names(3)
    over = json.dumps({"hash": third, "over": True}).encode() + b"\n"
    strange = b'\x00\xff\n[]\n{"hash": "../../etc/passwd"}\n{"hash": 7}\n'
    kept.write(lines([first]) + strange + lines([third, second]) + over + lines([second])[:30])
    with receiving() as receiver:
        await drained(forward(receiver.url, Client(*names(3)), path=kept.path))
    assert receiver.hashes == [first, second]
    assert not kept.exists


async def test_a_file_with_more_than_may_wait_is_cut_and_the_rest_counted(
    kept: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_seed, "MOST", 3)
    kept.write(lines(names(5)))
    with receiving() as receiver:
        forwarder = forward(receiver.url, Client(*names(5)), path=kept.path)
        forwarder.start()
        assert forwarder.problem.startswith("2 finished torrents were not passed on")
        await drained(forwarder)
    assert receiver.hashes == names(3)
    assert forwarder.dropped == 2


async def test_the_file_stays_small_however_many_pass_through(kept: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_seed, "MOST", 3)
    most = cross_seed.LINES_PER_TORRENT * 3 * 70
    client, sizes = Client(*names(100)), []
    with receiving() as receiver:
        receiver.gate.clear()
        forwarder = forward(receiver.url, client, path=kept.path)
        stuck, *others = names(100)
        forwarder.offer(stuck)
        for name in others:  # one always waits, so that the file is never simply deleted
            forwarder.offer(name)
            forwarder._done(name)
            sizes.append(kept.size)
        await forwarder.close()
    assert max(sizes) <= most, sizes
    assert kept.waiting == [stuck]


async def test_what_waits_when_it_is_switched_off_is_let_go(kept: File) -> None:
    kept.write(lines(names(2)))
    with receiving() as receiver:
        forwarder = forward(receiver.url, Client(*names(2)), path=kept.path, enabled=False)
        forwarder.start()
        await forwarder.close()
    assert (receiver.hashes, len(forwarder), kept.exists) == ([], 0, False)


async def test_a_file_that_cannot_be_written_is_told_and_holds_nothing_up(tmp_path: Path) -> None:
    kept = File(tmp_path / "later" / "ledger.cross-seed")
    with receiving() as receiver:
        receiver.gate.clear()
        forwarder = forward(receiver.url, Client(*names(3)), path=kept.path)
        forwarder.offer(names(1)[0])
        assert f"a restart would lose what waits for cross-seed: {kept.path} cannot be used" in forwarder.problem
        kept.make_folder()
        forwarder.offer(names(2)[1])
        assert forwarder.problem == ""
        assert kept.waiting == names(2)
        receiver.gate.set()
        await passed_on(forwarder, names(3))
    assert receiver.hashes == names(3)
    assert not kept.exists

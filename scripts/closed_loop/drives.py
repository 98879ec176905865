"""Who limits the upload: nobody, qguard with one of its strategies, one who knows every demand, or a native group."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np

from qguard.hooks import hook_line
from scripts.closed_loop import transmission
from scripts.closed_loop.figures import Float64, level
from scripts.closed_loop.scenes import STRATEGIES, Scene
from tests.support.daemon import Daemon, unavailable_reason
from tests.support.proxy import Proxy
from tests.support.running import Qguard, login
from tests.support.torrents import Torrent, make_torrent, make_torrents, seed
from tests.support.tracker import Tracker
from tests.support.webapi import WebApi

OMNISCIENT: Final = "omniscient"
LATE: Final = "late"
NATIVE: Final = "native"
DRIVES: Final = ("none", *STRATEGIES, OMNISCIENT, LATE, NATIVE)

TELLS_AFTER: Final = {OMNISCIENT: 0.0, LATE: 2.5}
"""Seconds after which one learns of a demand. The second is what the client's counters tell: a demand that begins shows
after 1 to 3 s, one that ends after 1.5 to 4.5 s."""

SIZE: Final = 16 * 1024 * 1024
"""Bytes of each torrent: several times what a leecher has asked for at a time."""

DOWNLOAD: Final = 500_000
"""bytes/s at which each download comes in."""

DOWNLOAD_SIZE: Final = 256 * 1024 * 1024
"""Bytes of each download: more than comes in during any run."""


@dataclass(frozen=True)
class Stage:
    """A seed at work, and what controls it."""

    about: str
    """The program and its version."""
    torrents: Sequence[Torrent]
    """Those of the scene, whether they are added already or not."""
    port: int
    """For BitTorrent peers."""
    writes: Callable[[], list[tuple[float, frozenset[str], int]]]
    """Each setUploadLimit so far: time.monotonic(), hashes, bytes/s."""
    hooks: Callable[[], dict[str, float]] = dict
    """When the control heard of each torrent that was added: time.monotonic() by hash."""
    add: Callable[[Torrent], None] = lambda _: None
    """Adds a torrent to the client; returns when it seeds."""
    call: Callable[[str], object] = lambda _: None
    """Calls a method of the client's Web API."""
    follow: Callable[[Float64], None] = lambda _: None
    """Called with the demands of all torrents, in bytes/s, in the moment that they change."""
    check: Callable[[], None] = lambda: None
    """Raises RuntimeError when something has ended that was to go on."""
    log: Callable[[], str] = lambda: ""
    """What the control printed."""


def why_not(scene: Scene, drive: str, version: str) -> str | None:
    """Why a drive cannot run here, or not in this scene, in one line; None when it can."""
    if drive == NATIVE and not scene.seeds_only:
        return f"{scene.name}: not with {drive}: it takes more than the cap of one tracker"
    if drive in TELLS_AFTER and scene.added:
        return f"{scene.name}: not with {drive}: it has no hook"
    return transmission.why_not() if drive == NATIVE else unavailable_reason(version)


@contextmanager
def stage(scene: Scene, drive: str, version: str, settings: Mapping[str, Any]) -> Iterator[Stage]:
    """Build everything up to the leechers; all of it ends with the context.

    Args:
        scene: says what is seeded and what is allowed.
        drive: one of `DRIVES`.
        version: of qBittorrent, as tests call it.
        settings: of qguard's section `global`, beside strategy and rollout.

    Raises:
        RuntimeError: something is not installed or did not come up.
    """
    with ExitStack() as stack:
        tracker = stack.enter_context(Tracker(len(scene.caps)))
        make = _native if drive == NATIVE else _qbittorrent
        yield make(stack, scene, drive, version, settings, tracker)


def _torrents(scene: Scene, tracker: Tracker, folder: Path) -> list[Torrent]:
    made = [
        make_torrent(f"{scene.name}-{row:05}", folder, tiers=[[tracker.url(letter)]], size=SIZE)
        for row, letter in enumerate(scene.trackers)
    ]
    tracker.allow(torrent.infohash for torrent in made)
    return made


def _native(
    stack: ExitStack, scene: Scene, _drive: str, _version: str, _settings: Mapping[str, Any], tracker: Tracker
) -> Stage:
    program = stack.enter_context(transmission.Transmission())
    torrents = _torrents(scene, tracker, program.data)
    program.seed(torrents, scene.cap)
    return Stage(program.version, torrents, program.bt_port, writes=list)


def _qbittorrent(
    stack: ExitStack, scene: Scene, drive: str, version: str, settings: Mapping[str, Any], tracker: Tracker
) -> Stage:
    daemon = stack.enter_context(Daemon(version))
    api = stack.enter_context(daemon.api())
    proxy = stack.enter_context(Proxy(daemon.port))
    _prefer(api, scene.client)
    torrents = _torrents(scene, tracker, daemon.data)
    seed(daemon, api, [torrent for row, torrent in enumerate(torrents) if row not in scene.added])
    checks = [_downloads(stack, scene.downloads, tracker, daemon, api)] if scene.downloads else []
    made = Stage(
        f"qBittorrent {daemon.full_version}",
        torrents,
        daemon.bt_port,
        lambda: _writes(proxy),
        add=lambda torrent: seed(daemon, api, [torrent]),
        call=api.post,
    )
    if drive in STRATEGIES:
        service = _qguard(stack, scene, drive, settings, tracker, daemon, proxy)
        if scene.added:
            front = stack.enter_context(Proxy(int(service.url.rpartition(":")[2])))
            line = hook_line("added", f"{front.url}/webhook", api=api.get("app/webapiVersion").text, key=None)
            _prefer(api, {"autorun_on_torrent_added_enabled": True, "autorun_on_torrent_added_program": line})
            made = replace(made, hooks=lambda: _hooks(front))
        checks.append(lambda: _must_run(service))
        made = replace(made, log=lambda: service.output.read_text(errors="replace"))
    elif drive in TELLS_AFTER:
        hand = stack.enter_context(WebApi(proxy.url, daemon.username, daemon.password))
        thread = stack.enter_context(ThreadPoolExecutor(1))
        control = Omniscient(hand, torrents, scene.cap, thread, TELLS_AFTER[drive])
        checks.append(control.check)
        made = replace(made, follow=control)

    def check() -> None:
        for one in checks:
            one()

    return replace(made, check=check)


def _prefer(api: WebApi, wanted: Mapping[str, object]) -> None:
    """Set preferences of the client.

    Raises:
        RuntimeError: it did not take one.
    """
    if wanted:
        api.set_preferences(**wanted)
        there = api.preferences()
        if refused := {name: there.get(name) for name, value in wanted.items() if there.get(name) != value}:
            raise RuntimeError(f"qBittorrent did not take these preferences, and has {refused}")


def _writes(proxy: Proxy) -> list[tuple[float, frozenset[str], int]]:
    done = [request for request in proxy.requests("torrents/setUploadLimit") if request.status == 200]
    forms = [(request.time, request.form()) for request in done]
    return [(at, frozenset(form["hashes"].split("|")), int(form["limit"])) for at, form in forms]


def _hooks(proxy: Proxy) -> dict[str, float]:
    return {one.form()["hash"]: one.time for one in reversed(proxy.requests("/webhook"))}  # of two the first


def _qguard(
    stack: ExitStack,
    scene: Scene,
    strategy: str,
    settings: Mapping[str, Any],
    tracker: Tracker,
    daemon: Daemon,
    proxy: Proxy,
) -> Qguard:
    """The service, which has ended a cycle."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-swarm-"))
    rules: list[dict[str, Any]] = [
        {"id": f"swarm-{letter}", "pattern": rf"//{tracker.host(letter)}:", "max_upload_speed": cap}
        for letter, cap in scene.caps.items()
    ]
    rules.append({"id": "rest", "pattern": ".*", "max_upload_speed": "unlimited"})
    keys = {"rollout_percentage": 100, **settings, "allocation_strategy": strategy}
    made = Qguard(Path(folder), proxy.url, login=login(daemon), trackers=rules, **keys)
    service = stack.enter_context(made)
    service.wait_cycle()
    return service


def _downloads(stack: ExitStack, count: int, tracker: Tracker, daemon: Daemon, api: WebApi) -> Callable[[], None]:
    """Let the client download from another one; a check whether it still does.

    Raises:
        TimeoutError: downloads did not begin.
    """
    source = stack.enter_context(Daemon(daemon.version))
    torrents = make_torrents(count, source.data, prefix="download", tiers=[[tracker.url("a")]], size=DOWNLOAD_SIZE)
    tracker.allow(torrent.infohash for torrent in torrents)
    with source.api() as there:
        seed(source, there, torrents, up_limit=DOWNLOAD)
    files = [(f"{torrent.name}.torrent", torrent.metainfo) for torrent in torrents]
    api.add(files, {"savepath": str(daemon.inside(daemon.data / "downloads")), "autoTMM": "false"})
    hashes = [torrent.infohash for torrent in torrents]

    def going_on() -> int:
        rows = api.torrents(hashes).values()
        return sum(row["downloaded"] > 0 and row["amount_left"] > 0 for row in rows)

    deadline = time.monotonic() + 30.0
    while going_on() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{going_on()} of {count} downloads began in 30 s")
        with suppress(httpx.HTTPStatusError):  # refused until it knows them all
            api.post("torrents/addPeers", hashes="|".join(hashes), peers=f"127.0.0.1:{source.bt_port}")
        time.sleep(0.5)  # nothing tells when a download begins

    def check() -> None:
        if (left := going_on()) < count:
            raise RuntimeError(f"only {left} of {count} downloads were still going on at the end")

    return check


def _must_run(service: Qguard) -> None:
    if service.child.poll() is not None:
        raise RuntimeError(f"qguard ended with status {service.child.returncode}:\n{service.log_tail()}")


class Omniscient:
    """Gives each torrent the level of the max-min ideal when demands change, or so many seconds later.

    How far limits can take one who knows everything, and how far one whom the client tells late.
    """

    def __init__(self, api: WebApi, torrents: Sequence[Torrent], cap: int, thread: Executor, late: float) -> None:
        self._api, self._cap, self._thread, self._late = api, cap, thread, late
        self._hashes = [torrent.infohash for torrent in torrents]
        self._set: list[Future[None]] = []

    def check(self) -> None:
        """Raise what went wrong when limits were set late."""
        for one in self._set:
            one.result()

    def __call__(self, demand: Float64) -> None:
        found = float(level(demand[:, None], self._cap)[0])
        limit = int(found) if np.isfinite(found) else self._cap
        if self._late:
            self._set.append(self._thread.submit(self._later, limit, time.monotonic() + self._late))
        else:
            self._api.set_limit(self._hashes, limit)

    def _later(self, limit: int, at: float) -> None:
        time.sleep(max(0.0, at - time.monotonic()))
        self._api.set_limit(self._hashes, limit)

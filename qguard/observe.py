"""One reading of the client: as cheap as it may be, as complete as it must be, or none at all (I6).

The full listing is the only expensive request, so it is made as often as a budget of the client's main thread allows:
in every cycle for some hundred torrents, once a minute or so for ten thousand. In between, the listing of the active
torrents is enough: whatever uploads is in it, with every field.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from qguard.qbittorrent.client import TorrentClient
from qguard.qbittorrent.errors import BadAnswerError
from qguard.snapshot import Bool, Counters, InfoHashes, Torrents, client_restarted, merge_active, merge_some

MAIN_THREAD_SHARE: Final = 0.02
"""The part of its main thread that a client may spend on our readings; half of it goes to full listings."""

LISTINGS_JUDGED: Final = 5
"""Listings of the active torrents by whose median their cost is judged."""

LOSS_TO_CONFIRM: Final = 0.2
"""A full listing that lost more than this part of the known torrents, and more than `LOSS_TO_IGNORE`, is confirmed."""

LOSS_TO_IGNORE: Final = 10
"""Torrents that may vanish between two full listings without a second look."""

CONFIRM_TOLERANCE: Final = 0.01
"""Two listings made a moment apart agree when at most this part of the torrents is only in one of them."""


class ImplausibleError(BadAnswerError):
    """A listing that is well-formed and cannot be true."""


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What is known of the client now."""

    torrents: Torrents
    at: float
    """Seconds on the steady clock, when the answer was complete."""
    full: bool
    """From a full listing: torrents that are not in it are gone."""
    maybe_reset: Bool
    """(N,) whether the client may have forgotten our limit since the reading before: it was restarted, or the torrent
    was not there."""
    fresh: Bool
    """(N,) torrents that this reading says something about: all, but for a reading of some by name."""
    full_at: float
    full_cost: float
    """Seconds that the last full listing took the client, at most."""
    sessions: int
    active_costs: tuple[float, ...] = ()
    """Seconds that the last `LISTINGS_JUDGED` listings of the active torrents took, the latest last."""

    @property
    def active_cost(self) -> float:
        """Seconds that a listing of the active torrents takes the client, 0 before the first one.

        The median: a client that is busy with something else for a moment is not to be left alone for a minute.
        """
        return statistics.median_low(self.active_costs) if self.active_costs else 0.0


def pause_between(cost: float) -> float:
    """Seconds to leave between two readings of that cost, to stay within half of the main-thread budget."""
    return cost / (MAIN_THREAD_SHARE / 2)


async def observe(
    client: TorrentClient,
    before: Reading | None,
    *,
    clock: Callable[[], float],
    written_under: Counters | None,
    claimed: InfoHashes,
    force_full: bool = False,
) -> Reading:
    """Read the client once: one request, or two where the first is hard to believe.

    Args:
        client: whom to ask.
        before: the previous reading, None at first.
        clock: steady seconds.
        written_under: counters at our last write before this process started, to notice a restart in between.
        claimed: torrents that the ledger knows, to judge the first listing by.
        force_full: list everything even if that is not due.

    Raises:
        ClientError: no reading; nothing may be concluded or changed.
    """
    began = clock()
    full = force_full or before is None or began - before.full_at >= pause_between(before.full_cost)
    listed = await (client.torrents() if full else client.active_torrents())
    now = clock()
    if before is not None and not full:
        sessions = client.sessions
        if sessions == before.sessions and client_restarted(Counters.of(before.torrents), listed) is not True:
            merged = merge_active(before.torrents, listed)
            return Reading(
                merged,
                now,
                full=False,
                maybe_reset=before.torrents.rows_of(merged.infohash) < 0,
                fresh=np.ones(len(merged), np.bool_),
                full_at=before.full_at,
                full_cost=before.full_cost,
                sessions=sessions,
                active_costs=(*before.active_costs, now - began)[-LISTINGS_JUDGED:],
            )
        began = clock()
        listed = await client.torrents()  # after a restart everything may be different
        now = clock()

    await _confirm(client, before.torrents.infohash if before else claimed, listed)
    return Reading(
        listed,
        now,
        full=True,
        maybe_reset=_maybe_reset(before, listed, client.sessions, written_under),
        fresh=np.ones(len(listed), np.bool_),
        full_at=now,
        full_cost=now - began,
        sessions=client.sessions,
        active_costs=before.active_costs if before else (),
    )


async def observe_some(
    client: TorrentClient, before: Reading, infohash: Sequence[str], *, clock: Callable[[], float]
) -> Reading:
    """Read only some torrents, by their info-hash: what a webhook names costs the client next to nothing.

    Those that it does not know are simply not in the reading; all others stay as they were.

    Raises:
        ClientError: no reading.
    """
    listed = await client.named_torrents(infohash)
    merged = merge_some(before.torrents, listed)
    return Reading(
        merged,
        clock(),
        full=False,
        maybe_reset=before.torrents.rows_of(merged.infohash) < 0,
        fresh=listed.rows_of(merged.infohash) >= 0,
        full_at=before.full_at,
        full_cost=before.full_cost,
        # A change of session is for the next listing to find out about: it takes more than a few torrents to tell.
        sessions=before.sessions,
        active_costs=before.active_costs,
    )


def _maybe_reset(before: Reading | None, listed: Torrents, sessions: int, written_under: Counters | None) -> Bool:
    if before is None:
        # Without evidence for the same session, our limits may be lost; a hand that put an original back while we
        # were away is then overruled, which it can see and repeat.
        same = written_under is not None and client_restarted(written_under, listed) is False
        return np.full(len(listed), not same)
    restarted = client_restarted(Counters.of(before.torrents), listed)
    if restarted is None:
        restarted = sessions != before.sessions
    return (before.torrents.rows_of(listed.infohash) < 0) | restarted


async def _confirm(client: TorrentClient, known: InfoHashes, listed: Torrents) -> None:
    """Ask in another way when the listing is empty or has lost a large part of what was known."""
    lost = int((listed.rows_of(known) < 0).sum())
    hard_to_believe = lost > max(LOSS_TO_IGNORE, LOSS_TO_CONFIRM * len(known))
    if len(listed) and not hard_to_believe:
        return
    other = await client.other_listing()
    first = {h.decode() for h in listed.infohash.tolist()}
    if len(first ^ other) > CONFIRM_TOLERANCE * max(len(first), len(other)):
        raise ImplausibleError(
            f"qBittorrent listed {len(first)} torrents in one way and {len(other)} in another; nothing is changed "
            "until the two agree (it may still be loading them)"
        )

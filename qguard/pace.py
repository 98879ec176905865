"""How long to wait between two cycles, and why.

    usual    = poll_interval; where that is `auto`, the client's own refresh interval for a strategy that steers rates,
               which can be no better than it is quick, and `USUAL` for all others
    interval = the longest of: usual; the client's refresh interval, within which it tells nothing new; and what keeps
               our listings within their share of its main thread

While turns fail, it doubles with each of them.
"""

from typing import Final, NamedTuple

from qguard.config import AUTO, Interval
from qguard.observe import MAIN_THREAD_SHARE, pause_between

USUAL: Final = 5.0
"""Seconds by default for strategies whose limits add up to the caps: they follow a waking torrent soon, and are safe
in between."""

SHORTEST: Final = 1.0
"""Seconds that `auto` does not go below, as no number in the configuration may: limits take 1 to 2 s to act."""

REFRESH: Final = 1.5
"""Seconds between two refreshes of a client that has not been asked yet; qBittorrent's own default."""

LONGEST_BACKOFF: Final = 60.0
"""Seconds between two tries while turns fail."""


class Pace(NamedTuple):
    """The interval in force."""

    seconds: float
    why: str
    """One phrase for people."""


def usual_interval(configured: Interval, *, steers: bool = False, refresh: float = REFRESH) -> float:
    """Seconds between two cycles where the client costs nothing.

    Args:
        configured: seconds, or `AUTO`.
        steers: whether the strategy steers rates (`allocators.base.steers_rates`).
        refresh: the client's own refresh interval in seconds, 0 while it is not known.
    """
    if configured != AUTO:
        return configured
    return max(refresh or REFRESH, SHORTEST) if steers else USUAL


def paced(configured: Interval, *, steers: bool, refresh: float, cost: float, failures: int = 0) -> Pace:
    """The interval between two cycles in force, and why it is that.

    Args:
        configured: seconds, or `AUTO`.
        steers: whether the strategy steers rates.
        refresh: the client's own refresh interval in seconds, 0 while it is not known.
        cost: seconds that a listing of the active torrents takes the client, 0 while it is not known.
        failures: turns in a row that did not go through.
    """
    usual, bearable = usual_interval(configured, steers=steers, refresh=refresh), pause_between(cost)
    seconds = max(usual, refresh, bearable)
    if failures:
        longer = max(seconds, min(seconds * 2.0 ** min(failures, 10), LONGEST_BACKOFF))
        return Pace(longer, f"{failures} turn{'s' * (failures > 1)} in a row failed")
    return Pace(seconds, _why(seconds, configured, steers=steers, refresh=refresh, cost=cost))


def _why(seconds: float, configured: Interval, *, steers: bool, refresh: float, cost: float) -> str:
    if seconds == pause_between(cost):
        return f"a listing takes {cost * 1000:.0f} ms, which is {MAIN_THREAD_SHARE / 2:.0%} of that"
    if seconds == configured:
        return "poll_interval"
    if seconds == refresh:
        return "qBittorrent's own refresh interval"
    if not steers:
        return "auto: the strategy keeps limits within the caps, not rates"
    return "auto: the shortest there is" if seconds == SHORTEST else "auto: qBittorrent's usual refresh interval"

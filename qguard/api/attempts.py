"""Wrong keys are counted, so that nobody can try many."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from qguard.api.access import network

MOST_FAILURES: Final = 10
"""Wrong keys per address and window; a person mistypes less often, and nobody gets through many keys at that pace."""

WINDOW: Final = 60.0
"""Seconds."""

MOST_ADDRESSES: Final = 4096
"""Addresses to remember, a few hundred bytes each; the one that failed longest ago is forgotten first."""


class Attempts:
    """Times of the last wrong keys, by address; an IPv6 network of 64 bits, which one host has to itself, is one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._failures)

    def wait(self, address: str) -> float:
        """Seconds for which this address may not try again, 0.0 for none."""
        times = self._failures.get(network(address))
        if times is None or len(times) < MOST_FAILURES:
            return 0.0
        return max(0.0, times[0] + WINDOW - self._clock())

    def failed(self, address: str) -> bool:
        """Count a wrong key.

        Returns:
            Whether it was the last one for now.
        """
        group = network(address)
        times = self._failures.setdefault(group, deque(maxlen=MOST_FAILURES))
        times.append(self._clock())
        self._failures.move_to_end(group)
        if len(self._failures) > MOST_ADDRESSES:
            self._failures.popitem(last=False)
        return self.wait(address) > 0.0

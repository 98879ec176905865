"""Strategies that are right but for one fault each. None of what they answer may ever reach a client."""

from dataclasses import replace
from typing import Any

import numpy as np

from allocators.base import Allocation, Options, Request
from allocators.equal import Equal


class _AsEqual:
    """Answers as `equal` does, with one fault that `spoil` makes."""

    def __init__(self, options: Options) -> None:
        self._equal = Equal(options)

    def allocate(self, request: Request, state: Any) -> tuple[Any, Any]:
        given, _ = self._equal.allocate(request, None)
        return self.spoil(request, given), None

    def spoil(self, request: Request, given: Allocation) -> Any:
        raise NotImplementedError


class AboveTheCap(_AsEqual):
    """Gives every torrent the whole cap."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=np.minimum(request.spread(request.base_cap), 2**31 - 2))


class AboveTheCaps(_AsEqual):
    """Lends what nobody has."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, effective_cap=2 * given.effective_cap)


class Zero(_AsEqual):
    """Gives nothing, which is unlimited to the client."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=np.zeros_like(given.limit))


class Negative(_AsEqual):
    """Gives -1, which is unlimited to the client."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=np.full_like(given.limit, -1))


class Past31Bits(_AsEqual):
    """Gives more than the client can count to, which is unlimited to it."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=np.full_like(given.limit, 2**31))


class Fractions(_AsEqual):
    """Gives half bytes, which are unlimited to the client."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=given.limit - 0.5)


class TooShort(_AsEqual):
    """Forgets one torrent, so that all limits could be those of others."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=given.limit[1:])


class NoAllocation(_AsEqual):
    """Gives a list of limits where an `Allocation` is wanted."""

    def spoil(self, request: Request, given: Allocation) -> list[int]:
        return list(map(int, given.limit))


class NothingAtAll(_AsEqual):
    """Gives no pair of an answer and a state."""

    def allocate(self, request: Request, state: Any) -> Any:
        return None


class Raises(_AsEqual):
    """Breaks down."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        raise RuntimeError("no idea how to\nshare this")


class PutsToSleep(_AsEqual):
    """Changes the question to one that its answer is right for."""

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        request.awake[:] = False
        return given


class InPlace(_AsEqual):
    """Counts in a state that is not its own."""

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, Any]:
        given, _ = self._equal.allocate(request, None)
        state = {"turns": 0} if state is None else state
        state["turns"] += 1
        return given, state


class ClaimsTooMuch(_AsEqual):
    """Says that its limits may add up to a hundred times the cap, and takes ten times."""

    overcommit = 100.0

    def spoil(self, request: Request, given: Allocation) -> Allocation:
        return replace(given, limit=np.minimum(10 * request.spread(request.base_cap), 2**31 - 2))

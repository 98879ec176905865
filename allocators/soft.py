"""`soft`: trackers that do not need all of their cap lend it to others, which give it back in the next cycle.

    effective cap = what the tracker needs of its own cap + what it borrows     see `allocators.lending`
    limit         = the split of `allocated.weighted`, of the effective cap

Lenders keep what they need, so a torrent of a lender is not squeezed below what it uses. When a lender's torrents want
more, they press on their limits, are taken to want twice as much as they hold, and the tracker has its own cap back in
the next cycle as far as that; borrowers lose it in the same cycle, decreases being sent before raises.

States: those of `weighted`, and the loans by tracker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from allocators.base import Allocation, Options, Request
from allocators.budget import answer, nothing
from allocators.claims import claims
from allocators.lending import Loan, lent_budget
from allocators.memory import Memory, recall
from allocators.weighted import split_by_score


@dataclass(frozen=True, slots=True, eq=False)
class SoftState:
    """What one request leaves to the next."""

    torrents: Memory | None = None
    loans: Mapping[str, Loan] = field(default_factory=dict)


class Soft:
    """The split by score, of caps that are lent."""

    settles = True
    """Limits that are near their share are kept."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def allocate(self, request: Request, state: Any) -> tuple[Allocation, SoftState]:  # noqa: ANN401 - opaque
        """Give every torrent of `request` a limit; `state` is what the previous call returned."""
        state = state or SoftState()
        if not len(request.infohash):
            return nothing(), state
        before = recall(request, state.torrents)
        claim = claims(request, before.claim)
        budget, loans = lent_budget(request, claim, before.reached, self._options, state.loans)
        limit, torrents = split_by_score(request, budget, before, claim, self._options)
        return answer(request, budget, limit), SoftState(torrents, loans)

"""What an endpoint is: one operation with its types, who may call it, and what does the work."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from qguard.api import schemas
from qguard.api.access import Need
from qguard.service import Service

JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """One request, decoded."""

    who: str
    """The caller, for the ledger."""
    body: Any
    query: Any
    path: dict[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names."""
    still_open: Callable[[], bool] = lambda: True
    """Whether the caller would still be let in; for answers that go on."""
    may_read: bool = True
    """Whether the caller may look at everything; where anybody may ask, not everybody is told all."""


Handler = Callable[[Service, Call], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation of the interface."""

    method: str
    path: str
    handler: Handler
    need: Need
    answer: Any
    """Type of the answer. Where `media` is not JSON, the handler makes the response itself."""
    body: type[msgspec.Struct] | None = None
    query: type[msgspec.Struct] = schemas.Nothing
    status: int = 200
    media: tuple[str, ...] = (JSON,)
    """Media types of the answer."""
    events: tuple[tuple[str, Any], ...] = ()
    """Names of server-sent events, each with the type of its data."""
    errors: tuple[int, ...] = ()
    """Statuses with an ErrorAnswer, besides those that every such endpoint can answer."""
    asks_client: bool = False
    """Whether qBittorrent may be asked, and may fail to answer."""

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return (self.handler.__doc__ or "").strip().splitlines()[0]

    @property
    def name(self) -> str:
        """A name for programs, unique among all endpoints."""
        return self.handler.__name__

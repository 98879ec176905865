"""Bodies and queries of requests. Unknown fields of a body are refused, so that a slip is not a silent default."""

from typing import Annotated

import msgspec
from msgspec import Meta

Percentage = Annotated[int, Meta(ge=0, le=100)]
Epoch = Annotated[float, Meta(ge=0, le=1e11, description="epoch seconds")]
RowCount = Annotated[int, Meta(ge=1, le=1000)]
Id = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Reason = Annotated[str, Meta(max_length=1000, description="why, kept in the ledger")]
Tracker = Annotated[str, Meta(max_length=200, description="tracker id; all trackers when left out")]


class Nothing(msgspec.Struct, frozen=True):
    """No fields."""


class ForceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /cycle/force."""

    reason: Reason = ""


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /rollback."""

    confirm: bool = False
    reason: Reason = ""
    tracker: Tracker | None = None
    cycle: Id | None = None
    since: Epoch | None = None
    force: bool = False
    dry_run: bool = False


class RolloutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /rollout."""

    percentage: Percentage
    tracker: Tracker | None = None
    reason: Reason = ""


class PauseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /pause."""

    tracker: Tracker | None = None
    until: Epoch | None = None
    reason: Reason = ""


class ResumeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /resume."""

    tracker: Tracker | None = None
    foreign: bool = False
    hashes: tuple[str, ...] = ()
    reason: Reason = ""


class AdoptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /adopt."""

    originals: Annotated[str, Meta(description="as-is, unlimited, or the path of an originals file")]


class PreviewBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /preview/next-cycle."""

    config: Annotated[str, Meta(description="YAML text of another configuration")]


class MatchQuery(msgspec.Struct, frozen=True):
    """Query of GET /match/test."""

    url: Annotated[str, Meta(description="announce URL")]
    category: str = ""
    tags: Annotated[str, Meta(description="separated by comma and space")] = ""


class LedgerQuery(msgspec.Struct, frozen=True):
    """Query of GET /ledger."""

    hash: str | None = None
    tracker: Tracker | None = None
    cycle: Id | None = None
    before: Annotated[Id, Meta(description="only changes with a smaller id: the next page")] | None = None
    limit: RowCount = 100


class HookBody(msgspec.Struct, frozen=True):
    """Body of POST /webhook, as a form or as JSON; other fields are passed over."""

    hash: Annotated[str, Meta(max_length=100, description="torrent ID (%K), v1 (%I) or v2 (%J) hash")] = ""
    event: Annotated[str, Meta(max_length=100, description="add, complete or delete")] = "add"
    name: str = ""
    tracker: str = ""
    category: str = ""
    tags: str = ""
    save_path: str = ""
    api_key: Annotated[str, Meta(description="a key, for hooks that cannot send headers")] = ""


class HookAnswer(msgspec.Struct, frozen=True):
    """The torrent will be looked at."""

    status: str
    queue_size: int
    processing_time_ms: float


class ErrorDetail(msgspec.Struct, frozen=True):
    """What went wrong."""

    code: str
    message: str
    hint: str


class ErrorAnswer(msgspec.Struct, frozen=True):
    """The answer to a request that failed."""

    error: ErrorDetail

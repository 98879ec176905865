"""Bodies and queries of requests. Unknown fields are refused, so that a slip is not a silent default."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

Percentage = Annotated[float, Meta(ge=0, le=100, multiple_of=1, examples=[50])]
"""50.0 is an integer to JSON, and to us."""
Epoch = Annotated[float, Meta(ge=0, le=1e11, description="epoch seconds")]
RowCount = Annotated[int, Meta(ge=1, le=1000)]
Id = Annotated[int, Meta(ge=0, le=2**53 - 1)]
WholeId = Annotated[float, Meta(ge=0, le=2**53 - 1, multiple_of=1)]
Reason = Annotated[str, Meta(max_length=1000, description="why, kept in the ledger")]
Tracker = Annotated[str, Meta(max_length=200, description="tracker id; all trackers when left out", examples=["alpha"])]
HASH: Final = "a" * 40
"""An example of an info-hash."""
CONFIGURATION_FORMAT: Final = "qguard-configuration"
"""Texts that are good configurations. That rules have ids of their own, or that the last takes what is left, is more
than a JSON schema can say, so they are a format of their own."""
CONFIGURATION: Final = """\
qbittorrent: {url: "http://localhost:8080"}
trackers:
  - {id: alpha, match: [alpha.example], max_upload_speed: 10 MiB/s}
  - {id: default, pattern: ".*", max_upload_speed: unlimited}
"""
"""An example of one."""


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
    cycle: WholeId | None = None
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
    hashes: (
        Annotated[
            tuple[Annotated[str, Meta(max_length=100, examples=[HASH])], ...],
            Meta(min_length=1, description="just these torrents; all when left out"),
        ]
        | None
    ) = None
    reason: Reason = ""


class OverrideBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /override."""

    tracker: Annotated[str, Meta(max_length=200, description="tracker id", examples=["alpha"])]
    rate: Annotated[
        float | str | None,
        Meta(
            description='as in the configuration: bytes/s, "10 MiB/s", -1 or "unlimited"; null takes it away again',
            examples=["10 MiB/s", 10_000_000, -1, None],
        ),
    ]
    until: Epoch | None = None
    reason: Reason = ""


class LimitsResetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /limits/reset."""

    confirm: Annotated[bool, Meta(description="must be true")] = False
    scope: Annotated[
        Literal["unrestored", "all"], Meta(description="all: also what somebody else changed after qguard")
    ] = "unrestored"
    mark_restored: Annotated[
        bool, Meta(description="what is left alone counts as restored: the ledger lets go of its original")
    ] = False
    reason: Reason = ""


class SmoothingResetBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /smoothing/reset: exactly one of the two."""

    all: bool = False
    tracker_id: Annotated[str, Meta(max_length=200, description="tracker id")] | None = None


class AdoptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /adopt."""

    originals: Annotated[
        str,
        Meta(
            description="as-is, unlimited, or an originals file: its name, or its path, in the folder of the ledger",
            examples=["as-is"],
        ),
    ]


class PreviewBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /preview/next-cycle."""

    config: Annotated[
        str,
        Meta(
            description="YAML text of another configuration; docs/configuration.md says what is good in it",
            examples=[CONFIGURATION],
            extra_json_schema={"format": CONFIGURATION_FORMAT, "contentMediaType": "application/yaml"},
        ),
    ]


class MatchQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of GET /match/test."""

    url: Annotated[str, Meta(description="announce URL", examples=["alpha.example/announce"])]
    category: str = ""
    tags: Annotated[str, Meta(description="separated by comma and space")] = ""
    detailed: Annotated[bool, Meta(description="list every rule in `matches`")] = False


class LedgerQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query of GET /ledger."""

    # Unset and not None: of a query, "null" would be read as that.
    hash: Annotated[str, Meta(max_length=100)] | UnsetType = UNSET
    tracker: Tracker | UnsetType = UNSET
    cycle: Id | UnsetType = UNSET
    before: (
        Annotated[Id, Meta(description="only rows with a smaller id: `next_before` of the page before")] | UnsetType
    ) = UNSET
    limit: RowCount = 100
    show: Annotated[
        Literal["auto", "cycles", "changes"],
        Meta(description="actions or changes; auto: changes where a filter says which, else actions"),
    ] = "auto"


class WebhookBody(msgspec.Struct, frozen=True):
    """Body of POST /webhook, as a form or as JSON; other fields are passed over."""

    hash: Annotated[str, Meta(max_length=100, description="torrent ID (%K), v1 (%I) or v2 (%J) hash")] = ""
    event: Annotated[str, Meta(max_length=100, description="add, complete or delete; any other counts as add")] = "add"
    name: str = ""
    tracker: str = ""
    category: str = ""
    tags: str = ""
    save_path: str = ""
    api_key: Annotated[str, Meta(description="a key, for hooks that cannot send headers")] = ""


class HookAnswer(msgspec.Struct, frozen=True):
    """The torrent will be looked at, unless it was deleted."""

    status: Annotated[str, Meta(description="queued; noted for a torrent that was deleted")]
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


RATE: Final = r"^(unlimited|[1-9][0-9]{0,2}(\.[0-9]{1,3})? ?([KMG]?B|[KMG]iB|[kMG]bit)/s)$"
"""Rates that everybody writes. The configuration takes more spellings; all of these are good everywhere."""

INFOHASH: Final = {"type": "string", "pattern": "^([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})$", "examples": [HASH]}

CONFIRM: Final = {"properties": {"confirm": {"const": True}}, "required": ["confirm"]}

EXTRA: Final[Mapping[type[msgspec.Struct], Mapping[str, Any]]] = {
    RollbackBody: {
        "anyOf": [CONFIRM, {"properties": {"dry_run": {"const": True}}, "required": ["dry_run"]}],
    },
    LimitsResetBody: {"allOf": [CONFIRM]},
    ResumeBody: {
        "properties": {
            "hashes": {
                "anyOf": [{"type": "array", "items": INFOHASH, "minItems": 1}, {"type": "null"}],
                "default": None,
                "description": "just these torrents; all when left out",
            }
        }
    },
    SmoothingResetBody: {
        "oneOf": [
            {
                "properties": {"all": {"const": True}, "tracker_id": {"type": "null"}},
                "required": ["all"],
            },
            {
                "properties": {"all": {"const": False}, "tracker_id": {"type": "string"}},
                "required": ["tracker_id"],
            },
        ],
    },
    OverrideBody: {
        "properties": {
            "rate": {
                "anyOf": [
                    {"type": "integer", "minimum": 1, "maximum": 2**42},
                    {"const": -1},
                    {"type": "string", "pattern": RATE},
                    {"type": "null"},
                ]
            }
        }
    },
    WebhookBody: {
        "required": ["hash"],
        "properties": {"hash": INFOHASH},
    },
}
"""What holds for a body besides the types of its fields, as JSON schema; the handlers check the same."""

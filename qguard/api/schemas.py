"""Bodies of requests. Unknown fields are refused, so that a typing error is not a silent default."""

import msgspec


class RollbackBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /rollback."""

    confirm: bool = False
    reason: str = ""
    tracker: str | None = None
    cycle: int | None = None
    since: float | None = None
    force: bool = False
    dry_run: bool = False


class RolloutBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /rollout."""

    percentage: int
    tracker: str | None = None
    reason: str = ""


class PauseBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /pause."""

    tracker: str | None = None
    until: float | None = None
    reason: str = ""


class ResumeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /resume."""

    tracker: str | None = None
    foreign: bool = False
    hashes: tuple[str, ...] = ()
    reason: str = ""


class AdoptBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /adopt."""

    originals: str


class PreviewBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /preview/next-cycle."""

    config: str


class ForceBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /cycle/force."""

    reason: str = ""

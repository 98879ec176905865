"""How claims change: pure functions, and the draft that collects what one transaction will store."""

from collections.abc import Mapping

import msgspec

from qguard.ledger.model import Claim, Hold, Intent, Key, Outcome

_replace = msgspec.structs.replace


class Draft:
    """Changes to claims that are not stored yet, over the claims that are."""

    def __init__(self, claims: Mapping[Key, Claim]) -> None:
        self._claims = claims
        self.changed: dict[Key, Claim | None] = {}
        """None for a claim to drop."""

    def get(self, key: Key) -> Claim | None:
        """The claim as it would be."""
        return self.changed[key] if key in self.changed else self._claims.get(key)

    def put(self, key: Key, claim: Claim | None) -> None:
        """Set or drop (None) a claim; one that says nothing any more is dropped."""
        if claim is not None and claim.original is None and not claim.hold:
            claim = None
        if claim != self.get(key):
            self.changed[key] = claim

    def new_originals(self) -> dict[Key, Claim]:
        """Claims that have an original now and had none before."""
        return {
            key: claim
            for key, claim in self.changed.items()
            if claim is not None and claim.original is not None and not _has_original(self._claims.get(key))
        }


def recorded(before: Claim | None, intent: Intent, *, change: int, action: int, at: float) -> Claim:
    """The claim once an intent is stored: the original stays what it was."""
    claim = claimed(before, intent.key, tracker=intent.tracker, original=intent.original, at=at)
    return _replace(claim, pending=intent.new, pending_change=change, last_action=action)


def claimed(before: Claim | None, key: Key, *, tracker: str, original: int, at: float) -> Claim:
    """A claim that has an original: the one it had, else this one."""
    if before is None:
        before = _blank(key, at)
    if before.original is None:
        before = _replace(before, original=original, claimed_at=at)
    return _replace(before, tracker=tracker)


def settled(before: Claim, outcome: Outcome, *, at: float) -> Claim:
    """The claim once the outcome of its pending change is known."""
    if outcome == "applied":
        return _replace(before, written=before.pending, written_at=at, pending=None, pending_change=None)
    return _replace(before, pending=None, pending_change=None)


def released(before: Claim) -> Claim:
    """The claim once its torrent has its original back."""
    return _replace(before, original=None, written=None, written_at=0.0, pending=None, pending_change=None)


def held(before: Claim | None, key: Key, hold: Hold, *, at: float) -> Claim | None:
    """The claim with a hold set or, by an empty kind, lifted."""
    if before is None and not hold.kind:
        return None
    return _replace(before or _blank(key, at), hold=hold.kind, hold_value=hold.value if hold.kind else None)


def _blank(key: Key, at: float) -> Claim:
    return Claim(
        hash=key[0],
        added_on=key[1],
        tracker="",
        original=None,
        written=None,
        pending=None,
        pending_change=None,
        hold="",
        hold_value=None,
        claimed_at=at,
        written_at=0.0,
        last_action=None,
    )


def _has_original(claim: Claim | None) -> bool:
    return claim is not None and claim.original is not None

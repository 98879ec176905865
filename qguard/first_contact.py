"""The first meeting with a client whose limits somebody made before us."""

from typing import Final

import numpy as np

from qguard.ledger import Ledger, read_originals_file
from qguard.snapshot import UNLIMITED, Torrents

LEFTOVER_SHARE: Final = 0.2
LEFTOVER_COUNT: Final = 10
"""More than that part of the torrents, and at least so many, with a finite limit: a restored backup, another
limiter's leftovers or a lost ledger, not the owner's few exceptions."""


def first_contact(ledger: Ledger, torrents: Torrents) -> str:
    """Why nothing may be written before the owner has said which limits are the originals; empty when it may."""
    if not ledger.is_new:
        return ""
    limited = torrents.up_limit != UNLIMITED
    count = int(limited.sum())
    remembered = read_originals_file(ledger.originals_path) if ledger.originals_path.exists() else {}
    rows = np.flatnonzero(limited)
    there = zip(torrents.keys(rows), torrents.up_limit[rows].tolist(), strict=True)
    # A torrent that has its original is not one of those: a first write that could not be stored left it in the file.
    if any(remembered.get(key, value) != value for key, value in there):
        return (
            f"the ledger is empty, but {ledger.originals_path.name} beside it knows torrents that have limits now: "
            f"run `qguard adopt --originals {ledger.originals_path}` to take the originals from there"
        )
    if count >= LEFTOVER_COUNT and count > LEFTOVER_SHARE * len(torrents):
        return (
            f"{count} of {len(torrents)} torrents have a limit that qguard did not set: run `qguard adopt --originals "
            "as-is` to keep these as the originals, or `unlimited` if they are some tool's leftovers"
        )
    return ""

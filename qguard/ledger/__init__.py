"""What qguard did and what was there before: the only room that touches SQLite.

Two files in the data folder. The database holds every change, made or intended, and one claim for each torrent that
qguard has touched. The plain file beside it holds the originals a second time, so that a shell script can restore them
without qguard. A third one, the lock, keeps a second service away and says where the first one listens.
"""

from qguard.ledger.errors import LedgerError, PrunedError
from qguard.ledger.lock import Holder, LockedError, ServiceLock, read_holder
from qguard.ledger.model import (
    Action,
    ActionSummary,
    Change,
    Claim,
    Control,
    Hold,
    HoldKind,
    Intent,
    Key,
    Outcome,
)
from qguard.ledger.originals import originals_path, read_originals_file
from qguard.ledger.store import Ledger

__all__ = [
    "Action",
    "ActionSummary",
    "Change",
    "Claim",
    "Control",
    "Hold",
    "HoldKind",
    "Holder",
    "Intent",
    "Key",
    "Ledger",
    "LedgerError",
    "LockedError",
    "Outcome",
    "PrunedError",
    "ServiceLock",
    "originals_path",
    "read_holder",
    "read_originals_file",
]

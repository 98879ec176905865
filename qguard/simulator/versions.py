"""Where the Web API differs between the versions that are simulated; all of it was seen on the real ones."""

from dataclasses import dataclass
from typing import Final

from qguard.simulator.client import Version


@dataclass(frozen=True, slots=True)
class Traits:
    """One version of the Web API."""

    app: str
    """As app/version says it."""
    api: str
    """As app/webapiVersion says it."""
    five: bool
    """5.0 and later: torrents are stopped and started, not paused and resumed; more fields."""
    modern: bool
    """5.2 and later: API keys, 204 and 401 for logins, active by rate, errors that name what is missing."""

    @property
    def first_tracker(self) -> bool:
        """5.1 and later: `tracker` holds the first tracker while none works."""
        return self.five

    def cookie(self, port: int) -> str:
        """Name of the session cookie."""
        return f"QBT_SID_{port}" if self.modern else "SID"


TRAITS: Final[dict[Version, Traits]] = {
    "4.5.2": Traits("v4.5.2", "2.8.19", five=False, modern=False),
    "5.1.0": Traits("v5.1.0", "2.11.4", five=True, modern=False),
    "5.3.0": Traits("v5.3.0", "2.16.2", five=True, modern=True),
}

"""A `Service` in the test's own process, on a real client: cycles one by one, with clocks that a test may hold."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qguard.config import load
from qguard.ledger import Ledger
from qguard.service import Service
from tests.support.running import configuration


@asynccontextmanager
async def service(
    folder: Path,
    client: str,
    *,
    trackers: str | list[dict[str, Any]],
    login: tuple[str, str] | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    **keys: Any,
) -> AsyncIterator[Service]:
    """A service whose loop does not run; `folder` gets its configuration (qguard.yaml) and its ledger.

    Args:
        folder: see above.
        client: URL of the Web UI that it is to use.
        trackers: the section `trackers`, as YAML text or as data.
        login: user name and password there; None for a client that asks for none.
        clock: steady seconds.
        wall_clock: epoch seconds.
        keys: the section `global`.
    """
    path = folder / "qguard.yaml"
    path.write_text(configuration(folder / "ledger.db", client, trackers=trackers, login=login, keys=keys))
    loaded = load(path)
    made = Service(
        loaded, await Ledger.open(loaded.settings.rollback.database_path), clock=clock, wall_clock=wall_clock
    )
    try:
        yield made
    finally:
        await made.close()

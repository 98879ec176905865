"""Makers of daemons and proxies that end everything they made."""

from collections.abc import Mapping
from contextlib import ExitStack

from tests.support.daemon import Daemon
from tests.support.ending import Ending
from tests.support.proxy import Proxy


class Daemons(Ending):
    """Starts daemons; removes all of them at the end of its context.

    Args:
        version: the version key when none is named.
    """

    def __init__(self, version: str | None) -> None:
        self._version = version
        self._stack = ExitStack()

    def leave(self) -> None:
        self._stack.close()

    def start(
        self, version: str | None = None, *, preferences: Mapping[str, object] | None = None, bypass_auth: bool = False
    ) -> Daemon:
        """Start one; see `Daemon`.

        Raises:
            ValueError: no version named here or at construction.
        """
        chosen = version or self._version
        if chosen is None:
            raise ValueError("name the version: this factory has no default")
        return self._stack.enter_context(Daemon(chosen, preferences=preferences, bypass_auth=bypass_auth))


class Proxies(Ending):
    """Starts proxies; closes all of them at the end of its context."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def leave(self) -> None:
        self._stack.close()

    def start(self, daemon: Daemon) -> Proxy:
        """Put one in front of a daemon's Web UI."""
        return self._stack.enter_context(Proxy(daemon.port))

"""Fixtures on real parts; what they do is in tests/support."""

from collections.abc import Callable, Iterator

import pytest

from tests.support import children
from tests.support.daemon import REQUIRED, VERSIONS, Daemon, sweep_leftovers, unavailable_reason
from tests.support.factories import Daemons, Proxies
from tests.support.proxy import Proxy
from tests.support.tracker import Tracker


@pytest.fixture(scope="session", autouse=True)
def no_child_left_behind() -> Iterator[None]:
    """Fail the run when a process that a test started outlives the tests."""
    yield
    left = children.leftovers()
    children.end_all()
    assert not left, "still running at the end of the tests, now killed:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def swept() -> None:
    """Remove what a killed earlier run left."""
    sweep_leftovers()


@pytest.fixture(scope="session", params=VERSIONS)
def daemon_version(request: pytest.FixtureRequest) -> str:
    """Each qBittorrent version in turn; a required one that is missing fails, any other is skipped by name."""
    version = str(request.param)
    if reason := unavailable_reason(version):
        if version in REQUIRED:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return version


@pytest.fixture
def daemon(swept: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemon]]:
    """Start daemons: `daemon(version=..., preferences=..., bypass_auth=...)`, all removed after the test.

    The version is that of `daemon_version` where the test uses it, else "4.5".
    """
    with Daemons(_version(request)) as daemons:
        yield daemons.start


@pytest.fixture(scope="module")
def module_daemon(swept: None, request: pytest.FixtureRequest) -> Iterator[Callable[..., Daemon]]:
    """The same as `daemon`, for a whole module; the version must be named."""
    with Daemons(None) as daemons:
        yield daemons.start


@pytest.fixture(scope="session")
def tracker(swept: None) -> Iterator[Tracker]:
    """One opentracker with the announce hosts a, b, c and d."""
    with Tracker() as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[Callable[[Daemon], Proxy]]:
    """Put proxies in front of daemons: `proxy(daemon)`, all closed after the test."""
    with Proxies() as proxies:
        yield proxies.start


def _version(request: pytest.FixtureRequest) -> str:
    if "daemon_version" in request.fixturenames:
        return str(request.getfixturevalue("daemon_version"))
    return VERSIONS[0]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the qBittorrent versions that cannot be tested here, and why (workers cannot tell it themselves)."""
    for version in VERSIONS:
        if reason := unavailable_reason(version):
            terminalreporter.write_line(f"not tested: {reason}", yellow=True)

"""A real Chromium, without a window, with an empty profile for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.support import browsing


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """Chromium; what its pages write to the console can be read by `browsing.console`."""
    if reason := browsing.unavailable_reason():
        pytest.fail(reason, pytrace=False)
    options = ChromeOptions()
    options.binary_location = str(browsing.CHROMIUM)
    for switch in browsing.SWITCHES:
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = ChromeService(str(browsing.DRIVER), log_output=str(tmp_path / "chromedriver.log"))
    with Chrome(options=options, service=service) as chrome:
        chrome.set_page_load_timeout(30)
        yield chrome

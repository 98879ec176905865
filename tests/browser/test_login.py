"""The page in a real browser: who gets in, and what pages of somebody else can do to a visitor who is logged in."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.support.browsing import Pages, console
from tests.support.daemon import Daemon
from tests.support.process import Setup

pytestmark = pytest.mark.qbittorrent

KEY = "a-key-for-the-browser"

# Sent as text/plain by a form, which needs nobody's leave, this is good JSON: {"percentage": 100, "reason": "="}
FORGED_FORM = """<!doctype html><title>forged</title>
<form method="post" enctype="text/plain" action="{url}/rollout">
<input type="hidden" name='{{"percentage": 100, "reason": "' value='"}}'></form>
<script>document.forms[0].submit()</script>"""

ASK = """
const [path, options, done] = arguments;
fetch(path, options).then(async reply => done([reply.status, await reply.text()]), error => done([0, String(error)]));
"""
"""Asks from the page that is shown; status and text of the answer, 0 when the browser keeps it from the page."""


@pytest.fixture(scope="module")
def client(module_daemon: Callable[..., Daemon]) -> Daemon:
    return module_daemon("4.5")


def running(client: Daemon, folder: Path, **server: str) -> Iterator[str]:
    """The URL of a service that only observes."""
    setup = Setup(folder, client.url, username=client.username, password=client.password)
    setup.config["server"] = server
    setup.edit(rollout_percentage=0)
    with setup.start() as service:
        yield str(service.http.base_url).rstrip("/")


@pytest.fixture(scope="module")
def keyed(client: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from running(client, tmp_path_factory.mktemp("keyed"), api_key=KEY)


@pytest.fixture(scope="module")
def keyless(client: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from running(client, tmp_path_factory.mktemp("keyless"))


def enter(browser: Chrome, key: str) -> None:
    """Fill in the form and wait for what comes back."""
    field = browser.find_element(By.NAME, "key")
    field.send_keys(key)
    browser.find_element(By.TAG_NAME, "button").click()
    # What is waited for is another page: its document holds no element of this one.
    WebDriverWait(browser, 20).until(lambda _: is_gone(field))


def is_gone(element: Any) -> bool:
    try:
        element.is_enabled()
    except WebDriverException:
        return True
    return False


def log_in(browser: Chrome, url: str) -> None:
    browser.get(url)
    enter(browser, KEY)
    assert shown(browser).startswith("qguard 0.")


def shown(browser: Chrome) -> str:
    return browser.find_element(By.TAG_NAME, "body").text


def asks_for_key(browser: Chrome) -> bool:
    return bool(browser.find_elements(By.CSS_SELECTOR, 'form[action="/login"] input[type="password"]'))


def ask(browser: Chrome, path: str, **options: Any) -> tuple[int, str]:
    status, text = browser.execute_async_script(ASK, path, options)
    return status, text


def percentage(url: str) -> int:
    return int(httpx.get(f"{url}/health", trust_env=False).json()["rollout_percentage"])


def test_a_key_lets_a_visitor_in_and_a_wrong_one_does_not(browser: Chrome, keyed: str) -> None:
    browser.get(keyed)
    assert asks_for_key(browser)
    assert "Status" not in shown(browser)

    enter(browser, "not-the-key")
    assert browser.find_element(By.CSS_SELECTOR, '[role="alert"]').text == "this key opens nothing; check the key"
    assert asks_for_key(browser)
    assert not browser.get_cookies()

    enter(browser, KEY)
    assert browser.current_url == f"{keyed}/"
    assert "Status: healthy" in shown(browser)
    assert "POST /rollback Put earlier limits back" in shown(browser)
    browser.find_element(By.LINK_TEXT, "/stats/trackers").click()
    assert '"alpha"' in shown(browser)


def test_scripts_and_other_sites_cannot_use_the_cookie(browser: Chrome, keyed: str) -> None:
    log_in(browser, keyed)
    (cookie,) = browser.get_cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert browser.execute_script("return document.cookie") == ""
    assert KEY not in cookie["value"]


def test_a_logout_ends_the_session_for_whoever_has_the_cookie(browser: Chrome, keyed: str) -> None:
    log_in(browser, keyed)
    (cookie,) = browser.get_cookies()
    token = browser.execute_async_script(
        "fetch('/session').then(reply => reply.json()).then(it => arguments[0](it.csrf_token))"
    )
    assert ask(browser, "/logout", method="POST")[0] == 403
    assert ask(browser, "/logout", method="POST", headers={"X-CSRF-Token": token})[0] == 200
    assert not browser.get_cookies()
    browser.add_cookie(cookie)
    browser.get(keyed)
    assert asks_for_key(browser)


def test_our_pages_keep_our_own_content_policy(browser: Chrome, keyed: str) -> None:
    browser.get(keyed)
    # Browsers tell the console of every answer that is an error, and may ask for an icon that is not there.
    assert not [line for line in console(browser) if "Failed to load resource" not in line]
    enter(browser, KEY)
    assert not [line for line in console(browser) if "Failed to load resource" not in line]
    # And the policy is in force: what a stranger's name could bring with it does not run.
    browser.execute_script("document.body.innerHTML = '<img src=x: onerror=\"document.title = 1\">'")
    assert any("Content Security Policy" in line for line in console(browser))
    assert browser.title == "qguard"


def test_a_page_of_ours_hears_events(browser: Chrome, keyed: str) -> None:
    log_in(browser, keyed)
    told = browser.execute_async_script(
        """const done = arguments[0], stream = new EventSource('/events'), told = {};
        for (const name of ['health', 'cycle', 'trackers'])
          stream.addEventListener(name, event => {
            told[name] = JSON.parse(event.data);
            if (Object.keys(told).length === 3) { stream.close(); done(told); }
          });
        stream.onerror = () => { stream.close(); done({}); };"""
    )
    assert told["health"]["status"] == "healthy"
    assert told["cycle"]["status"] == "completed"
    assert set(told["trackers"]) == {"alpha", "beta", "rest"}


@pytest.mark.parametrize("which", ["keyed", "keyless"])
def test_a_form_on_another_port_changes_nothing(browser: Chrome, which: str, request: pytest.FixtureRequest) -> None:
    """Ports of one host are one site: the browser sends the cookie, SameSite=Strict or not."""
    url = request.getfixturevalue(which)
    if which == "keyed":
        log_in(browser, url)
    with Pages({"/": FORGED_FORM.format(url=url)}) as elsewhere:
        browser.get(elsewhere.url)
        WebDriverWait(browser, 20).until(lambda there: there.current_url == f"{url}/rollout")
        assert '"other_origin"' in shown(browser)
    assert percentage(url) == 0


@pytest.mark.parametrize("which", ["keyed", "keyless"])
def test_a_script_on_another_port_changes_and_reads_nothing(
    browser: Chrome, which: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(which)
    if which == "keyed":
        log_in(browser, url)
    with Pages({"/": "<!doctype html><title>elsewhere</title>"}) as elsewhere:
        browser.get(elsewhere.url)
        body = '{"percentage": 100}'
        # Sent without asking first, as a form would be: the answer is opaque to the page.
        ask(browser, f"{url}/rollout", method="POST", mode="no-cors", credentials="include", body=body)
        assert percentage(url) == 0
        for path in ("/health", "/session", "/config"):
            status, text = ask(browser, url + path, credentials="include")
            assert (status, "Failed to fetch" in text) == (0, True)


@pytest.mark.parametrize("path", ["/", "/health"])
def test_our_pages_are_not_shown_in_frames(browser: Chrome, keyless: str, path: str) -> None:
    """/health asks for nothing, not even where a request comes from: there the header alone keeps it out of frames."""
    frames = f'<!doctype html><iframe id="own" src="/own"></iframe><iframe id="ours" src="{keyless}{path}"></iframe>'
    with Pages({"/": frames, "/own": "<!doctype html><p>in a frame"}) as elsewhere:
        browser.get(elsewhere.url)
        assert in_frame(browser, "own") == "in a frame"
        assert "status" not in in_frame(browser, "ours").lower()
    assert any("frame-ancestors" in line or "X-Frame-Options" in line for line in console(browser))


def in_frame(browser: Chrome, name: str) -> str:
    browser.switch_to.frame(browser.find_element(By.ID, name))
    text = shown(browser)
    browser.switch_to.default_content()
    return text


def test_a_rebound_name_gets_nothing(browser: Chrome, keyless: str) -> None:
    """To the browser the page and the service are one origin, so that nothing but the name gives it away."""
    rebound = keyless.replace("127.0.0.1", "rebound.example")
    browser.get(rebound)
    assert '"unknown_host"' in shown(browser)
    status, text = ask(browser, "/rollout", method="POST", body='{"percentage": 100}')
    assert (status, "unknown_host" in text) == (400, True)
    assert percentage(keyless) == 0

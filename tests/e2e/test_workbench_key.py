"""The page and its key: from a QR code, refused, revoked while the page is open, and changed in another tab."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from tests.e2e.test_workbench import (
    LONG,
    QUICK,
    VisitorFactory,
    assert_accessible,
    browser,
    fill,
    generate,
    tab,
    visitor,
)
from tests.support.browser import BrowserPage
from tests.support.command_line import Typed
from tests.support.server_process import ServerProcess, eventually, free_port
from tests.support.terminal import terminal

__all__ = ["browser", "visitor"]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
BLOCKED = """for (const name of ["localStorage", "sessionStorage"])
  Object.defineProperty(window, name, {get() { throw new DOMException("", "SecurityError") }})"""

WATCHED = """window.addresses = [];
const { fetch } = window;
window.fetch = (...given) => { addresses.push(location.href); return fetch(...given); };"""
"""Notes the page's address at each of its requests."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the keys of its settings, one and two."""
    process = ServerProcess(tmp_path_factory.mktemp("locked") / "data", api_keys="one,two,a b&%#=+")
    process.start()
    yield process
    process.close()


def locked(page: Page) -> Locator:
    return page.get_by_role("dialog", name="This server needs an API key")


def unlock(page: Page, key: str) -> None:
    locked(page).get_by_label("API key").fill(key)
    locked(page).get_by_role("button", name="Use this key").click()


def opened_with(visit: BrowserPage, path: str, script: str | None = None) -> Page:
    """A page at a path, which may be locked."""
    page = visit.context.new_page()
    if script is not None:
        page.add_init_script(script)
    page.goto(visit.base + path)
    return page


def ready(page: Page) -> Page:
    page.wait_for_selector("body[data-ready]")
    expect(locked(page)).to_be_hidden()
    return page


def kept(page: Page) -> str | None:
    """The key that the browser keeps."""
    found: str | None = page.evaluate("localStorage.getItem('paddock.key')")
    return found


def forgive_refusals(visit: BrowserPage) -> None:
    """Drop what the browser itself writes of refusals, and of rows that are another key's."""
    ours = ("401 (Unauthorized)", "404 (Not Found)")
    visit.errors[:] = [error for error in visit.errors if not any(each in error for each in ours)]


@pytest.mark.heavy
def test_a_phone_makes_a_video_from_a_qr_code(browser: Browser, tmp_path: Path) -> None:
    options = ("--host", "127.0.0.1", "--port", str(free_port()), "--data-dir", str(tmp_path / "data"))
    with terminal("serve", "--demo", "--lan", *options, cwd=tmp_path, log=tmp_path / "log") as shown:
        address = shown.wait_for(r"\n(http://\S+/#key=\S+)\n")[1]
        base, _, fragment = address.partition("/#")
        key = fragment.removeprefix("key=")
        eventually(lambda: "startup complete" in (tmp_path / "log").read_text())
        visit = BrowserPage(browser, base, **PHONE)
        page = ready(opened_with(visit, f"/#{fragment}"))

        assert page.url == f"{base}/#create"
        made = generate(page, "from a phone", **QUICK)
        video = made.locator("video")
        expect(video).to_be_visible()
        eventually(lambda: video.evaluate("video => !video.paused && video.currentTime > 0"))
        page.reload()
        ready(page)
        expect(video).to_be_visible()
        # nor does the tab's history have it
        page.go_back()
        assert "key" not in page.url
        assert key not in (tmp_path / "log").read_text()
        visit.context.close()
        assert visit.errors == []
        assert visit.elsewhere == []


def test_the_key_leaves_the_address_at_once_and_stays_in_the_browser(
    visitor: VisitorFactory, shared: ServerProcess
) -> None:
    visit = visitor(shared.url)
    sent: list[str] = []
    visit.context.on("request", lambda request: sent.append(request.url))
    page = ready(opened_with(visit, "/#key=one", WATCHED))

    assert page.url == f"{shared.url}/#create"
    # before the first request, and so before anything that may take long
    assert page.evaluate("addresses[0]") == f"{shared.url}/"
    assert kept(page) == "one"
    assert page.evaluate("history.length") == 2
    page.reload()
    assert ready(page).url == f"{shared.url}/#create"
    ready(opened_with(visit, "/"))
    assert not any("one" in url.partition(shared.url)[2] for url in sent if "key" in url)


def test_a_page_from_another_machine_works_without_tls(
    visitor: VisitorFactory, start_server: Callable[..., ServerProcess], browser: Browser
) -> None:
    """On a local network browsers take the page's address for insecure: what only loopback and TLS have is missing."""
    server = start_server("--lan", "--host", "127.0.0.1", api_keys="one")
    visit = visitor(server.url)
    page = visit.context.new_page()
    page.add_init_script(
        "Object.defineProperty(window, 'isSecureContext', {value: false});"
        "delete Navigator.prototype.clipboard; delete Crypto.prototype.randomUUID; delete Crypto.prototype.subtle;"
    )
    page.goto(f"{server.url}/#key=one")
    expect(generate(ready(page), "without TLS", **QUICK).locator("video")).to_be_visible()


@pytest.mark.parametrize("key", ["a b&%#=+"])
def test_a_key_with_odd_characters_is_written_with_percents(
    visitor: VisitorFactory, shared: ServerProcess, key: str
) -> None:
    assert kept(ready(opened_with(visitor(shared.url), f"/#key={quote(key, safe='')}"))) == key


@pytest.mark.parametrize(
    "fragment",
    [
        "",
        "%20",
        "%",
        "%ff",
        "schl%C3%BCssel",
        "湖泊",
        "one%0d%0aX-Evil:%201",
        "<img src=x onerror=alert(1)>",
        "one&key=two",
        "wrong",
        "x" * 5000,
    ],
)
def test_a_fragment_that_is_no_key_opens_the_locked_page(
    visitor: VisitorFactory, shared: ServerProcess, fragment: str
) -> None:
    visit = visitor(shared.url)
    page = opened_with(visit, f"/#key={fragment}")
    expect(locked(page)).to_be_visible()

    assert page.url == f"{shared.url}/"
    refusals = len(visit.errors)
    unlock(page, "one")
    ready(page)
    # no loop: each key was tried once
    assert refusals <= 2
    assert kept(page) == "one"
    forgive_refusals(visit)


@pytest.mark.parametrize(("given", "winner"), [("two", "two"), ("wrong", "one"), ("", "one")])
def test_another_key_in_the_address_wins_if_the_server_accepts_it(
    visitor: VisitorFactory, shared: ServerProcess, given: str, winner: str
) -> None:
    visit = visitor(shared.url)
    page = opened_with(
        visit, f"/#key={given}", "localStorage.getItem('paddock.key') ?? localStorage.setItem('paddock.key', 'one')"
    )
    ready(page)

    eventually(lambda: kept(page) == winner)
    assert "key" not in page.url
    forgive_refusals(visit)


def test_a_second_scan_changes_the_key_of_an_open_page(visitor: VisitorFactory, shared: ServerProcess) -> None:
    visit = visitor(shared.url)
    page = ready(opened_with(visit, "/#key=one"))
    mine = generate(page, "made with one", **QUICK)
    expect(mine.locator("video")).to_be_visible()
    fill(page, "half a sentence")
    tab(page, "History")
    listed = page.locator("#history-list .tile")
    expect(listed.filter(has_text="made with one")).to_have_count(1)

    page.evaluate("location.hash = '#key=wrong'")
    expect(page).to_have_url(f"{shared.url}/#history")
    page.wait_for_timeout(500)
    expect(listed.filter(has_text="made with one")).to_have_count(1)
    assert kept(page) == "one"

    page.evaluate("location.hash = '#key=two'")
    expect(mine).to_have_count(0)
    expect(listed.filter(has_text="made with one")).to_have_count(0)
    assert page.url == f"{shared.url}/#history"
    assert kept(page) == "two"
    tab(page, "Create")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("half a sentence")
    # the stream of events is the other key's, too
    theirs = shared.with_key("two")
    with closing(theirs.http):
        theirs.enqueue(prompt="made with two")
    expect(page.locator("#stage").filter(has_text="made with two").locator("video")).to_be_visible()
    page.go_back()
    assert "key" not in page.url
    forgive_refusals(visit)


def test_a_key_that_is_revoked_locks_the_open_page_and_another_opens_it(
    visitor: VisitorFactory, start_server: Callable[..., ServerProcess], typed: Typed
) -> None:
    server = start_server(api_keys="set")
    with opened(f"sqlite:///{server.data_dir / 'paddock.db'}") as engine:
        ring = KeyRing(engine)
        phone, laptop = ring.add("phone"), ring.add("laptop")
    headers = {"Authorization": f"Bearer {laptop}"}
    eventually(lambda: server.http.get("/queue", headers=headers).status_code == 200, server)
    visit = visitor(server.url)
    page = ready(opened_with(visit, f"/#key={phone}"))
    made = generate(page, "made with the phone's", **QUICK)
    expect(made.locator("video")).to_be_visible()
    # what is active is asked for every three seconds
    expect(generate(page, "under way", **LONG)).to_be_visible()
    fill(page, "half a sentence", Height=128)
    requests: list[str] = []
    visit.context.on("request", lambda request: requests.append(request.url))

    assert typed("key", "revoke", "phone", "--data-dir", str(server.data_dir)).returncode == 0

    # nobody touches the page
    expect(locked(page)).to_be_visible()
    expect(locked(page)).to_contain_text("The server no longer accepts your key.")
    expect(locked(page).get_by_label("API key")).to_be_focused()
    assert page.locator("video").evaluate_all("all => all.every((video) => video.paused)")
    for _ in range(3):
        page.keyboard.press("Escape")
    expect(locked(page)).to_be_visible()
    page.wait_for_timeout(4000)
    before = len(requests)
    page.wait_for_timeout(5000)
    # nothing but the machine's state, which needs no key, is asked for meanwhile
    assert [url for url in requests[before:] if not url.endswith("/readyz")] == []
    unlock(page, "wrong")
    expect(locked(page)).to_contain_text("The server does not accept this key.")

    unlock(page, laptop)
    ready(page)
    expect(made).to_have_count(0)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("half a sentence")
    expect(page.get_by_role("spinbutton", name="Height")).to_have_value("128")
    expect(page.locator(".banner[data-name=offline]")).to_have_count(0)
    expect(generate(page, "made with the laptop's", **QUICK).locator("video")).to_be_visible()
    forgive_refusals(visit)


def test_a_key_that_is_entered_or_removed_in_one_tab_counts_in_all(
    visitor: VisitorFactory, shared: ServerProcess
) -> None:
    visit = visitor(shared.url)
    first, second = opened_with(visit, "/"), opened_with(visit, "/")
    expect(locked(first)).to_be_visible()
    expect(locked(second)).to_be_visible()
    unlock(first, "one")
    ready(first)
    expect(first.locator("#key-forget")).not_to_have_attribute("hidden", "")
    ready(second)
    expect(generate(first, "in both tabs", **QUICK).locator("video")).to_be_visible()
    expect(second.locator("#gallery .tile").filter(has_text="in both tabs")).to_have_count(1)

    ready(opened_with(visit, "/#key=two"))
    for page in (first, second):
        expect(page.locator("#gallery .tile").filter(has_text="in both tabs")).to_have_count(0)

    first.locator("#machine-button").click()
    first.get_by_role("button", name="Remove the key").click()
    expect(locked(first)).to_be_visible()
    expect(locked(second)).to_be_visible()
    forgive_refusals(visit)


def test_a_key_in_the_address_is_enough_where_the_browser_keeps_nothing(
    visitor: VisitorFactory, shared: ServerProcess
) -> None:
    visit = visitor(shared.url)
    page = ready(opened_with(visit, "/#key=one", BLOCKED))
    assert page.url == f"{shared.url}/#create"
    expect(generate(page, "kept nowhere", **QUICK).locator("video")).to_be_visible()

    page.reload()
    expect(locked(page)).to_be_visible()
    page.evaluate("location.hash = '#key=one'")
    ready(page)
    forgive_refusals(visit)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("locale", "title"), [("en-GB", "Where keys come from"), ("zh-CN", "如何获取密钥")])
def test_the_locked_page_says_where_keys_come_from(
    visitor: VisitorFactory, shared: ServerProcess, scheme: str, locale: str, title: str
) -> None:
    about: dict[str, Any] = {"color_scheme": scheme, "locale": locale, "viewport": {"width": 390, "height": 844}}
    visit = visitor(shared.url, **about)
    page = opened_with(visit, "/")
    dialog = page.locator("dialog#key")
    expect(dialog.get_by_role("heading", name=title)).to_be_visible()
    for command in ("paddock key add NAME", "paddock serve --lan"):
        expect(dialog.locator("code").get_by_text(command, exact=True)).to_be_visible()

    assert_accessible(page, "locked")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = dialog.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    # what is behind it is not seen
    behind = dialog.evaluate("dialog => getComputedStyle(dialog, '::backdrop').backgroundColor")
    assert re.fullmatch(r"rgb\([^/]*\)", behind), behind
    forgive_refusals(visit)

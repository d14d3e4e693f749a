"""The History tab as a library: thousands of generations, scrolled, filtered and found."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import BrowserPage, chromium
from tests.support.server_process import ServerProcess

DAY = 86_400
MANY = 5000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, start_server: Callable[..., ServerProcess]) -> Iterator[Callable[..., Page]]:
    made: list[BrowserPage] = []

    def open_(base: str, **about: Any) -> Page:
        made.append(BrowserPage(browser, base, **about))
        return made[-1].open("/#history")

    yield open_
    for one in made:
        one.context.close()
        assert one.errors == []


def filled(server: ServerProcess, rows: int) -> str:
    """Copy one finished generation `rows` times, an hour apart, newest first; returns the id of the original."""
    id_ = server.enqueue(prompt="the first", height=9999)
    with closing(sqlite3.connect(server.data_dir / "paddock.db")) as records, records:
        records.row_factory = sqlite3.Row
        old = time.time() - (rows + 1) * 3600
        records.execute("UPDATE generations SET status = 'cancelled', error_message = NULL, enqueued_at = ?", [old])
        original = dict(records.execute("SELECT * FROM generations").fetchone())
        own = {name: value for name, value in original.items() if name != "seq"}
        now = time.time()
        copies = [
            {
                **own,
                "id": f"00000000-0000-4000-8000-{number:012d}",
                "prompt": f"a {'red' if number % 2 else 'blue'} circle, number {number}",
                "enqueued_at": now - number * 3600,
            }
            for number in range(rows, 0, -1)
        ]
        names = ", ".join(own)
        records.executemany(f"INSERT INTO generations ({names}) VALUES ({', '.join(':' + n for n in own)})", copies)  # noqa: S608
    return id_


def test_the_library_is_scrolled_without_a_shift(
    visit: Callable[..., Page], start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server()
    filled(server, 400)
    page = visit(server.url)
    expect(page.get_by_text("401 in total")).to_be_visible()
    listed = "() => new Set([...document.querySelectorAll('#history-list .tile')].map((tile) => tile.dataset.id)).size"
    assert page.evaluate(listed) < 401

    seen: set[str] = set()
    newest = ""
    while len(seen) < 401:
        if len(seen) > 100 and not newest:
            # what comes meanwhile shifts nothing, and is offered
            newest = server.enqueue(prompt="comes meanwhile", height=9999)
            expect(page.get_by_role("button", name="Show 1 new")).to_be_visible()
        page.mouse.wheel(0, 700)
        page.wait_for_timeout(60)
        seen |= set(page.locator("#history-list .tile").evaluate_all("(all) => all.map((tile) => tile.dataset.id)"))
    assert newest not in seen
    # back from a detail view, by the browser's own button, it is where it was
    page.locator("#history-list .tile .picture").last.click()
    at = page.evaluate("scrollY")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert abs(page.evaluate("scrollY") - at) < 300
    assert at > 1000
    # those far away are not drawn any more
    assert page.locator("#history-list .tile").count() < 401
    page.get_by_role("button", name="Show 1 new").click()
    expect(page.locator("#history-list .tile").first).to_have_attribute("data-id", newest)


@pytest.mark.heavy
def test_last_weeks_favourite_is_found_among_thousands(
    visit: Callable[..., Page], start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server()
    filled(server, MANY)
    wanted = f"00000000-0000-4000-8000-{5 * 24:012d}"
    for number in (5 * 24, 20 * 24):
        server.http.patch(
            f"/generations/00000000-0000-4000-8000-{number:012d}", json={"favourite": True, "tags": ["for the client"]}
        )
    page = visit(server.url)
    expect(page.get_by_text(f"{MANY + 1} in total")).to_be_visible()
    tiles = page.locator("#history-list .tile")

    page.get_by_role("button", name="Favourites only").click()
    expect(tiles).to_have_count(2)
    page.get_by_role("combobox", name="Date", exact=True).select_option("week")
    expect(tiles).to_have_count(1)
    expect(tiles).to_have_attribute("data-id", wanted)
    # it is still so after a reload
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(tiles).to_have_count(1)
    tiles.locator(".picture").click()
    expect(page.get_by_role("dialog").locator(".tags li")).to_have_text(["for the client"])
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_role("combobox", name="Tag", exact=True).select_option("for the client")
    expect(tiles).to_have_count(2)
    page.get_by_label("Search prompts").fill("nothing like it")
    expect(page.get_by_text("No results.")).to_be_visible()


def test_a_phone_has_its_filters_behind_a_button_that_counts_them(
    visit: Callable[..., Page], start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server()
    filled(server, 3)
    page = visit(server.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    expect(page.get_by_text("4 in total")).to_be_visible()
    model = page.get_by_role("combobox", name="Model", exact=True)
    expect(model).to_be_hidden()

    page.get_by_role("button", name="Filter", exact=True).click()
    # by the name that the rest of the page has for it
    named = page.locator("#model option:checked").inner_text()
    model.select_option(f"{named} (4)")
    page.get_by_role("button", name="Favourites only").click()
    expect(page.get_by_text("No results.")).to_be_visible()
    page.get_by_role("button", name="Filter (2)").click()
    expect(model).to_be_hidden()
    page.get_by_role("button", name="Clear filters").click()
    expect(page.get_by_text("4 in total")).to_be_visible()
    expect(page.get_by_role("button", name="Filter", exact=True)).to_be_visible()


@pytest.mark.parametrize("width", [1440, 1024])
def test_the_filters_of_one_row_have_one_height(
    visit: Callable[..., Page], start_server: Callable[..., ServerProcess], width: int
) -> None:
    server = start_server()
    filled(server, 3)
    page = visit(server.url, viewport={"width": width, "height": 800})
    page.locator("#history-model").select_option(index=1)
    expect(page.get_by_role("button", name="Clear filters")).to_be_visible()

    tops = page.locator("#history-fields > label").evaluate_all("(all) => all.map((each) => each.offsetTop)")
    assert len(tops) == 5
    assert len(set(tops)) == 1

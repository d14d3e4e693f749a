"""The API reference at /docs in a real browser: it lists everything, sends requests, and loads from no other host."""

import io
from collections.abc import Callable, Iterator

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from tests.support.browser import BrowserPage, chromium
from tests.support.server_process import MODEL, SMALL, ServerProcess


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[[ServerProcess], BrowserPage]]:
    """Open a browser on a server; at the end there must be no error and no request to another host."""
    opened: list[BrowserPage] = []

    def visit(server: ServerProcess) -> BrowserPage:
        opened.append(BrowserPage(browser, server.url))
        return opened[-1]

    yield visit
    for each in opened:
        each.context.close()
        assert each.elsewhere == []


def test_it_lists_all_operations_and_schemas(server: ServerProcess, visit: Callable[..., BrowserPage]) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    visitor = visit(server)
    page = visitor.open("/docs")

    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            shown = page.locator(f"#operations-{operation['tags'][0]}-{operation['operationId']}")
            expect(shown.locator(".opblock-summary-method")).to_have_text(method.upper())
            expect(shown.locator(".opblock-summary-path")).to_have_attribute("data-path", path)
    for name in document["components"]["schemas"]:
        expect(page.locator(".models").get_by_text(name, exact=True).first).to_be_visible()
    # the stream never ends: only reading about it makes sense
    page.click("#operations-events-followEvents .opblock-summary-control")
    expect(page.locator("#operations-events-followEvents .responses-table").first).to_be_visible()
    expect(page.locator("#operations-events-followEvents .execute")).to_have_count(0)
    assert visitor.errors == []


def test_a_request_is_sent_with_the_key_of_the_workbench(
    tenant: ServerProcess, key: str, visit: Callable[..., BrowserPage]
) -> None:
    visitor = visit(tenant)
    page = visitor.open("/docs")
    enqueue = page.locator("#operations-queue-enqueueGenerations")
    enqueue.locator(".opblock-summary-control").click()
    enqueue.locator(".execute").click()
    # the page itself needs no key
    expect(enqueue.locator(".live-responses-table .response .response-col_status").first).to_contain_text("401")

    page.evaluate("key => localStorage.setItem('paddock.key', key)", key)
    # without the fragment of the first visit, which would open the operation
    enqueue = visitor.open("/docs").locator("#operations-queue-enqueueGenerations")
    enqueue.locator(".opblock-summary-control").click()
    enqueue.locator(".execute").click()
    expect(enqueue.locator(".live-responses-table .response .response-col_status").first).to_contain_text("200")
    (row,) = tenant.http.get("/generations").json()["generations"]
    assert (row["model_name"], row["prompt"]) == (MODEL, SMALL["prompt"])
    # the browser's own report of the 401
    assert len(visitor.errors) == 1
    assert "401" in visitor.errors[0]


def test_the_workbench_leads_to_it(server: ServerProcess, visit: Callable[..., BrowserPage]) -> None:
    visitor = visit(server)
    page = visitor.open()
    page.click("#tab-api")
    page.click("#panel-api a")
    page.wait_for_selector("body[data-ready] .swagger-ui .opblock")
    assert page.url == f"{server.url}/docs"
    assert visitor.errors == []


def test_browsers_find_an_icon(keyed_server: ServerProcess) -> None:
    answer = httpx.get(f"{keyed_server.url}/favicon.ico")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/x-icon")
    icon = Image.open(io.BytesIO(answer.content))
    assert (16, 16) in icon.info["sizes"]

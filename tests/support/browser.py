"""A real browser, Debian's Chromium, that records errors and requests of its pages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.support.server_process import needs

# the two cores are shared with the worker
PATIENCE_MS = 120_000
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser. Without Chromium the test is skipped, but fails in CI. No event loop may run in the meantime."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=needs("chromium"), args=list(_FLAGS))
        yield browser
        browser.close()


class BrowserPage:
    """A browser context that records the errors of its pages, and their requests to other hosts."""

    def __init__(self, browser: Browser, base: str, **about: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **about})
        self.context.set_default_timeout(PATIENCE_MS)
        self.base = base
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("request", self._on_request)

    def open(self, path: str = "/") -> Page:
        """Open a page of the server and wait until it is ready."""
        page = self.context.new_page()
        page.goto(self.base + path)
        page.wait_for_selector("body[data-ready]")
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _is_of_a_preview(message):
            self.errors.append(f"{message.text} {message.location}")

    def _on_request(self, request: Request) -> None:
        if (
            not request.url.startswith(("blob:", "data:"))
            and urlsplit(request.url).netloc != urlsplit(self.base).netloc
        ):
            self.elsewhere.append(request.url)


@contextmanager
def visitors(browser: Browser, base: str) -> Iterator[Callable[..., BrowserPage]]:
    """Make visitors to a server or another. None may have met an error or another host when they leave, at the end."""
    made: list[BrowserPage] = []

    def make(base: str = base, **about: Any) -> BrowserPage:
        made.append(BrowserPage(browser, base, **about))
        return made[-1]

    yield make
    for one in made:
        one.context.close()
        assert one.errors == []
        assert one.elsewhere == []


@contextmanager
def visiting(base: str, **about: Any) -> Iterator[BrowserPage]:
    """A visitor of a server, with a browser of their own, who has met no error and no other host at the end."""
    with chromium() as browser:
        visitor = BrowserPage(browser, base, **about)
        yield visitor
        visitor.context.close()
        assert visitor.errors == []
        assert visitor.elsewhere == []


def _is_of_a_preview(message: ConsoleMessage) -> bool:
    """Whether Chromium reports a missing preview: a video may be finished before the page requests it."""
    return "/preview" in message.location["url"] and "404" in message.text

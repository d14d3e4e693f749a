"""A real browser, Debian's Chromium, and what every page in it must keep to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.support.server_process import needs

# two cores, shared with what computes the videos
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
    """The browser; without it the test is skipped, but in CI it fails. No event loop may be run meanwhile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=needs("chromium"), args=list(_FLAGS))
        yield browser
        browser.close()


class BrowserPage:
    """Somebody with a browser of their own, who notes what the page did besides what was looked for."""

    def __init__(self, browser: Browser, base: str, **about: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", **about})
        self.context.set_default_timeout(PATIENCE_MS)
        self.base = base
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.context.on("console", self._hear)
        self.context.on("weberror", lambda error: self.errors.append(str(error.error)))
        self.context.on("request", self._see)

    def open(self, path: str = "/") -> Page:
        """A page of the server, once it can be used."""
        page = self.context.new_page()
        page.goto(self.base + path)
        page.wait_for_selector("body[data-ready]")
        return page

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and not _is_of_a_preview(message):
            self.errors.append(f"{message.text} {message.location}")

    def _see(self, request: Request) -> None:
        if (
            not request.url.startswith(("blob:", "data:"))
            and urlsplit(request.url).netloc != urlsplit(self.base).netloc
        ):
            self.elsewhere.append(request.url)


def _is_of_a_preview(message: ConsoleMessage) -> bool:
    """Whether a picture was gone when the page asked for it: a video may be done in between, and Chromium tells."""
    return "/preview" in message.location["url"] and "404" in message.text

"""Takes the README's pictures of the Workbench: `python docs/screenshots.py` runs the demo and a browser over it.

Needs Debian's chromium, and `pip install -e '.[dev]'`.
"""

import re
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tests.support.browser import BrowserPage, chromium
from tests.support.server_process import ServerProcess

FOLDER = Path(__file__).parent
PROMPTS = (
    "a big red circle moving right on a blue background",
    "A beautiful landscape painting of a serene lake with mountains in the background and an ox in the foreground.",
    "a duck on a lake at sunset",
    "a green triangle moving up on a white background",
)
SIZE = {"width": 1440, "height": 900}


def ask(page: Page, prompt: str) -> None:
    """Ask for one more video."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.locator("#stage .prompt", has_text=prompt).wait_for()


def finished(page: Page, count: int) -> None:
    """Wait until there are so many videos, each with its thumbnail."""
    page.wait_for_function(
        "n => [...document.querySelectorAll('#results img')].filter(one => one.complete).length === n", arg=count
    )


def shoot(page: Page, name: str) -> None:
    """Keep what is seen."""
    page.screenshot(path=FOLDER / f"workbench-{name}.png")


def create(page: Page) -> None:
    """Three videos done, and one under way with its preview."""
    for count, prompt in enumerate(PROMPTS[:3], 1):
        ask(page, prompt)
        finished(page, count)
    ask(page, PROMPTS[3])
    page.locator("#stage .status").filter(has_text=re.compile(r"Step \d\d of")).wait_for()
    page.locator("#stage .screen img").wait_for()
    shoot(page, "create")
    finished(page, 4)


def detail(page: Page) -> None:
    """Everything about one of them."""
    page.locator("#results .picture").nth(2).click()
    page.locator("#stage").get_by_role("button", name="Details").click()
    page.wait_for_function("() => document.querySelector('#detail video').readyState > 1")
    shoot(page, "detail")
    page.keyboard.press("Escape")


def compare(page: Page) -> None:
    """The videos side by side, half way."""
    for tile in page.locator("#results .tile").all()[:3]:
        tile.locator("input").check(force=True)
    page.locator("#selection").get_by_role("button", name="Compare").click()
    page.wait_for_function("() => [...document.querySelectorAll('#compare-videos video')].every(v => v.readyState > 1)")
    page.get_by_label("Position").fill("16")
    page.wait_for_function("() => [...document.querySelectorAll('#compare-videos video')].every(v => !v.seeking)")
    page.get_by_label("Show only differences").check()
    shoot(page, "compare")


def main() -> None:
    """Make every picture anew."""
    with tempfile.TemporaryDirectory(prefix="paddock") as folder, chromium() as browser:
        server = ServerProcess(Path(folder) / "data")
        server.start()
        try:
            page = BrowserPage(browser, server.url, viewport=SIZE, reduced_motion="reduce").open()
            create(page)
            detail(page)
            compare(page)
            page = BrowserPage(browser, server.url, viewport=SIZE, color_scheme="dark").open("/#api")
            page.locator("#api-choices").get_by_text("Python", exact=True).click()
            shoot(page, "api-dark")
            phone = {"viewport": {"width": 390, "height": 844}, "locale": "zh-CN", "reduced_motion": "reduce"}
            page = BrowserPage(browser, server.url, **phone).open()
            finished(page, 4)
            page.locator("#stage").scroll_into_view_if_needed()
            shoot(page, "phone")
        finally:
            server.stop()
            server.close()


if __name__ == "__main__":
    main()

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
)
SIZE = {"width": 1280, "height": 860}


def ask(page: Page, prompt: str, count: int) -> None:
    """Ask for one more video than there are."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function("n => document.querySelectorAll('#results .card').length === n", arg=count)


def finished(page: Page, count: int) -> None:
    """Wait until so many videos show a picture."""
    page.wait_for_function(
        "n => [...document.querySelectorAll('#results video')].filter(v => v.readyState > 1).length === n", arg=count
    )


def shoot(page: Page, name: str) -> None:
    """Keep what is seen."""
    page.screenshot(path=FOLDER / f"workbench-{name}.png")


def create(page: Page) -> None:
    """Two videos done, and one under way with its preview."""
    page.get_by_role("button", name="Use a small size").click()
    for count, prompt in enumerate(PROMPTS[:2], 1):
        ask(page, prompt, count)
    finished(page, 2)
    ask(page, PROMPTS[2], 3)
    page.locator("#results .status").first.filter(has_text=re.compile(r"Step \d\d of")).wait_for()
    page.locator("#results img").wait_for()
    shoot(page, "create")
    finished(page, 3)


def compare(page: Page) -> None:
    """The videos side by side, half way."""
    for box in page.get_by_role("checkbox", name="Compare").all():
        box.check()
    page.get_by_role("tab", name="Compare").click()
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
            compare(page)
            page = BrowserPage(browser, server.url, viewport=SIZE, color_scheme="dark").open("/#api")
            page.locator("#api-choices").get_by_text("Python", exact=True).click()
            shoot(page, "api-dark")
            phone = {"viewport": {"width": 390, "height": 844}, "locale": "zh-CN", "reduced_motion": "reduce"}
            page = BrowserPage(browser, server.url, **phone).open()
            finished(page, 3)
            shoot(page, "phone")
        finally:
            server.stop()
            server.close()


if __name__ == "__main__":
    main()

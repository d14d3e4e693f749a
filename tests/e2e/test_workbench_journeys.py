"""What people come to the Workbench for, from its address to the end, with nothing but what they see."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import BrowserPage, visiting
from tests.support.server_process import ServerProcess
from tests.support.workbench import tile


@pytest.fixture
def visitor(server: ServerProcess) -> Iterator[BrowserPage]:
    with visiting(server.url) as visitor:
        yield visitor


def small(page: Page) -> None:
    """A video that takes a second."""
    for label, value in {"Width": 64, "Height": 64, "Frames": 5}.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))


def test_the_first_video_takes_three_clicks(visitor: BrowserPage, server: ServerProcess) -> None:
    page = visitor.open()
    page.get_by_role("button", name="a big red circle moving right").first.click()
    page.get_by_role("button", name="Generate", exact=True).click()
    video = page.locator("#stage .screen video")
    expect(video).to_be_visible()
    page.wait_for_function("(video) => !video.paused && video.currentTime > 0", arg=video.element_handle())

    with page.expect_download() as download:
        page.locator("#stage").get_by_role("link", name="Download").click()

    assert download.value.suggested_filename.endswith(".mp4")
    (row,) = server.http.get("/generations", params={"page_size": 1}).json()["generations"]
    assert row["prompt"].startswith("a big red circle moving right")
    assert row["thumbnail_url"]


@pytest.mark.heavy
def test_a_setting_is_tuned_and_compared_by_a_wipe(visitor: BrowserPage) -> None:
    page = visitor.open()
    page.get_by_label("Prompt", exact=True).fill("a red circle moving right on a white background")
    small(page)
    page.get_by_text("More settings").click()
    page.get_by_role("spinbutton", name="Seed").fill("5")
    ids = []
    for guidance in ("1", "9"):
        page.get_by_role("spinbutton", name="Guidance").fill(guidance)
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator("#stage .facts")).to_contain_text(f"guidance {guidance}")
        expect(page.locator("#stage .screen video")).to_be_visible()
        ids.append(page.locator("#stage").get_attribute("data-id"))

    for id_ in ids:
        tile(page, id_).hover()
        tile(page, id_).get_by_role("checkbox", name="Select").check()
    page.get_by_role("region", name="Selection").get_by_role("button", name="Compare").click()
    page.locator("#compare-modes").get_by_text("Wipe", exact=True).click()
    divider = page.get_by_role("slider", name="Divider")
    expect(divider).to_be_visible()
    before = divider.get_attribute("aria-valuenow")
    divider.focus()
    page.keyboard.press("ArrowLeft")
    assert divider.get_attribute("aria-valuenow") != before
    expect(page.locator("#compare-table tr.differs").first).to_contain_text("Guidance")

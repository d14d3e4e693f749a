"""The page makes a video of another one: chosen, dropped, or that of an earlier generation."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_workbench_image import generated
from tests.support.browser import BrowserPage, visiting
from tests.support.clips import write_clip
from tests.support.server_process import ServerProcess
from tests.support.video import psnr, read_video
from tests.support.workbench import staged

SIZES = {"Height": 64, "Width": 96, "Frames": 9, "Steps": 4}
DROP = """(text) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "ox.mp4", { type: "video/mp4" }));
  document.getElementById("form").dispatchEvent(
    new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("changing") / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def visitor(server: ServerProcess) -> Iterator[BrowserPage]:
    with visiting(server.url) as visitor:
        yield visitor


@pytest.fixture
def page(visitor: BrowserPage) -> Iterator[Page]:
    page = visitor.open("/")
    page.get_by_label("Prompt", exact=True).fill("a red circle moving left on a black background")
    page.locator("#form summary").click()
    for label, value in SIZES.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    yield page
    page.close()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "ox.mp4", 9)


@pytest.mark.parametrize("way", ["drop", "file"])
def test_a_video_is_taken_in_every_way(way: str, page: Page, server: ServerProcess, clip: Path) -> None:
    expect(page.get_by_label("Strength")).to_be_hidden()
    if way == "file":
        page.locator("#video-file").set_input_files(clip)
    else:
        page.evaluate(DROP, base64.b64encode(clip.read_bytes()).decode())
    expect(page.locator("#video-shown")).to_be_visible()
    page.get_by_label("Strength").fill("0.25")

    row = generated(page, server)

    assert row["strength"] == 0.25
    assert psnr(httpx.get(str(row["input_video"])).content, clip) > 34
    assert len(read_video(httpx.get(str(row["result_url"])).content)) == 9
    expect(page.locator("#stage video.input")).to_be_visible()
    page.get_by_role("tab", name="API").click()
    expect(page.locator("#api-code")).to_contain_text('"input_video": "upload:…"')
    expect(page.locator("#api-code")).to_contain_text('"strength": 0.25')


def test_a_video_can_be_taken_back_used_again_and_compared(page: Page, server: ServerProcess, clip: Path) -> None:
    page.locator("#video-file").set_input_files(clip)
    first = generated(page, server)
    page.get_by_role("button", name="Remove video").click()
    expect(page.locator("#video-shown")).to_be_hidden()
    expect(page.get_by_label("Strength")).to_be_hidden()
    assert "input_video" not in generated(page, server)

    staged(page, first["generation_id"]).get_by_role("button", name="Use these settings").click()
    expect(page.locator("#video-shown")).to_be_visible()
    again = generated(page, server)
    assert (
        str(again["input_video"]).rpartition("/")[2].partition(".")[0]
        == (str(first["input_video"]).rpartition("/")[2].partition(".")[0])
    )

    for row in (first, again):
        staged(page, row["generation_id"]).get_by_role("button", name="Compare").click()
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator("#compare-videos video.input")).to_have_count(2)


def test_a_file_that_is_no_video_is_told(visitor: BrowserPage, page: Page, tmp_path: Path) -> None:
    (tmp_path / "ox.mp4").write_bytes(b"no video")
    page.locator("#video-file").set_input_files(tmp_path / "ox.mp4")
    page.get_by_role("button", name="Generate", exact=True).click()

    expect(page.locator("#form-error")).to_contain_text("an MP4, MOV, WebM or Matroska file, or a WAV, MP3")
    # the browser's own words about the answer
    assert [error for error in visitor.errors if "400" not in error] == []
    visitor.errors.clear()

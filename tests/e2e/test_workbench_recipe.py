"""A video that is dropped on the page restores its settings, and any other file changes nothing."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from pipelines.stages.writing.tagging import tag
from server.recipe.container import read_comment
from tests.support.browser import BrowserPage, visiting
from tests.support.clips import write_clip
from tests.support.server_process import ServerProcess

DROP = """(text) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "ox.mp4", { type: "video/mp4" }));
  document.getElementById("stage").dispatchEvent(
    new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""
MUXING = ("-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4")
PROMPT = "an ox {by|in} a lake, 水"


@pytest.fixture(scope="module")
def visitor(server: ServerProcess) -> Iterator[BrowserPage]:
    with visiting(server.url) as visitor:
        yield visitor


@pytest.fixture
def page(visitor: BrowserPage) -> Iterator[Page]:
    page = visitor.open("/")
    page.get_by_label("Prompt", exact=True).fill("another prompt")
    page.locator("#form summary").click()
    yield page
    page.close()


@pytest.fixture(scope="module")
def made(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "ox.mp4"
    asked = {"prompt": PROMPT, "negative_prompt": "rain", "seed": 11, "guidance_scale": 2.5, "sampler": "euler"}
    path.write_bytes(server.video(server.enqueue(**asked, model="wan-ai-wan2-1-t2v-1-3b-diffusers")))
    return path


def drop(page: Page, path: Path) -> None:
    page.evaluate(DROP, base64.b64encode(path.read_bytes()).decode())


def number(page: Page, name: str) -> str:
    return page.get_by_role("spinbutton", name=name).input_value()


def test_a_dropped_video_restores_its_settings(page: Page, made: Path) -> None:
    drop(page, made)

    # its braces are no alternatives
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT.replace("{", "\\{").replace("}", "\\}"))
    expect(page.locator("#model")).to_have_value("wan-ai-wan2-1-t2v-1-3b-diffusers")
    expect(page.locator("#sampler")).to_have_value("euler")
    assert [number(page, name) for name in ("Width", "Height", "Frames", "Steps")] == ["64", "64", "5", "2"]
    assert number(page, "Guidance") == "2.5"
    assert page.get_by_label("Negative prompt").input_value() == "rain"
    assert page.locator("#recipe-told").inner_text() == ""


def test_inputs_have_to_be_chosen_again(page: Page, made: Path, tmp_path: Path) -> None:
    recipe = json.loads(read_comment(made))
    recipe["inputs"] = {"input_image": "a" * 64}
    tag(made, json.dumps(recipe), tmp_path / "with.mp4", MUXING)

    drop(page, tmp_path / "with.mp4")

    expect(page.locator("#recipe-told")).to_contain_text("Choose the images, the video or the sound again")
    expect(page.locator("#sampler")).to_have_value("euler")


@pytest.mark.parametrize("kind", ["plain", "no video", "hostile", "of a model that is not here", "large"])
def test_a_file_without_settings_changes_nothing(page: Page, made: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file.mp4"
    recipe = json.loads(read_comment(made))
    sentence = "No settings of a video of Paddock were found"
    if kind == "plain":
        write_clip(path, 5)
    elif kind == "no video":
        path.write_bytes(b"\x00\x00\x00\x01ftyp" + bytes(50))
    else:
        if kind == "hostile":
            recipe["parameters"]["num_frames"], sentence = "<b>5</b>", "Length must be a number"
        elif kind == "large":
            recipe["parameters"]["prompt"] = "x" * 2**18
        else:
            recipe["model"], sentence = "a-model", "Model not found: a-model."
        tag(made, json.dumps(recipe), path, MUXING)

    drop(page, path)

    expect(page.locator("#recipe-told")).to_contain_text(sentence)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("another prompt")

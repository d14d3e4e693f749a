"""The page moves an image: chosen, dropped, pasted, or the last frame of a video."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from pipelines.models.catalogue import DEFAULT_MODEL
from tests.contract.test_image_input import drawn, encoded
from tests.support.browser import BrowserPage, visiting
from tests.support.models.serving import FLF2V, I2V, TI2V, image_models, ti2v_server
from tests.support.server_process import ServerProcess, eventually
from tests.support.video import read_video
from tests.support.workbench import staged

SIZES = {"Height": 64, "Width": 64, "Frames": 5, "Steps": 2}
DROP = """([text, name]) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "ox.png", { type: "image/png" }));
  const target = name === "drop" ? document.getElementById("form") : document.body;
  const about = { bubbles: true, cancelable: true };
  target.dispatchEvent(name === "drop" ? new DragEvent(name, { ...about, dataTransfer: transfer })
    : new ClipboardEvent(name, { ...about, clipboardData: transfer }));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("moving")
    process = ti2v_server(folder / "data", image_models(folder))
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def visitor(server: ServerProcess) -> Iterator[BrowserPage]:
    with visiting(server.url) as visitor:
        yield visitor


@pytest.fixture
def page(visitor: BrowserPage) -> Iterator[Page]:
    page = visitor.open(f"/?model={TI2V}")
    page.get_by_label("Prompt", exact=True).fill("an ox")
    page.locator("#form summary").click()
    for label, value in SIZES.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    yield page
    page.close()


def generated(page: Page, server: ServerProcess, button: str = "Generate") -> dict[str, object]:
    """Press Generate, and return the row once its video is there."""
    before = newest(server)
    page.get_by_role("button", name=button, exact=True).click()
    eventually(lambda: newest(server) != before)
    expect(staged(page, newest(server)).locator(".screen video")).to_be_visible()
    return dict(server.http.get("/generations", params={"page_size": 1}).json()["generations"][0])


def newest(server: ServerProcess) -> str | None:
    rows = server.http.get("/generations", params={"page_size": 1}).json()["generations"]
    return rows[0]["generation_id"] if rows else None


def shown(row: dict[str, object], name: str = "input_image") -> Image.Image:
    return Image.open(io.BytesIO(httpx.get(str(row[name])).content))


@pytest.mark.parametrize("way", ["drop", "paste", "file"])
def test_an_image_is_taken_in_every_way(way: str, page: Page, server: ServerProcess, tmp_path: Path) -> None:
    image = drawn(seed=20)
    if way == "file":
        (tmp_path / "ox.png").write_bytes(encoded(image))
        page.get_by_label("First frame", exact=True).set_input_files(tmp_path / "ox.png")
    else:
        page.evaluate(DROP, [base64.b64encode(encoded(image)).decode(), way])
    expect(page.locator("#image-shown")).to_be_visible()

    row = generated(page, server)

    assert shown(row).tobytes() == image.tobytes()
    expect(page.locator("#stage .input").first).to_be_visible()
    page.get_by_role("tab", name="API").click()
    expect(page.locator("#api-code")).to_contain_text("data:image/png;base64,…")


def test_a_video_is_continued_from_its_last_frame(page: Page, server: ServerProcess) -> None:
    first = generated(page, server)
    page.get_by_role("button", name="Continue").first.click()
    expect(page.locator("#image-shown")).to_be_visible()

    second = generated(page, server)

    last = read_video(httpx.get(str(first["result_url"])).content)[-1]
    assert np.abs(np.asarray(shown(second)).astype(int) - last).mean() < 3


def test_a_frame_of_a_video_is_used_as_the_first_one(page: Page, server: ServerProcess) -> None:
    first = generated(page, server)
    card = staged(page, first["generation_id"])
    # in the middle of the third of five frames at 24 a second
    card.locator(".screen video").evaluate("(video) => { video.pause(); video.currentTime = 2.5 / 24; }")
    card.get_by_role("button", name="Use this frame").click()
    expect(page.locator("#image-shown")).to_be_visible()
    expect(page.get_by_label("Join to the video")).to_be_hidden()

    second = generated(page, server)

    frames = read_video(httpx.get(str(first["result_url"])).content).astype(int)
    errors = [np.abs(np.asarray(shown(second)) - frame).mean() for frame in frames]
    assert errors.index(min(errors)) == 2


def test_a_video_is_joined_to_the_one_it_continues(page: Page, server: ServerProcess) -> None:
    first = generated(page, server)
    expect(page.get_by_label("Join to the video")).to_be_hidden()
    page.get_by_role("button", name="Continue").first.click()
    page.get_by_label("Join to the video").check()

    joined = generated(page, server)

    assert joined["extend_from"] == first["generation_id"]
    assert "input_image" not in joined
    frames = read_video(httpx.get(str(joined["result_url"])).content)
    assert np.array_equal(frames[:5], read_video(httpx.get(str(first["result_url"])).content))
    assert len(frames) == 9
    page.get_by_role("tab", name="API").click()
    expect(page.locator("#api-code")).to_contain_text(f'"extend_from": "{first["generation_id"]}"')
    page.get_by_role("tab", name="Create").click()
    page.get_by_role("button", name="Remove image").click()
    expect(page.get_by_label("Join to the video")).to_be_hidden()


def test_an_image_can_be_taken_back_and_used_again(page: Page, server: ServerProcess) -> None:
    image = drawn(seed=21)
    page.evaluate(DROP, [base64.b64encode(encoded(image)).decode(), "drop"])
    first = generated(page, server)
    page.get_by_role("button", name="Remove image").click()
    expect(page.locator("#image-shown")).to_be_hidden()
    assert "input_image" not in generated(page, server)

    staged(page, first["generation_id"]).get_by_role("button", name="Use these settings").click()
    expect(page.locator("#image-shown")).to_be_visible()
    assert shown(generated(page, server)).tobytes() == image.tobytes()


def test_a_last_image_is_taken_shown_and_used_again(page: Page, server: ServerProcess) -> None:
    page.get_by_role("combobox", name="Model").select_option(FLF2V)
    page.get_by_label("Prompt", exact=True).fill("an ox")
    for label, value in SIZES.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    first, last = drawn(seed=22), drawn(seed=23)
    page.evaluate(DROP, [base64.b64encode(encoded(first)).decode(), "drop"])
    dropped = DROP.replace('getElementById("form")', 'getElementById("last-image-field")')
    page.evaluate(dropped, [base64.b64encode(encoded(last)).decode(), "drop"])
    expect(page.locator("#last-image-shown")).to_be_visible()

    row = generated(page, server)

    assert shown(row).tobytes() == first.tobytes()
    assert shown(row, "end_image_url").tobytes() == last.tobytes()
    expect(page.locator("#stage").locator(".input:visible")).to_have_count(2)
    page.get_by_role("button", name="Remove last frame").click()
    expect(page.locator("#last-image-shown")).to_be_hidden()
    expect(page.locator("#image-shown")).to_be_visible()
    page.locator("#stage").get_by_role("button", name="Use these settings").click()
    expect(page.locator("#last-image-shown")).to_be_visible()
    again = generated(page, server)
    assert shown(again, "end_image_url").tobytes() == last.tobytes()
    page.get_by_role("combobox", name="Model").select_option(TI2V)
    expect(page.get_by_label("Last frame", exact=True)).to_be_hidden()


def test_a_text_models_image_is_answered_with_the_other_models_defaults(page: Page, server: ServerProcess) -> None:
    page.get_by_role("combobox", name="Model").select_option(DEFAULT_MODEL)
    page.get_by_label("Prompt", exact=True).fill("an ox")
    for label, value in SIZES.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    page.evaluate(DROP, [base64.b64encode(encoded(drawn(seed=24))).decode(), "drop"])

    row = generated(page, server)

    assert (row["model_name"], row["answered_by"]) == (DEFAULT_MODEL, I2V)
    assert row["num_inference_steps"] == SIZES["Steps"]
    assert "guidance_scale" not in row
    expect(page.locator("#stage").locator(".facts")).to_contain_text(f"made by {I2V}")


def test_a_text_model_begins_with_an_image_by_its_own_weights(page: Page, server: ServerProcess) -> None:
    page.get_by_role("combobox", name="Model").select_option(DEFAULT_MODEL)
    page.get_by_label("Prompt", exact=True).fill("an ox")
    for label, value in SIZES.items():
        page.get_by_role("spinbutton", name=label).fill(str(value))
    approximate = page.get_by_label("approximate")
    expect(approximate).to_be_hidden()
    page.evaluate(DROP, [base64.b64encode(encoded(drawn(seed=25))).decode(), "drop"])
    expect(approximate).not_to_be_checked()
    approximate.check()

    row = generated(page, server)

    assert (row["image_mode"], row["model_name"]) == ("first_frame", DEFAULT_MODEL)
    assert "answered_by" not in row
    card = page.locator("#stage")
    expect(card.locator(".facts")).to_contain_text("image by text weights")
    approximate.uncheck()
    page.get_by_role("button", name="Remove image").click()
    card.get_by_role("button", name="Use these settings").click()
    expect(approximate).to_be_checked()
    page.get_by_role("tab", name="API").click()
    expect(page.locator("#api-code")).to_contain_text('"image_mode": "first_frame"')


def test_a_model_for_text_alone_takes_an_image_by_its_own_weights_only(page: Page) -> None:
    page.get_by_role("combobox", name="Model").select_option("wan-ai-wan2-1-t2v-1-3b-diffusers")
    page.evaluate(DROP, [base64.b64encode(encoded(drawn())).decode(), "paste"])
    expect(page.locator("#image-shown")).to_be_visible()
    expect(page.get_by_label("approximate")).to_be_checked()
    expect(page.get_by_label("approximate")).to_be_disabled()


@pytest.mark.parametrize(("sides", "shape"), [((120, 200), "9:16"), ((200, 160), "4:3"), ((90, 100), "1:1")])
def test_the_size_follows_the_shape_of_the_image(sides: tuple[int, int], shape: str, page: Page) -> None:
    page.get_by_role("button", name="16:9").click()
    page.get_by_role("button", name="240p").click()
    image = Image.new("RGB", sides, "teal")
    page.evaluate(DROP, [base64.b64encode(encoded(image)).decode(), "drop"])
    expect(page.get_by_role("button", name=shape)).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="240p")).to_have_attribute("aria-pressed", "true")


def test_a_size_of_the_images_shape_stays(page: Page) -> None:
    page.get_by_role("spinbutton", name="Width").fill("96")
    page.get_by_role("spinbutton", name="Height").fill("160")
    page.evaluate(DROP, [base64.b64encode(encoded(Image.new("RGB", (100, 180), "teal"))).decode(), "drop"])
    expect(page.locator("#image-shown")).to_be_visible()
    page.wait_for_timeout(300)
    expect(page.get_by_role("spinbutton", name="Width")).to_have_value("96")

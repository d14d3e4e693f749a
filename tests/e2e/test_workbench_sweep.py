"""A sweep on the page: its videos in a grid that is named, kept, and saved as a picture."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from tests.e2e.test_workbench import QUICK, assert_accessible, fill
from tests.support.browser import BrowserPage, chromium
from tests.support.server_process import ServerProcess

VisitorFactory = Callable[..., BrowserPage]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, start_server: Callable[..., ServerProcess]) -> Iterator[VisitorFactory]:
    """Visitors of servers of their own, who met no error but the refusals that a test provokes."""
    made: list[BrowserPage] = []

    def make(base: str, **about: Any) -> BrowserPage:
        made.append(BrowserPage(browser, base, **about))
        return made[-1]

    yield make
    for one in made:
        one.context.close()
        # what the browser itself writes of refusals and of what was deleted
        assert [error for error in one.errors if "429" not in error and "404" not in error] == []


def sweep(page: Page, rows: tuple[str, str], columns: tuple[str, str] | None = None) -> None:
    if page.locator("#sweep-toggle").get_attribute("aria-expanded") != "true":
        page.locator("#sweep-toggle").click()
    for line, chosen in (("rows", rows), ("columns", columns)):
        if chosen is not None:
            page.locator(f"#sweep-{line}").select_option(label=chosen[0])
            page.locator(f"#sweep-{line}-values").fill(chosen[1])


def test_a_sweep_of_six_and_its_grid(
    visit: VisitorFactory, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server()
    page = visit(server.url).open()
    fill(page, "a red circle moving right", **QUICK)
    sweep(page, ("Guidance", "1, 5"), ("Steps", "1–3 / 3"))
    expect(page.locator("#makes")).to_have_text("Makes 6 videos.")

    page.get_by_role("button", name="Generate", exact=True).click()

    grid = page.get_by_role("dialog")
    expect(grid.locator("video")).to_have_count(6)
    assert grid.locator("th").all_inner_texts() == ["Steps: 1", "Steps: 2", "Steps: 3", "Guidance: 1", "Guidance: 5"]
    rows = server.http.get("/generations").json()["generations"]
    assert {(row["guidance_scale"], row["num_inference_steps"]) for row in rows} == {
        (guidance, steps) for guidance in (1, 5) for steps in (1, 2, 3)
    }
    # all but what is swept is the same
    assert len({row["seed"] for row in rows}) == 1
    second = grid.locator("tbody tr").nth(1).locator("td").nth(1)
    expect(second.get_by_label("Guidance: 5, Steps: 2")).to_be_visible()
    of_it = next(row for row in rows if (row["guidance_scale"], row["num_inference_steps"]) == (5, 2))
    expect(second).to_have_attribute("data-id", of_it["generation_id"])
    page.wait_for_function("() => [...document.querySelectorAll('#grid video')].every(video => !video.paused)")
    grid.get_by_role("button", name="Pause").click()
    assert all(grid.locator("video").evaluate_all("all => all.map(video => video.paused)"))

    page.wait_for_function("() => [...document.querySelectorAll('#grid video')].every(video => video.readyState > 1)")
    with page.expect_download() as download:
        grid.get_by_role("button", name="Save as PNG").click()
    download.value.save_as(tmp_path / "grid.png")
    picture = Image.open(io.BytesIO((tmp_path / "grid.png").read_bytes()))
    assert picture.width > 3 * 64
    assert picture.height > 2 * 64
    assert len(picture.convert("RGB").getcolors(2**20) or ()) > 100

    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.get_by_text("Grids (1)").click()
    page.get_by_role("button", name="6 × a red circle").click()
    expect(grid.locator("video")).to_have_count(6)
    server.http.delete(f"/generations/{of_it['generation_id']}")
    grid.get_by_role("button", name="Close").click()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.get_by_text("Grids (1)").click()
    page.get_by_role("button", name="6 × a red circle").click()
    expect(grid.get_by_text("Deleted")).to_be_visible()
    expect(grid.locator("video")).to_have_count(5)
    grid.get_by_role("button", name="Remove the grid").click()
    expect(page.locator("#grids")).to_be_hidden()


def test_what_the_queue_refuses_is_told_and_sent_later(
    visit: VisitorFactory, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(max_queued="2")
    page = visit(server.url).open()
    fill(page, "a red circle", **{**QUICK, "Steps": 100, "Height": 256, "Width": 256})
    sweep(page, ("Seed", "1..6"))

    page.get_by_role("button", name="Generate", exact=True).click()

    grid = page.get_by_role("dialog")
    expect(grid.get_by_role("alert")).to_contain_text("of 6 were sent. The queue is full: 2 generations are waiting.")
    unsent = grid.get_by_text("Not sent")
    left = unsent.count()
    rows = server.http.get("/generations").json()["generations"]
    assert len(rows) == 6 - left
    page.reload()
    for row in rows:
        server.http.delete(f"/queue/{row['generation_id']}")
    page.wait_for_selector("body[data-ready]")
    page.get_by_text("Grids (1)").click()
    page.get_by_role("button", name="6 × a red circle").click()
    expect(unsent).to_have_count(left)
    grid.get_by_role("button", name="Send the rest").click()
    expect(unsent).not_to_have_count(left)
    assert server.http.get("/generations").json()["total_entries"] > len(rows)
    page.goto("about:blank")


def test_values_are_checked_before_anything_is_sent(
    visit: VisitorFactory, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server()
    page = visit(server.url).open()
    fill(page, "a red circle", **QUICK)
    error = page.locator("#form-error")
    button = page.get_by_role("button", name="Generate", exact=True)

    for rows, sentence in (
        (("Guidance", "1, 11"), "Guidance must be from 0 to 10."),
        (("Guidance", "much"), "Guidance must be a number."),
        (("Steps", "1.5"), "Steps must be a whole number."),
        (("Steps", " "), "Steps needs at least one value."),
        (("Sampler", "unipc, magic"), "Sampler must be of: unipc, dpm++, euler."),
        (("Seed", "3, 3"), "Seed has a value twice."),
        (("Seed", "1..17"), "At most 16 videos are made at a time."),
    ):
        sweep(page, rows)
        button.click()
        expect(error).to_have_text(sentence)
    sweep(page, ("Seed", "1, 2"), ("Seed", "1, 2"))
    button.click()
    expect(error).to_have_text("A sweep needs two different parameters.")
    sweep(page, ("Seed", "1, 2"), ("Steps", "1, 2"))
    page.get_by_label("Prompt", exact=True).fill("{a|b}")
    button.click()
    expect(error).to_have_text("A sweep needs a prompt without alternatives in braces.")
    assert server.http.get("/generations").json()["total_entries"] == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_grid_is_accessible_and_has_room_on_a_phone(
    visit: VisitorFactory, start_server: Callable[..., ServerProcess], scheme: str
) -> None:
    about = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme, "reduced_motion": "reduce"}
    page = visit(start_server().url, **about).open()
    fill(page, "a red circle", **QUICK)
    sweep(page, ("Seed", "1, 2"), ("Sampler", "unipc, euler"))
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.locator("#grid video")).to_have_count(4)

    # who would rather have nothing move is not shown it moving
    assert all(page.locator("#grid video").evaluate_all("all => all.map(video => video.paused)"))
    assert_accessible(page, "grid")
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert (box["x"], box["width"]) == (0, 390)

"""The form of the page: what is in view, what is told before Generate, prompts with alternatives, presets."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.test_workbench import QUICK, asked_by, assert_accessible, fill, generate
from tests.support.browser import BrowserPage, chromium, visitors
from tests.support.server_process import MODEL, ServerProcess
from tests.support.workbench import submissions

VisitorFactory = Callable[..., BrowserPage]
WIDE = {"viewport": {"width": 1280, "height": 700}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, server: ServerProcess) -> Iterator[VisitorFactory]:
    """Visitors to the shared server who met no error and no other host."""
    with visitors(browser, server.url) as make:
        yield make


def prompts_of(server: ServerProcess, count: int) -> list[str]:
    rows = server.http.get("/generations", params={"page_size": count}).json()["generations"]
    return [row["prompt"] for row in rows]


def newest(server: ServerProcess) -> dict[str, Any]:
    return dict(server.http.get("/generations", params={"page_size": 1}).json()["generations"][0])


@pytest.mark.parametrize("about", [WIDE, PHONE])
def test_generate_is_always_in_view(visitor: VisitorFactory, about: dict[str, Any]) -> None:
    page = visitor(**about).open()
    button = page.get_by_role("button", name="Generate", exact=True)

    page.locator("#form details summary").click()
    for place in ("prompt", "num_frames", "seed"):
        page.locator(f"#field-{place}").scroll_into_view_if_needed()
        expect(button).to_be_in_viewport(ratio=1)
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    expect(button).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == about["viewport"]["width"]


def test_what_is_touched_has_room_for_a_finger(visitor: VisitorFactory) -> None:
    page = visitor(**PHONE).open()
    page.locator("#form details summary").click()
    page.locator("#sweep-toggle").click()

    heights = page.locator(
        "#form :is(button, select, summary, input[type=number], .segments span):visible"
    ).evaluate_all(
        "all => all.map(each => [each.id || each.className || each.textContent, each.getBoundingClientRect().height])"
    )
    assert [each for each in heights if each[1] < 43.5 and "examples" not in each[0]] == []


def test_the_length_is_written_in_seconds_or_frames(visitor: VisitorFactory, server: ServerProcess) -> None:
    page = visitor().open(f"/?model={MODEL}")
    length, frames = (page.get_by_role("spinbutton", name=name) for name in ("Length", "Frames"))

    length.fill("5")
    expect(frames).to_have_value("80")
    frames.fill("9")
    expect(length).to_have_value("0.56")
    frames.fill("120")
    expect(length).to_have_value("7.5")
    length.fill("8")
    expect(page.get_by_text("Frames must be from 1 to 120.")).to_be_visible()
    length.fill("0.3")
    fill(page, "seconds", Height=64, Width=64, Steps=2)
    card = asked_by(page, page.get_by_role("button", name="Generate", exact=True).click)
    assert server.row(card.get_attribute("data-id") or "")["num_frames"] == 5


def test_inputs_open_from_their_buttons_and_reset_folds_them_away(visitor: VisitorFactory) -> None:
    page = visitor().open(f"/?model={MODEL}")
    add, field = page.locator("#video-add"), page.locator("#video-field")

    expect(field).to_be_hidden()
    with page.expect_file_chooser() as chooser:
        add.click()
    assert chooser.value.element.get_attribute("id") == "video-file"
    expect(field).to_be_visible()
    expect(add).to_have_attribute("aria-expanded", "true")
    add.click()
    expect(field).to_be_hidden()
    add.click()
    page.get_by_role("button", name="Reset").click()
    expect(field).to_be_hidden()


def test_the_speed_is_one_of_four_with_a_line_of_help_each(visitor: VisitorFactory) -> None:
    page = visitor().open()
    speed = page.get_by_role("group", name="Speed")
    helps = set()

    for name in ("auto", "exact", "balanced", "fast"):
        speed.get_by_role("radio", name=name).check(force=True)
        helps.add(speed.locator(".hint").inner_text())
    assert len(helps) == 4
    fast = speed.get_by_role("radio", name="fast")
    expect(fast).to_have_accessible_description("Skips more steps: a small difference.")


def test_before_generate_it_is_told_how_long_it_takes(visitor: VisitorFactory, start_server: Any) -> None:
    server = start_server()
    page = visitor(server.url).open()
    estimate = page.locator("#estimate")
    expect(estimate).to_contain_text("No estimate yet")

    expect(generate(page, "timed", **QUICK).locator("video")).to_be_visible()
    expect(estimate).to_contain_text("about")
    page.get_by_label("How many").select_option("3")
    expect(page.locator("#makes")).to_have_text("Makes 3 videos.")
    expect(estimate).to_contain_text("in all")
    assert server.http.get("/generations").json()["total_entries"] == 1
    page.goto("about:blank")


def test_what_does_not_fit_is_told_with_a_size_that_does(visitor: VisitorFactory) -> None:
    page = visitor().open()
    asked: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        asked.append(route.request.post_data_json)
        fits = asked[-1]["width"] <= 640
        known = {"seconds": 360.0 if fits else None, "queue_seconds": 0.0, "fits": fits}
        other = (
            {"reason": None, "suggestion": None}
            if fits
            else {"reason": "x", "suggestion": {"width": 640, "height": 368}}
        )
        route.fulfill(json=known | other)

    page.route("**/api/ai/estimate", answer)
    page.get_by_role("button", name="720p").click()
    expect(page.locator("#estimate")).to_contain_text("Does not fit this machine.")

    page.get_by_role("button", name="Use 640 × 368").click()

    expect(page.locator("#estimate")).to_have_text("about 6 min · fits this machine")
    expect(page.get_by_role("spinbutton", name="Width")).to_have_value("640")
    expect(page.get_by_role("spinbutton", name="Height")).to_have_value("368")


def test_alternatives_in_the_prompt_make_a_video_each(visitor: VisitorFactory, server: ServerProcess) -> None:
    page = visitor().open()
    fill(page, r"a {red|blue} circle on {a lake|{grass|sand}} \{not|this\}", Seed=4, **QUICK)
    expect(page.locator("#makes")).to_have_text("Makes 6 videos.")

    card = asked_by(page, page.get_by_role("button", name="Generate", exact=True).click)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()
    expect(page.locator("#form-error")).to_be_hidden()

    places = ("a lake", "grass", "sand")
    wanted = {f"a {colour} circle on {place} {{not|this}}" for colour in ("red", "blue") for place in places}
    assert set(prompts_of(server, 6)) == wanted
    # used again it stands for itself alone
    card.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(r"a red circle on a lake \{not|this\}")
    expect(page.locator("#makes")).to_be_hidden()
    asked_by(page, page.get_by_role("button", name="Generate", exact=True).click)
    assert newest(server)["prompt"] == "a red circle on a lake {not|this}"


def test_too_many_alternatives_are_refused_and_nothing_is_sent(visitor: VisitorFactory) -> None:
    page = visitor().open()
    sent = submissions(page)
    for prompt, count in (("{a|b|c} {a|b|c} {a|b}", "1"), ("{a|b|c} {a|b|c}", "2"), ("{a|b}" * 12, "1")):
        fill(page, prompt, **QUICK)
        page.get_by_label("How many").select_option(count)
        page.get_by_role("button", name="Generate", exact=True).click()
        expect(page.locator("#form-error")).to_have_text("At most 16 videos are made at a time.")
    assert sent == []


def test_a_full_queue_says_how_many_were_sent(visitor: VisitorFactory, start_server: Any) -> None:
    server = start_server(max_queued="2")
    visit = visitor(server.url)
    page = visit.open()
    fill(page, "{a|b|c|d|e|f} circle", **{**QUICK, "Steps": 100, "Height": 256, "Width": 256})

    page.get_by_role("button", name="Generate", exact=True).click()

    expect(page.locator("#form-error")).to_contain_text("of 6 were sent. The queue is full: 2 generations are waiting.")
    expect(page.locator("#form-error")).to_contain_text("Try again in")
    said = int(page.locator("#form-error").inner_text().split()[0])
    assert server.http.get("/generations").json()["total_entries"] == said
    page.goto("about:blank")
    # what the browser itself writes of a refusal
    visit.errors[:] = [error for error in visit.errors if "429" not in error]


def test_an_empty_prompt_offers_examples_that_the_model_knows(visitor: VisitorFactory) -> None:
    page = visitor().open()
    examples = page.get_by_role("group", name="For example:")
    page.get_by_label("Prompt", exact=True).fill("my own")
    expect(examples).to_be_hidden()
    page.get_by_label("Prompt", exact=True).fill("")
    expect(examples.get_by_role("button")).to_have_count(4)

    examples.get_by_role("button").first.click()

    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a big red circle moving right on a blue background")
    expect(examples).to_be_hidden()


# presets


def saved(page: Page, name: str) -> None:
    page.locator("#presets-open").click()
    page.locator("#preset-name").fill(name)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text(f"Saved: {name}.")).to_be_visible()


def test_presets_are_saved_applied_renamed_and_removed(visitor: VisitorFactory) -> None:
    page = visitor().open()
    fill(page, "one", Seed=3, **QUICK)
    page.get_by_role("radio", name="fast").check(force=True)
    saved(page, "quick")
    page.locator("#presets-close").click()
    page.get_by_role("button", name="Reset").click()
    page.get_by_label("Prompt", exact=True).fill("another")
    page.reload()
    page.wait_for_selector("body[data-ready]")

    page.locator("#presets-open").click()
    page.get_by_role("button", name="Apply: quick").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("another")
    for label, value in QUICK.items():
        expect(page.get_by_label(label, exact=True)).to_have_value(str(value))
    expect(page.get_by_role("radio", name="fast")).to_be_checked()

    page.locator("#presets-open").click()
    name = page.locator("#preset-list input")
    name.fill("quicker")
    name.press("Tab")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator("#presets-open").click()
    page.get_by_role("button", name="Delete: quicker").click()
    expect(page.get_by_text("Nothing saved yet.")).to_be_visible()


def test_a_preset_is_shared_as_a_file(visitor: VisitorFactory, tmp_path: Path) -> None:
    page = visitor().open()
    fill(page, "one", Seed=3, **QUICK)
    saved(page, "to share")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export: to share").click()
    download.value.save_as(tmp_path / "shared.json")
    shared = json.loads((tmp_path / "shared.json").read_text())
    assert (shared["model"], shared["settings"]["num_frames"]) == (MODEL, 5)
    assert "prompt" not in shared["settings"]

    other = visitor().open()
    other.locator("#presets-open").click()
    other.locator("#preset-file").set_input_files(tmp_path / "shared.json")
    other.get_by_role("button", name="Apply: to share").click()
    expect(other.get_by_role("spinbutton", name="Frames")).to_have_value("5")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"settings": {"height": 9999}}, "Height must be from 1 to 720."),
        ({"settings": {"width": "64"}}, "Width must be a number."),
        ({"settings": {"num_frames": 1.5}}, "Length must be a whole number."),
        ({"settings": {"evil": 1}}, "Unknown setting: evil."),
        ({"settings": {"__proto__x": 1, "sampler": "magic"}}, "Sampler has a value that cannot be used."),
        ({"settings": {"loras": [{"name": "x", "strength": 99}]}}, "LoRAs has a value that cannot be used."),
        ({"settings": {"input_image": "http://x"}}, "Unknown setting: input_image."),
        ({"model": "nope"}, "Model not found: nope."),
        ({"settings": []}, "This is not a preset file."),
        ({"name": " "}, "This is not a preset file."),
    ],
)
def test_what_is_wrong_in_a_file_is_told_and_never_applied(
    visitor: VisitorFactory, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    page = visitor().open()
    file = tmp_path / "preset.json"
    file.write_text(json.dumps({"name": "it", "model": MODEL, "settings": {"height": 64}, **changes}))
    page.locator("#presets-open").click()

    page.locator("#preset-file").set_input_files(file)

    expect(page.locator("#preset-error")).to_contain_text(sentence)
    expect(page.get_by_text("Nothing saved yet.")).to_be_visible()


def test_a_file_that_is_large_or_no_json_is_refused(visitor: VisitorFactory, tmp_path: Path) -> None:
    page = visitor().open()
    page.locator("#presets-open").click()
    for text, sentence in (
        ("x" * (64 * 1024 + 1), "at most 64 KiB"),
        ("{", "not a preset file"),
        ("null", "not a preset"),
    ):
        (tmp_path / "preset.json").write_text(text)
        page.locator("#preset-file").set_input_files(tmp_path / "preset.json")
        expect(page.locator("#preset-error")).to_contain_text(sentence)


# everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024])
def test_the_whole_form_is_accessible(visitor: VisitorFactory, scheme: str, width: int) -> None:
    about = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "reduced_motion": "reduce"}
    page = visitor(**about).open(f"/?model={MODEL}")
    page.locator("#form details summary").click()
    page.locator("#sweep-toggle").click()
    for name in ("image", "video", "audio"):
        page.locator(f"#{name}-add").click()
    page.get_by_role("spinbutton", name="Height").fill("9999")
    page.locator("#sweep-rows-values").fill("x")
    page.get_by_label("Prompt", exact=True).fill("")
    assert_accessible(page, "form")
    page.get_by_role("spinbutton", name="Height").fill("64")
    saved(page, "a preset")
    assert_accessible(page, "presets")
    assert page.evaluate("document.documentElement.scrollWidth") == width

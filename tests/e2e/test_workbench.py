"""The Workbench in a real browser: what a visitor does with it, from the first look to the copied call."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from pipelines.demo.folder import demo_folder
from pipelines.models.registry import family_of
from server.cli.generate.videos import DEMO_SIZE
from server.storage.db.api_keys import KeyRing
from server.storage.db.connection import opened
from tests.contract.model_page import HOST, clients
from tests.support.browser import BrowserPage, chromium, visitors
from tests.support.models.loras import write_lora
from tests.support.server_process import MODEL, ServerProcess, eventually, needs
from tests.support.workbench import is_submission, staged, submissions, tile

VisitorFactory = Callable[..., BrowserPage]

QUICK = {"Height": 64, "Width": 64, "Frames": 5, "Steps": 2}
QUICK_ROW = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2}
LONG = {"Height": 256, "Width": 256, "Frames": 5, "Steps": 100}
AWKWARD = 'It\'s a "lake" \\ with $HOME & `ls` — 湖泊 <b>'
SHELLS = {"cURL": "bash", "Python": "python"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(
    browser: Browser, server: ServerProcess, start_server: Callable[..., ServerProcess]
) -> Iterator[VisitorFactory]:
    """Visitors to the shared server or another; none may have met an error or another host.

    They leave before the test's own servers stop.
    """
    with visitors(browser, server.url) as make:
        yield make


def fill(page: Page, prompt: str, **settings: float) -> None:
    """Fill in the form; settings by their label, with underscores for blanks."""
    more = page.locator("#form details")
    if more.get_attribute("open") is None:
        more.locator("summary").click()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for label, value in settings.items():
        page.get_by_role("spinbutton", name=label.replace("_", " ")).fill(str(value))


def generate(page: Page, prompt: str, **settings: float) -> Locator:
    """Ask for a video; returns its card."""
    fill(page, prompt, **settings)
    return asked_by(page, page.get_by_role("button", name="Generate", exact=True).click)


def asked_by(page: Page, action: Callable[[], None]) -> Locator:
    """The card of what an action asks for."""
    with page.expect_response(lambda answer: is_submission(answer.request)) as answer:
        action()
    id_ = answer.value.json()["generations"][0]["generation_id"]
    made = page.locator(f"#stage[data-id='{id_}']")
    expect(made).to_be_visible()
    return made


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    expect(page.get_by_role("tabpanel", name=name, exact=True)).to_be_visible()


# create


def test_a_first_visit_ends_with_a_video_that_plays(visitor: VisitorFactory) -> None:
    page = visitor().open()
    expect(page.get_by_text("Demo weights: this small model")).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(re.compile("serene lake"))

    made = generate(page, "a red circle moving right", **QUICK)

    video = made.locator("video")
    expect(video).to_be_visible()
    page.wait_for_function(
        "video => !video.paused && video.currentTime > 0 && video.videoWidth === 64", arg=video.element_handle()
    )
    expect(made.get_by_text("Done in")).to_be_visible()
    with page.expect_download() as download:
        made.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.startswith("paddock-")
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"


def test_with_demo_weights_the_page_opens_at_the_size_of_the_command_line(visitor: VisitorFactory) -> None:
    page = visitor().open()
    page.locator("#form details summary").click()
    fields = {name: page.get_by_role("spinbutton", name=name) for name in ("Width", "Height", "Frames")}

    for field, value in zip(fields.values(), DEMO_SIZE.values(), strict=True):
        expect(field).to_have_value(str(value))
    page.get_by_role("button", name="Reset").click()
    expect(fields["Width"]).to_have_value("832")


def test_the_form_is_the_schemas(visitor: VisitorFactory, server: ServerProcess) -> None:
    page = visitor().open(f"/ai/workbench?model={MODEL}")
    page.locator("#form details summary").click()
    page.get_by_role("button", name="Reset").click()
    schema = server.http.get(f"/models/{MODEL}").json()["request_schema"]
    wanted = sorted(schema["properties"].items(), key=lambda item: item[1]["x-order"])

    for name, about in wanted:
        field = page.locator(f"#field-{name}")
        value = field.input_value()
        assert value == str(about.get("default", "")) or float(value) == about["default"], name
        if "minimum" in about:
            assert (field.get_attribute("min"), field.get_attribute("max")) == (
                str(about["minimum"]),
                str(about["maximum"]),
            )
    names = page.locator("#form [name]:not([type=radio])").evaluate_all("all => all.map(field => field.name)")
    assert sorted(names) == sorted(name for name, _ in wanted)
    folded = page.locator("#more-fields [name]").evaluate_all("all => all.map(field => field.name)")
    assert folded == [name for name, _ in wanted if name in folded]
    assert not set(folded) & set(schema["basic"])
    labels = {"num_inference_steps": "Steps", "guidance_scale": "Guidance", "negative_prompt": "Negative prompt"}
    for name, label in labels.items():
        expect(page.get_by_label(label, exact=True)).to_have_id(f"field-{name}")
        expect(page.locator(f"#field-{name}")).to_have_accessible_description(re.compile(r"\w.*\."))


def test_another_model_has_a_form_of_its_own(visitor: VisitorFactory) -> None:
    page = visitor().open("/?model=wan-ai-wan2-2-t2v-a14b-diffusers")
    page.locator("#form details summary").click()

    expect(page.get_by_label("Run Fast")).to_be_checked()
    expect(page.get_by_role("spinbutton", name="Width")).to_have_attribute("max", "832")
    page.get_by_role("combobox", name="Model").select_option(MODEL)
    expect(page.get_by_role("spinbutton", name="Width")).to_have_attribute("max", "1280")
    expect(page.get_by_label("Run Fast")).to_have_count(0)


def test_what_is_wrong_is_said_while_typing_and_nothing_is_sent(visitor: VisitorFactory) -> None:
    page = visitor().open()
    sent = submissions(page)
    height = page.get_by_role("spinbutton", name="Height")

    height.fill("721")
    expect(page.get_by_text("Height must be from 1 to 720.")).to_be_visible()
    height.fill("7.5")
    expect(page.get_by_text("Height must be a whole number.")).to_be_visible()
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("Correct the marked fields first.")).to_be_visible()
    expect(height).to_be_focused()
    height.fill("64")
    expect(page.get_by_text("Height must be")).to_have_count(0)
    page.get_by_label("Prompt", exact=True).fill("  ")
    expect(page.get_by_text("Prompt is required.")).to_be_visible()
    assert sent == []


def test_sizes_seed_and_keys(visitor: VisitorFactory) -> None:
    page = visitor().open()
    page.locator("#form details summary").click()
    width, height, seed = (page.get_by_role("spinbutton", name=name) for name in ("Width", "Height", "Seed"))
    resolution = page.get_by_role("group", name="Resolution")

    page.get_by_role("button", name="720p").click()
    assert (width.input_value(), height.input_value()) == ("1280", "720")
    page.get_by_role("button", name="9:16").click()
    # the model's height ends at 720: the shape is kept, not the pixels
    assert (width.input_value(), height.input_value()) == ("400", "720")
    width.fill("500")
    expect(resolution.locator("[aria-pressed=true]")).to_have_count(0)

    lock = page.get_by_role("button", name="Keep the seed")
    expect(lock).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Random seed").click()
    rolled = seed.input_value()
    assert 0 <= int(rolled) < 2**53
    expect(lock).to_have_attribute("aria-pressed", "true")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator("#form details summary").click()
    assert seed.input_value() == rolled
    lock.click()
    assert seed.input_value() == ""

    page.get_by_role("tab", name="Create").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Compare")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    fill(page, "sent by the keyboard", **QUICK)
    made = asked_by(page, lambda: page.get_by_label("Prompt", exact=True).press("Control+Enter"))
    expect(made.locator(".prompt")).to_have_text("sent by the keyboard")


def test_a_prompt_stays_text(visitor: VisitorFactory) -> None:
    page = visitor().open()
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    hostile = "<img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}"

    made = generate(page, hostile, **QUICK)

    expect(made.locator(".prompt")).to_have_text(hostile)
    expect(made.locator("video")).to_be_visible()
    assert page.locator("main img[src=x]").count() == 0
    # nor does it become anything else where it is looked up later
    page.get_by_role("tab", name="History").click()
    expect(page.locator("#history-list .prompt").first).to_have_text(hostile)
    assert page.locator("img[src=x]").count() == 0


def test_a_preview_is_seen_while_it_denoises_and_cancel_stops_it(
    visitor: VisitorFactory, server: ServerProcess
) -> None:
    page = visitor().open()
    made = generate(page, "a long one", **LONG)
    expect(made.locator(".status")).to_contain_text("of 100")
    expect(made.get_by_role("img", name="Preview")).to_be_visible()

    made.get_by_role("button", name="Cancel").click()

    expect(made.locator(".status")).to_have_text("Cancelled")
    expect(made.get_by_role("img", name="Preview")).to_have_count(0)
    assert server.row(made.get_attribute("data-id") or "")["status"] == "cancelled"


def test_a_reload_in_the_middle_loses_nothing(visitor: VisitorFactory) -> None:
    page = visitor().open()
    made = generate(page, "reloaded", **{**LONG, "Steps": 30})
    expect(made.locator(".status")).to_contain_text("of 30")

    page.reload()

    expect(made.locator(".status")).to_contain_text("of 30")
    expect(made.locator("video")).to_be_visible()


def test_use_again_and_delete(visitor: VisitorFactory, server: ServerProcess) -> None:
    page = visitor().open()
    page.get_by_text("More settings").click()
    page.get_by_role("radio", name="fast").check(force=True)
    page.get_by_label("Sampler").select_option("dpm++")
    made = generate(page, "the first", Seed=7, **QUICK)
    expect(made.locator("video")).to_be_visible()
    expect(made.get_by_text("speed: fast")).to_be_visible()
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_role("radio", name="auto")).to_be_checked()
    expect(page.get_by_label("Sampler")).to_have_value("")

    made.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("the first")
    assert page.get_by_role("spinbutton", name="Seed").input_value() == "7"
    assert page.get_by_role("spinbutton", name="Frames").input_value() == "5"
    expect(page.get_by_role("radio", name="fast")).to_be_checked()

    first = server.row(made.get_attribute("data-id") or "")
    other = asked_by(page, page.locator("#stage").get_by_role("button", name="Repeat with a new seed").click)
    again = server.row(other.get_attribute("data-id") or "")
    assert again["seed"] != first["seed"]
    for name in ("prompt", "step_cache", "sampler", *QUICK_ROW):
        assert again[name] == first[name]

    made = staged(page, first["generation_id"])
    made.get_by_role("button", name="Delete").click()
    made.get_by_role("button", name="Really delete?").click()
    expect(tile(page, first["generation_id"])).to_have_count(0)
    expect(made).to_have_count(0)
    assert server.http.get(f"/queue/{first['generation_id']}").status_code == 404


def test_loras_are_added_with_strengths_and_removed(
    visitor: VisitorFactory, start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    width = family_of("WanPipeline").read_shape(demo_folder()).transformer.width
    for seed, name in enumerate(("film", "slow camera")):
        write_lora(tmp_path / f"{name}.safetensors", width, ("blocks.0.attn1.to_q",), seed)
    server = start_server(loras_dir=str(tmp_path))
    page = visitor(server.url).open()
    page.get_by_text("More settings").click()
    chosen = page.locator("#loras li b")
    add, strength = page.get_by_label("LoRAs"), page.get_by_role("spinbutton", name="Strength of slow camera")
    add.select_option("slow camera")
    strength.fill("9")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(page.get_by_text("slow camera must be from -4 to 4.")).to_be_visible()
    strength.fill("-0.5")
    add.select_option("film")
    expect(add).to_be_disabled()

    made = generate(page, "a circle", Seed=7, **QUICK)
    expect(made.locator("video")).to_be_visible()
    expect(made.get_by_text("slow camera:-0.5; film")).to_be_visible()
    wanted = [{"name": "slow camera", "strength": -0.5}, {"name": "film"}]
    assert server.row(made.get_attribute("data-id") or "")["loras"] == wanted
    page.get_by_role("button", name="Reset").click()
    expect(chosen).to_have_count(0)
    made.get_by_role("button", name="Use these settings").click()
    expect(chosen).to_have_text(["slow camera", "film"])
    expect(strength).to_have_value("-0.5")
    other = asked_by(page, made.get_by_role("button", name="Repeat with a new seed").click)
    assert server.row(other.get_attribute("data-id") or "")["loras"] == wanted
    page.reload()
    expect(chosen).to_have_text(["slow camera", "film"])

    page.get_by_text("More settings").click()
    page.get_by_role("button", name="Remove slow camera").click()
    assert server.row(generate(page, "one", **QUICK).get_attribute("data-id") or "")["loras"] == [{"name": "film"}]
    (tmp_path / "film.safetensors").unlink()
    page.reload()
    expect(page.get_by_text("not among the LoRAs of this model")).to_be_attached()
    refused = generate(page, "unknown", **QUICK)
    expect(refused.get_by_text("film is not a LoRA of")).to_be_visible()


# calls


def test_the_calls_are_the_model_pages(visitor: VisitorFactory, server: ServerProcess) -> None:
    page = visitor().open()
    page.get_by_role("button", name="Reset").click()
    tab(page, "API")
    seen = {}
    for client in clients():
        choose_call(page, client.transport, client.parameters, {"bash": "cURL", "python": "Python"}[client.language])
        seen[client.name] = page.locator("#api-code").inner_text()
    assert seen == {client.name: client.code.replace(HOST, server.url) for client in clients()}


def test_the_calls_run_as_copied(visitor: VisitorFactory, server: ServerProcess, tmp_path: Path) -> None:
    for program in ("curl", "jq", "mawk"):
        needs(program)
    visit = visitor()
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visit.open()
    fill(page, AWKWARD, Seed=11, **QUICK)
    tab(page, "API")
    copied = {}
    for client in clients():
        language = {"bash": "cURL", "python": "Python"}[client.language]
        choose_call(page, client.transport, client.parameters, language)
        page.locator("#api-copy").click()
        copied[client.name] = (client.language, page.evaluate("navigator.clipboard.readText()"))

    def run(code: tuple[str, str]) -> str:
        command = ["bash", "-ec"] if code[0] == "bash" else [sys.executable, "-c"]
        env = {**os.environ, "OXEN_API_KEY": "any"}
        done = subprocess.run([*command, code[1]], env=env, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == 0, done.stderr + code[1]
        return done.stdout

    with ThreadPoolExecutor(len(copied)) as pool:
        printed = dict(zip(copied, pool.map(run, copied.values()), strict=True))

    for name, output in printed.items():
        assert "/api/files/" in output, (name, output)
    rows = server.http.get("/generations", params={"search": "lake $HOME 湖泊"}).json()["generations"]
    assert len(rows) == len(copied)
    for row in rows:
        assert (row["prompt"], row["seed"], row["status"]) == (AWKWARD, 11, "succeeded")
        assert {name: row[name] for name in QUICK_ROW} == QUICK_ROW


def choose_call(page: Page, transport: str, parameters: str, language: str) -> None:
    for name in (transport, parameters, language):
        page.locator("#api-choices").get_by_text(name, exact=True).click()


# history


def test_history_is_searched_and_paged(visitor: VisitorFactory, start_server: Callable[..., ServerProcess]) -> None:
    server = start_server()
    for prompt in (*(f"Number {number} of the LAKE" for number in range(14)), "100 % of a mountain"):
        server.enqueue(prompt=prompt, height=9999)
    bad = server.enqueue(prompt="no such height", height=9999)
    # all but one are over in another way, for which nothing need be made
    with closing(sqlite3.connect(server.data_dir / "paddock.db")) as records, records:
        records.execute("UPDATE generations SET status = 'cancelled', error_message = NULL WHERE id != ?", [bad])
    page = visitor(server.url).open("/#history")
    prompts = page.locator("#history-list .prompt")

    expect(prompts).to_have_count(16)
    expect(page.get_by_text("16 in total")).to_be_visible()
    page.get_by_label("Search prompts").fill("lake number 1")
    expect(page.get_by_text("5 in total")).to_be_visible()
    page.get_by_label("Search prompts").fill("MOUNT")
    expect(prompts).to_have_text(["100 % of a mountain"])
    page.get_by_label("Search prompts").fill("")
    page.get_by_label("Status").select_option("failed")
    expect(prompts).to_have_text(["no such height"])
    page.locator(f"#history-list [data-id='{bad}'] .picture").click()
    expect(page.locator("#detail .error")).to_have_text("height must be an integer between 1 and 720")


# the server


def test_a_restart_in_the_middle_is_survived(
    visitor: VisitorFactory, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(checkpoint_interval="0.2")
    visit = visitor(server.url)
    page = visit.open()
    made = generate(page, "over a restart", **{**LONG, "Steps": 40})
    expect(made.locator(".status")).to_contain_text("of 40")

    server.stop()
    expect(page.get_by_text("The server cannot be reached")).to_be_visible()
    expect(page.locator("#machine-button")).to_have_text("server not reachable")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_disabled()
    server.start()

    expect(page.get_by_text("The server cannot be reached")).to_have_count(0)
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()
    expect(made.locator("video")).to_be_visible()
    # what the browser itself writes of requests that nobody answered
    visit.errors[:] = [error for error in visit.errors if not error.startswith("Failed to load resource")]


def test_a_key_is_asked_for_and_kept_in_the_browser(visitor: VisitorFactory, tenant: ServerProcess, key: str) -> None:
    server = tenant
    visit = visitor(server.url)
    page = visit.context.new_page()
    page.goto(server.url)
    dialog = page.get_by_role("dialog", name="This server needs an API key")

    dialog.get_by_label("API key").fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog.get_by_text("The server does not accept this key.")).to_be_visible()
    assert_accessible(page, "key")
    dialog.get_by_label("API key").fill(key)
    dialog.get_by_label("API key").press("Enter")
    page.wait_for_selector("body[data-ready]")
    made = generate(page, "with a key", **QUICK)
    expect(made.locator("video")).to_be_visible()

    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(made.locator("video")).to_be_visible()
    assert visit.context.cookies() == []
    assert key not in page.url
    tab(page, "API")
    expect(page.get_by_text("The code reads your API key from the environment variable OXEN_API_KEY")).to_be_visible()
    # what the browser itself writes of a refusal
    visit.errors[:] = [error for error in visit.errors if "401 (Unauthorized)" not in error]


def test_models_are_loaded_and_unloaded(visitor: VisitorFactory, start_server: Callable[..., ServerProcess]) -> None:
    page = visitor(start_server().url).open()
    page.locator("#machine-button").click()
    model = page.locator(f"#machine-models li[data-id='{MODEL}']")
    expect(model.locator(".state")).to_have_text("not loaded")

    model.get_by_role("button", name="Load").click()
    expect(model.locator(".state")).to_have_text("loaded")
    expect(model.get_by_role("button", name="Unload")).to_be_visible()
    model.get_by_role("button", name="Unload").click()
    expect(model.locator(".state")).to_have_text("not loaded")
    expect(page.get_by_role("dialog").get_by_text("GiB free")).to_have_count(2)


def test_the_page_works_where_the_browser_keeps_nothing(
    visitor: VisitorFactory, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(api_keys="set")
    visit = visitor(server.url)
    page = visit.context.new_page()
    page.add_init_script(
        "for (const name of ['localStorage', 'sessionStorage'])"
        "  Object.defineProperty(window, name, {get() { throw new DOMException('', 'SecurityError') }})"
    )
    page.goto(server.url)
    dialog = page.get_by_role("dialog", name="This server needs an API key")
    dialog.get_by_label("API key").fill("set")
    dialog.get_by_label("API key").press("Enter")
    page.wait_for_selector("body[data-ready]")

    expect(generate(page, "a red circle", **QUICK).locator("video")).to_be_visible()
    # what the browser itself writes of a refusal
    visit.errors[:] = [error for error in visit.errors if "401 (Unauthorized)" not in error]


def test_why_a_model_is_not_loaded_is_told_in_the_dialog(
    visitor: VisitorFactory, start_server: Callable[..., ServerProcess]
) -> None:
    server = start_server(api_keys="set")
    visit = visitor(server.url)
    page = visit.context.new_page()
    page.add_init_script("localStorage.setItem('paddock.key', 'set')")
    page.goto(server.url)
    page.wait_for_selector("body[data-ready]")
    with opened(f"sqlite:///{server.data_dir / 'paddock.db'}") as engine:
        KeyRing(engine).add("boss", is_admin=True)
    refused = {"headers": {"Authorization": "Bearer set"}}
    eventually(lambda: server.http.post("/models/nope/activate", **refused).status_code == 403, server)

    page.locator("#machine-button").click()
    model = page.locator(f"#machine-models li[data-id='{MODEL}']")
    model.get_by_role("button", name="Load").click()

    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("alert")).to_contain_text("Only an admin key may load or unload models")
    expect(model.locator(".state")).to_have_text("not loaded")
    assert_accessible(page, "machine")
    # it is gone when the dialog is opened anew
    page.locator("#machine-close").click()
    page.locator("#machine-button").click()
    expect(page.locator("#machine-error")).to_be_hidden()
    # what the browser itself writes of a refusal
    visit.errors[:] = [error for error in visit.errors if "403 (Forbidden)" not in error]


# everybody


def test_a_phone_has_room_for_it(visitor: VisitorFactory) -> None:
    page = visitor(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True).open()
    expect(generate(page, "on a phone " + "long" * 40, **QUICK).locator("video")).to_be_visible()

    for name in ("Create", "Compare", "API", "History"):
        tab(page, name)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, name
    # one row, all of it in view and large enough for a finger
    for button in [*page.locator("body > header").get_by_role("tab").all(), page.locator("#machine-button")]:
        expect(button).to_be_in_viewport(ratio=1)
        size = button.bounding_box()
        assert size is not None
        assert min(size["width"], size["height"]) >= 44
        assert size["y"] + size["height"] < 60
    # it covers no code, however far that is scrolled
    tab(page, "API")
    copy, code = (page.locator(each).bounding_box() for each in ("#api-copy", "#api-copy + pre"))
    assert copy is not None and code is not None
    assert copy["y"] + copy["height"] <= code["y"]
    page.locator("#machine-button").click()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


@pytest.mark.parametrize(
    ("changes", "said", "state"),
    [
        ([{"busy": True}, {}], "2 devices · 1 working", "busy"),
        ([{}, {"drain": "drained"}, {"health": "unhealthy"}], "3 devices · 0 working · 2 not in use", "ok"),
        ([{"drain": "draining", "busy": True}] * 2, "2 devices · 2 working · 2 not in use", "bad"),
        ([], "0 devices · 0 working", "bad"),
    ],
)
def test_several_devices_are_summed_up(
    visitor: VisitorFactory, server: ServerProcess, changes: list[dict[str, Any]], said: str, state: str
) -> None:
    ready = httpx.get(f"{server.url}/readyz").json()
    devices = [
        {**ready["devices"][0], "busy": False, "loading": None, **each, "device": f"host-{n}/0"}
        for n, each in enumerate(changes)
    ]
    page = visitor().open()
    page.route("**/readyz", lambda route: route.fulfill(json={**ready, "queued": 0, "devices": devices}))

    expect(page.locator("#machine-button")).to_have_text(said)
    expect(page.locator("#machine-button")).to_have_attribute("data-state", state)
    page.locator("#machine-button").click()
    for device in devices:
        expect(page.locator("#machine-facts")).to_contain_text(f"{device['device']}: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(visitor: VisitorFactory, scheme: str) -> None:
    page = visitor(color_scheme=scheme, reduced_motion="reduce").open()
    made = generate(page, "looked at by axe", **QUICK)
    expect(made.locator("video")).to_be_visible()
    # who would rather have nothing move is not shown a video unasked
    assert made.locator("video").evaluate("video => video.paused")
    first = made.get_attribute("data-id")
    other = generate(page, "the other", **QUICK)
    ids = [first, other.get_attribute("data-id")]
    for one in ids:
        staged(page, one).get_by_role("button", name="Compare").click()
    page.get_by_role("spinbutton", name="Height").fill("9999")

    for name in ("Create", "Compare", "API", "History"):
        tab(page, name)
        assert_accessible(page, name)
    page.locator("#machine-button").click()
    expect(page.locator("#machine-models li").first).to_be_visible()
    assert_accessible(page, "machine")


def assert_accessible(page: Page, where: str) -> None:
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert serious == [], (
        f"{where}: {json.dumps([(v['id'], v['help'], v['nodes'][0]['html']) for v in serious], indent=1)}"
    )


def test_it_speaks_chinese(visitor: VisitorFactory) -> None:
    visit = visitor(locale="zh-CN")
    page = visit.open()
    assert page.locator("html").get_attribute("lang") == "zh"
    expect(page.get_by_role("button", name="生成", exact=True)).to_be_visible()
    expect(page.get_by_label("提示词", exact=True)).to_be_visible()
    for english in ("Generate", "Prompt", "History", "undefined"):
        assert page.get_by_text(english, exact=True).count() == 0

    # what kind of error it is, and the server's own sentence
    refusal = {"error": {"type": "queue_full", "message": "The queue is full: 2 generations are waiting."}}
    page.route("**/api/ai/queue", lambda route: route.fulfill(status=429, json=refusal))
    page.get_by_role("button", name="生成", exact=True).click()
    expect(page.locator("#form-error")).to_contain_text("队列已满")
    expect(page.locator("#form-error")).to_contain_text("2 generations are waiting.")
    # what the browser itself writes of a refusal
    visit.errors[:] = [error for error in visit.errors if "429 (Too Many Requests)" not in error]

    page.get_by_role("button", name="English").click()
    page.wait_for_selector("body[data-ready]")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_visible()

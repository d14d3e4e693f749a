"""The page has prompts enhanced: before they are generated, and when they are."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from server.enhance.demo_grammar import NOTICE
from tests.e2e.test_workbench import asked_by, assert_accessible, fill, tab
from tests.support.browser import BrowserPage, chromium
from tests.support.chat_server import MODEL, ChatServer, held, saying, sending
from tests.support.models.serving import TI2V, ti2v_models, ti2v_server
from tests.support.server_process import ServerProcess, eventually
from tests.support.workbench import staged

VisitorFactory = Callable[..., BrowserPage]

QUICK = {"Height": 64, "Width": 64, "Frames": 5, "Steps": 2}
PROMPT = "An ox by a lake"
ENHANCED = f"{PROMPT} in soft morning light, take 1."
WHEN_GENERATING = "Enhance when generating"
LONG = "A sturdy brown ox stands at the edge of a still mountain lake at dawn. " * 8


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def words(endpoint: ChatServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("words") / "data", **endpoint.settings())
    process.start()
    yield process
    process.close()


@pytest.fixture
def visitor(browser: Browser, words: ServerProcess) -> Iterator[VisitorFactory]:
    """Visitors who met no error but those that a test provokes, and no other host."""
    made: list[BrowserPage] = []

    def make(base: str = words.url, **about: Any) -> BrowserPage:
        made.append(BrowserPage(browser, base, **about))
        return made[-1]

    yield make
    for one in made:
        one.context.close()
        # what the browser itself writes of a refusal
        assert [error for error in one.errors if "prompts/enhance" not in error] == []
        assert one.elsewhere == []


@pytest.fixture
def page(visitor: VisitorFactory, chat: ChatServer) -> Page:
    page = visitor().open()
    fill(page, PROMPT, **QUICK)
    return page


def prompt(page: Page) -> Locator:
    return page.get_by_label("Prompt", exact=True)


def button(where: Page | Locator, name: str) -> Locator:
    return where.get_by_role("button", name=name, exact=True)


def enhance(page: Page, text: str) -> None:
    """Press Enhance and wait until the field holds a text."""
    button(page, "Enhance").click()
    expect(prompt(page)).to_have_value(text)


def has_been_asked(chat: ChatServer, times: int) -> bool:
    return len(chat.asked) == times


def say(page: Page, sentence: str) -> None:
    """Wait until a sentence is below the prompt, where a screen reader announces it."""
    expect(page.locator(".enhance [aria-live=polite]")).to_have_text(sentence)


def test_the_prompt_is_enhanced_edited_and_undone(page: Page, chat: ChatServer) -> None:
    chat.answer = held(chat)
    page.get_by_role("spinbutton", name="Seed").fill("5")
    expect(button(page, "Undo")).to_be_hidden()
    button(page, "Enhance").press("Enter")
    expect(button(page, "Enhancing… (cancel)")).to_be_focused()
    eventually(lambda: chat.asked)
    expect(prompt(page)).to_have_value(PROMPT)
    chat.may_go_on.set()

    expect(prompt(page)).to_have_value(ENHANCED)
    expect(page.locator(".enhance [aria-live=polite]")).to_contain_text(f"Enhanced by {MODEL} in ")
    assert (chat.prompts, chat.asked[0]["seed"]) == ([PROMPT], 5)
    prompt(page).press("End")
    prompt(page).press_sequentially(" It snows.")
    # one step back for each time
    enhance(page, f"{ENHANCED} It snows. in soft morning light, take 2.")
    button(page, "Undo").click()
    expect(prompt(page)).to_have_value(f"{ENHANCED} It snows.")
    button(page, "Undo").click()
    expect(prompt(page)).to_have_value(PROMPT)
    expect(prompt(page)).to_be_focused()
    expect(button(page, "Undo")).to_be_hidden()
    say(page, "")


def test_what_was_enhanced_is_generated_as_it_stands(page: Page, words: ServerProcess, chat: ChatServer) -> None:
    chat.answer = saying(LONG.strip())
    page.get_by_label(WHEN_GENERATING).check()
    enhance(page, LONG.strip())
    expect(page.locator(".enhance")).to_contain_text("“Enhance when generating” and “Inspiration” are now off")
    expect(page.get_by_label(WHEN_GENERATING)).not_to_be_checked()
    button(page, "Undo").click()
    expect(page.get_by_label(WHEN_GENERATING)).to_be_checked()
    enhance(page, LONG.strip())

    card = asked_by(page, button(page, "Generate").click)

    expect(button(page, "Undo")).to_be_hidden()
    say(page, "")
    row = words.row(card.get_attribute("data-id") or "")
    assert row["prompt"] == LONG.strip()
    assert "enhance_prompt" not in row
    assert len(chat.asked) == 2
    expect(card.locator(".made-of")).to_be_hidden()


def test_it_can_be_cancelled(page: Page, chat: ChatServer) -> None:
    chat.answer = held(chat)
    # more often than the server asks at once: what is cancelled holds no turn
    for times in (1, 2, 3):
        button(page, "Enhance").click()
        eventually(partial(has_been_asked, chat, times))
        button(page, "Enhancing… (cancel)").click()
        expect(button(page, "Enhance")).to_be_focused()
    expect(prompt(page)).to_have_value(PROMPT)
    chat.reset()

    # an answer to what was cancelled would come first
    chat.answer = saying("An ox at dawn.")
    enhance(page, "An ox at dawn.")
    expect(button(page, "Undo")).to_be_visible()


def test_what_is_typed_meanwhile_stays(page: Page, chat: ChatServer) -> None:
    chat.answer = held(chat)
    button(page, "Enhance").click()
    eventually(lambda: chat.asked)
    prompt(page).fill("A cow")
    chat.may_go_on.set()

    say(page, "You changed the prompt meanwhile, so it stays as it is. This is the enhanced one:")
    expect(page.get_by_role("region", name="Enhanced prompt")).to_have_text(ENHANCED)
    expect(prompt(page)).to_have_value("A cow")
    expect(button(page, "Undo")).to_be_hidden()
    button(page.locator("#form"), "Use enhanced prompt").click()
    expect(prompt(page)).to_have_value(ENHANCED)
    expect(page.get_by_role("region", name="Enhanced prompt")).to_be_hidden()
    button(page, "Undo").click()
    expect(prompt(page)).to_have_value("A cow")


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            sending(b"", 500),
            "The prompt was not enhanced: the language model's endpoint answers with HTTP status 500.",
        ),
        (
            sending(b"", 401),
            "The prompt was not enhanced: the language model's endpoint refuses this server's key (HTTP status 401).",
        ),
        (
            saying("I'm sorry, I can't help with that."),
            "The prompt was not enhanced: the language model's answer is a refusal. The original was used.",
        ),
        (saying(PROMPT), "The language model left the prompt as it is."),
    ],
)
def test_why_a_prompt_is_not_enhanced_is_said(page: Page, chat: ChatServer, answer: Any, sentence: str) -> None:
    chat.answer = answer
    button(page, "Enhance").click()

    say(page, sentence)
    expect(prompt(page)).to_have_value(PROMPT)
    expect(button(page, "Undo")).to_be_hidden()
    expect(button(page, "Enhance")).to_be_enabled()


def test_too_many_and_no_server(visitor: VisitorFactory, chat: ChatServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", **chat.settings(enhance_per_hour="1"))
    server.start()
    try:
        page = visitor(server.url).open()
        fill(page, PROMPT)
        enhance(page, ENHANCED)
        button(page, "Enhance").click()
        say(page, "1 prompts were enhanced within an hour: this is the limit.")
        expect(button(page, "Undo")).to_be_visible()
        page.route("**/prompts/enhance", lambda route: route.abort())
        button(page, "Enhance").click()
        say(page, "The server cannot be reached.")
        page.close()
    finally:
        server.close()


def test_an_empty_prompt_is_not_sent(page: Page, chat: ChatServer) -> None:
    prompt(page).fill(" ")
    button(page, "Enhance").click()

    expect(page.get_by_text("Prompt is required.")).to_be_visible()
    expect(prompt(page)).to_be_focused()
    assert chat.asked == []


@pytest.mark.parametrize("way", ["model", "reset", "card"])
def test_another_prompt_or_model_leaves_nothing_to_undo(page: Page, chat: ChatServer, way: str) -> None:
    card = asked_by(page, button(page, "Generate").click)
    prompt(page).fill("A cow")
    enhance(page, "A cow in soft morning light, take 1.")
    chat.answer = held(chat)
    button(page, "Enhance").click()
    eventually(lambda: len(chat.asked) == 2)

    if way == "model":
        page.get_by_role("combobox", name="Model").select_option("wan-ai-wan2-2-t2v-a14b-diffusers")
    elif way == "reset":
        button(page, "Reset").click()
    else:
        button(card, "Use these settings").click()

    expect(button(page, "Undo")).to_be_hidden()
    # what ran is cancelled
    expect(button(page, "Enhance")).to_be_visible()
    if way == "card":
        expect(prompt(page)).to_have_value(PROMPT)


def test_when_generating(page: Page, words: ServerProcess, chat: ChatServer) -> None:
    chat.answer = held(chat, saying(LONG))
    box = page.get_by_label(WHEN_GENERATING)
    expect(box).not_to_be_checked()
    expect(box).to_have_accessible_description("A language model rewrites the prompt before the video is made.")
    box.check()
    tab(page, "API")
    expect(page.locator("#api-code")).to_contain_text('"enhance_prompt": true')
    page.get_by_label("Python").check(force=True)
    expect(page.locator("#api-code")).to_contain_text('"enhance_prompt": True')
    tab(page, "Create")

    card = asked_by(page, button(page, "Generate").click)
    expect(card.locator(".status")).to_have_text("Waiting for the enhanced prompt")
    expect(card.locator(".made-of")).to_be_hidden()
    chat.may_go_on.set()
    expect(card.locator(".screen video")).to_be_visible()

    summary = card.locator(".made-of summary")
    expect(summary).to_contain_text("Made of: A sturdy brown ox")
    expect(card.locator(".prompt")).to_have_text(PROMPT)
    expect(card.get_by_text(f"written by {MODEL}")).to_be_hidden()
    summary.press("Enter")
    expect(card.locator(".made-of .whole")).to_have_text(LONG.strip())
    expect(card.get_by_text(f"written by {MODEL}")).to_be_visible()
    assert words.row(card.get_attribute("data-id") or "")["enhance_prompt"] is True

    button(page, "Reset").click()
    expect(box).not_to_be_checked()
    button(card, "Use these settings").click()
    expect(prompt(page)).to_have_value(PROMPT)
    expect(box).to_be_checked()
    button(card, "Use enhanced prompt").click()
    expect(prompt(page)).to_have_value(LONG.strip())
    expect(box).not_to_be_checked()
    expect(page.get_by_role("spinbutton", name="Frames")).to_have_value("5")


def test_the_box_is_kept_with_the_draft(page: Page) -> None:
    page.get_by_label(WHEN_GENERATING).check()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.locator("#form details summary").click()

    expect(page.get_by_label(WHEN_GENERATING)).to_be_checked()
    page.get_by_role("combobox", name="Model").select_option("wan-ai-wan2-2-t2v-a14b-diffusers")
    expect(page.get_by_label(WHEN_GENERATING)).to_be_checked()


def test_where_a_models_file_asks_for_it_the_box_is_on(
    visitor: VisitorFactory, chat: ChatServer, tmp_path: Path
) -> None:
    models = ti2v_models(tmp_path)
    file = models / "wan2.2-ti2v-5b.toml"
    file.write_text(file.read_text().replace("[api]\n", "[api]\nenhance_prompt = true\n", 1))
    server = ti2v_server(tmp_path / "data", models, **chat.settings())
    server.start()
    try:
        page = visitor(server.url).open(f"/?model={TI2V}")
        fill(page, PROMPT, **QUICK)
        box = page.get_by_label(WHEN_GENERATING)
        expect(box).to_be_checked()
        card = asked_by(page, button(page, "Generate").click)
        expect(card.locator(".made-of summary")).to_contain_text(ENHANCED)
        first = card.get_attribute("data-id")
        assert "enhance_prompt" not in server.row(first or "")

        box.uncheck()
        card = asked_by(page, button(page, "Generate").click)
        assert server.row(card.get_attribute("data-id") or "")["enhance_prompt"] is False
        expect(card.locator(".screen video")).to_be_visible()
        expect(card.locator(".made-of")).to_be_hidden()
        button(page, "Reset").click()
        expect(box).to_be_checked()
        box.uncheck()
        # its request said nothing, but meant it
        button(staged(page, first), "Use these settings").click()
        expect(box).to_be_checked()
        page.close()
    finally:
        server.close()


def test_a_server_without_a_language_model_offers_nothing(visitor: VisitorFactory, tmp_path: Path) -> None:
    server = ti2v_server(tmp_path / "data", ti2v_models(tmp_path))
    server.start()
    try:
        page = visitor(server.url).open()
        page.locator("#form details summary").click()

        expect(button(page, "Enhance")).to_be_hidden()
        expect(page.get_by_label(WHEN_GENERATING)).to_be_hidden()
        # its event stream ends first
        page.goto("about:blank")
    finally:
        server.close()


def test_the_demo_says_that_no_language_model_wrote_it(visitor: VisitorFactory, server: ServerProcess) -> None:
    page = visitor(server.url).open()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    button(page, "Enhance").click()

    expect(page.locator(".enhance")).to_contain_text(NOTICE)
    assert page.get_by_label("Prompt", exact=True).input_value().startswith(f"{PROMPT}, ")
    button(page, "Undo").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)


def test_the_comparison_has_the_words(page: Page, chat: ChatServer) -> None:
    page.get_by_label(WHEN_GENERATING).check()
    for seed in (41, 42):
        page.get_by_role("spinbutton", name="Seed").fill(str(seed))
        card = asked_by(page, button(page, "Generate").click)
        expect(card.locator(".screen video")).to_be_visible()
        button(card, "Compare").click()

    tab(page, "Compare")
    row = page.locator("#compare-table tr.differs", has_text="Enhanced prompt")
    expect(row.locator("td").first).to_have_text(ENHANCED)


def test_it_speaks_chinese(visitor: VisitorFactory, chat: ChatServer) -> None:
    page = visitor(locale="zh-CN").open()
    field = page.get_by_label("提示词", exact=True)
    field.fill("湖边的牛")
    chat.answer = held(chat)
    button(page, "润色").click()
    expect(button(page, "正在润色…（取消）")).to_be_visible()
    chat.may_go_on.set()
    expect(field).to_have_value("湖边的牛，清晨的薄雾 1.")
    expect(page.get_by_text(f"已由 {MODEL} 润色")).to_be_visible()
    button(page, "撤销").click()
    expect(field).to_have_value("湖边的牛")
    page.locator("#form details summary").click()
    expect(page.get_by_label("生成时润色")).to_be_visible()
    assert page.get_by_text("undefined").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_state_is_accessible_and_has_room_on_a_phone(
    visitor: VisitorFactory, chat: ChatServer, scheme: str
) -> None:
    about = {"color_scheme": scheme, "reduced_motion": "reduce", "viewport": {"width": 390, "height": 844}}
    page = visitor(**about).open()
    fill(page, f"{PROMPT}, {scheme}", **QUICK)

    def look(where: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 390, where
        assert_accessible(page, where)

    chat.answer = held(chat, saying(LONG + "x" * 120))
    button(page, "Enhance").click()
    eventually(lambda: chat.asked)
    look("running")
    prompt(page).fill("A cow")
    chat.may_go_on.set()
    expect(button(page, "Use enhanced prompt")).to_be_visible()
    look("offered")
    button(page, "Use enhanced prompt").click()
    look("enhanced")
    chat.answer = sending(b"", 500)
    button(page, "Enhance").click()
    expect(page.locator(".enhance .error")).to_be_visible()
    look("down")
    chat.answer = saying(LONG + "x" * 120)
    page.get_by_label(WHEN_GENERATING).check()
    prompt(page).fill("A horse")
    card = asked_by(page, button(page, "Generate").click)
    card.locator(".made-of summary").click()
    look("card")


def test_the_route_is_asked_for_what_the_form_holds(page: Page) -> None:
    with page.expect_request("**/prompts/enhance") as asked:
        button(page, "Enhance").click()
    model = page.get_by_role("combobox", name="Model").input_value()

    assert json.loads(asked.value.post_data or "") == {"prompt": PROMPT, "model": model}


def test_inspiration_is_shown_used_again_and_taken_over(page: Page, words: ServerProcess) -> None:
    page.get_by_label("Inspiration").check()
    card = asked_by(page, page.get_by_role("button", name="Generate", exact=True).click)
    row = words.wait_for(card.get_attribute("data-id") or "", "succeeded")

    assert row["inspiration"] is True
    expect(card.locator(".facts")).to_contain_text(f"style {row['inspiration_style']}")
    expect(card.locator(".made-of .start")).to_contain_text(row["enhanced_prompt"][:40])

    page.get_by_label("Inspiration").uncheck()
    card.get_by_role("button", name="Use these settings").click()
    expect(page.get_by_label("Inspiration")).to_be_checked()
    expect(page.get_by_label(WHEN_GENERATING)).not_to_be_checked()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(PROMPT)
    card.locator(".made-of summary").click()
    card.get_by_role("button", name="Use enhanced prompt").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value(row["enhanced_prompt"])
    expect(page.get_by_label("Inspiration")).not_to_be_checked()

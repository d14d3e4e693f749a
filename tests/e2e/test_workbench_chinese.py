"""The page in Chinese: every view of it is accessible, in both themes, and none shows a text of the other language."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_workbench import assert_accessible
from tests.support.browser import BrowserPage, chromium, visitors
from tests.support.server_process import MODEL, ServerProcess
from tests.support.workbench import staged, tile

MODES = 4
# names of programs and methods stay as they are, as those of models do
LATIN = re.compile(r"[A-Za-z]{4,}(?: [A-Za-z]+)*")


@pytest.fixture(scope="module")
def visitor(server: ServerProcess) -> Iterator[Callable[..., BrowserPage]]:
    with chromium() as browser, visitors(browser, server.url) as make:
        yield make


@pytest.fixture(scope="module")
def ids(server: ServerProcess) -> list[str]:
    """Two videos, and what was refused."""
    made = [server.enqueue(prompt=prompt) for prompt in ("湖边的公牛", "一个红色的圆形")]
    for each in made:
        server.wait_for(each, "succeeded")
    refused = server.enqueue(prompt="太高", height=9999)
    server.wait_for(refused, "failed")
    return [*made, refused]


def tab(page: Page, name: str) -> None:
    page.locator(f"#tab-{name}").click()
    expect(page.locator(f"#panel-{name}")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation_in_chinese(visitor: Any, ids: list[str], scheme: str) -> None:
    first, second, refused = ids
    page = visitor(locale="zh-CN", color_scheme=scheme, reduced_motion="reduce").open(f"/?model={MODEL}")
    page.locator("#form details summary").click()
    page.locator("#sweep-toggle").click()
    for name in ("image", "video", "audio"):
        page.locator(f"#{name}-add").click()
    page.locator("#field-height").fill("9999")
    page.locator("#sweep-rows-values").fill("x")
    assert_accessible(page, "form")
    page.locator("#presets-open").click()
    assert_accessible(page, "presets")
    page.keyboard.press("Escape")

    for one in (refused, first):
        staged(page, one)
        assert_accessible(page, f"stage {one}")
        page.locator("#stage [data-action=details]").click()
        expect(page.locator("#detail")).to_be_visible()
        assert_accessible(page, f"detail {one}")
        page.keyboard.press("Escape")
    for one in (first, second):
        tile(page, one).locator(".tick").click()
    expect(page.locator("#selection")).to_be_visible()
    assert_accessible(page, "selection")

    tab(page, "compare")
    assert_accessible(page, "empty comparison")
    page.goto(page.url.partition("#")[0] + f"#compare={first},{second}")
    page.reload()
    expect(page.locator("#compare-videos video")).to_have_count(2)
    for mode in range(MODES):
        page.locator("#compare-modes label").nth(mode).click()
        assert_accessible(page, f"comparison {mode}")
    for name in ("api", "history"):
        tab(page, name)
        assert_accessible(page, name)
    page.locator("#machine-button").click()
    expect(page.locator("#machine-models li").first).to_be_visible()
    assert_accessible(page, "machine")


def test_no_view_speaks_english(visitor: Any, start_server: Callable[..., ServerProcess]) -> None:
    # the shared one has prompts in English
    server = start_server()
    id_ = server.enqueue(prompt="湖边的公牛")
    server.wait_for(id_, "succeeded")
    page = visitor(server.url, locale="zh-CN").open(f"/?model={MODEL}")
    page.locator("#form details summary").click()
    staged(page, id_)
    said = page.locator("#form .settings, #gallery, #stage").all_inner_texts()
    for name in ("compare", "history"):
        tab(page, name)
        said += page.locator(f"#panel-{name}").all_inner_texts()
    page.locator("#machine-button").click()
    expect(page.locator("#machine-models li").first).to_be_visible()

    words = "\n".join(said)
    for model in server.http.get("/models").json()["data"]:
        words = words.replace(model["display_name"], "")
    english = set(LATIN.findall(words))
    assert english <= {"Euler", "UniPC", "diffusers"}, english
    # before its server ends
    page.context.close()

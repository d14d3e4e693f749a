"""The stage, the gallery beside it and the detail view: what runs or was picked, large, and everything about it."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.test_workbench import QUICK, assert_accessible, fill, generate
from tests.support.browser import BrowserPage, visiting, visitors
from tests.support.server_process import ServerProcess
from tests.support.workbench import staged, tile

FRAMES = {**QUICK, "Frames": 9}


@pytest.fixture(scope="module")
def visitor(server: ServerProcess) -> Iterator[BrowserPage]:
    with visiting(server.url) as visitor:
        yield visitor


@pytest.fixture
def page(visitor: BrowserPage) -> Iterator[Page]:
    page = visitor.open()
    yield page
    page.close()


def made(page: Page, prompt: str, **settings: float) -> str:
    """Generate a video and wait for it; returns its id."""
    stage = generate(page, prompt, **{**QUICK, **settings})
    expect(stage.locator(".screen video")).to_be_visible()
    return stage.get_attribute("data-id") or ""


def ready(video: Locator) -> None:
    video.evaluate("(video) => video.readyState > 1 || new Promise((done) => video.addEventListener('canplay', done))")


def test_a_video_is_stepped_by_frames_and_kept_at_a_speed(page: Page) -> None:
    made(page, "stepped", **FRAMES)
    player = page.locator("#stage .player")
    video = player.locator("video")
    ready(video)
    video.evaluate("(video) => { video.pause(); video.currentTime = 0; }")

    for _ in range(3):
        player.get_by_role("button", name="One frame forward").click()
    # the middle of the fourth frame
    assert video.evaluate("(video) => video.currentTime") == pytest.approx(3.5 / 16, abs=1e-3)
    expect(player.locator(".time")).to_have_text(re.compile(r"· 4 / 9$"))
    player.get_by_role("button", name="One frame back").click()
    assert video.evaluate("(video) => video.currentTime") == pytest.approx(2.5 / 16, abs=1e-3)
    for _ in range(20):
        player.get_by_role("button", name="One frame forward").click()
    # not from the beginning again
    assert video.evaluate("(video) => video.currentTime") >= 8.5 / 16 - 1e-3
    expect(player.locator(".time")).to_have_text(re.compile(r"· 9 / 9$"))
    player.get_by_role("button", name="One frame back").click()
    expect(player.locator(".time")).to_have_text(re.compile(r"· 8 / 9$"))

    player.get_by_label("Playback rate").select_option("0.5")
    assert video.evaluate("(video) => video.playbackRate") == 0.5
    loop = player.get_by_role("button", name="Loop")
    expect(loop).to_have_attribute("aria-pressed", "true")
    loop.click()
    assert video.evaluate("(video) => video.loop") is False
    # as it was left, on the next one, too
    page.reload()
    expect(loop).to_have_attribute("aria-pressed", "false")
    loop.click()


def test_keys_play_and_step_but_not_while_somebody_types(page: Page) -> None:
    made(page, "by keys", **FRAMES)
    video = page.locator("#stage .screen video")
    ready(video)
    video.evaluate("(video) => { video.pause(); video.currentTime = 0; }")
    page.locator("body").evaluate("() => document.activeElement.blur()")

    page.keyboard.press(".")
    assert video.evaluate("(video) => video.currentTime") == pytest.approx(1.5 / 16, abs=1e-3)
    page.keyboard.press(" ")
    page.wait_for_function("(video) => !video.paused", arg=video.element_handle())
    page.keyboard.press(" ")
    page.wait_for_function("(video) => video.paused", arg=video.element_handle())
    before = video.evaluate("(video) => video.currentTime")
    page.get_by_label("Prompt", exact=True).press_sequentially("a. b")
    assert video.evaluate("(video) => [video.paused, video.currentTime]") == [True, before]


def test_the_gallery_has_the_queue_in_its_order_and_the_newest(page: Page, server: ServerProcess) -> None:
    first = made(page, "in the gallery")
    running = generate(page, "runs", **{**QUICK, "Steps": 100}).get_attribute("data-id")
    waiting = [generate(page, f"waits {n}", **QUICK).get_attribute("data-id") for n in range(2)]

    queue = page.locator("#queue-list .tile")
    expect(queue).to_have_count(3)
    assert queue.evaluate_all("(all) => all.map((each) => each.dataset.id)") == [running, *waiting]
    expect(tile(page, waiting[0]).locator(".badge")).to_have_text("No. 1")
    expect(page).to_have_title(re.compile(r"\d+ % · Paddock"))
    # the last one that was asked for is on the stage
    expect(page.locator("#stage")).to_have_attribute("data-id", str(waiting[1]))
    tile(page, running).hover()
    tile(page, running).get_by_role("button", name="Cancel").click()
    for id_ in (running, *waiting):
        expect(page.locator(f"#results .tile[data-id='{id_}']")).to_be_visible()
    expect(page.locator("#queue")).to_be_hidden()
    expect(page).to_have_title("Paddock Workbench")
    assert server.row(str(running))["status"] == "cancelled"
    staged(page, first)


def test_a_tile_plays_on_hover_and_has_a_menu(page: Page, server: ServerProcess) -> None:
    id_ = made(page, "pointed at")
    one = tile(page, id_)
    one.hover()
    page.wait_for_function(
        "(tile) => tile.querySelector('.picture video[loop]')?.currentTime > 0",
        arg=one.element_handle(),
    )
    one.get_by_role("button", name="Favourite").click()
    expect(one).to_have_class(re.compile("favourite"))
    assert server.row(id_)["favourite"] is True

    one.get_by_role("button", name="More actions").click()
    menu = page.get_by_role("menu")
    expect(menu.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(menu.get_by_role("menuitem").nth(1)).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(one.get_by_role("button", name="More actions")).to_be_focused()
    one.get_by_role("button", name="More actions").click()
    menu.get_by_role("menuitem", name="Delete").click()
    menu.get_by_role("menuitem", name="Really delete?").click()
    expect(one).to_have_count(0)


def test_a_failure_offers_the_way_out(page: Page, server: ServerProcess) -> None:
    said = "The device ran out of memory, even with the plan that needs least. 640x368 with 49 frames should fit."
    id_ = server.enqueue(prompt="too large", height=9999)
    page.route(
        "**/api/ai/**",
        lambda route: (
            route.fulfill(
                body=route.fetch().text().replace("height must be an integer between 1 and 720", said),
                content_type="application/json",
            )
            if "/events" not in route.request.url
            else route.continue_()
        ),
    )
    page.reload()
    stage = staged(page, id_)
    expect(stage.locator(".error")).to_have_text(said)
    stage.get_by_role("button", name="Use 640 × 368, 49 frames").click()

    page.locator("#form details").first.evaluate("(details) => { details.open = true; }")
    for name, value in {"width": "640", "height": "368", "num_frames": "49"}.items():
        expect(page.locator(f"#field-{name}")).to_have_value(value)
    page.unroute("**/api/ai/**")


def test_what_was_refused_says_so_where_its_video_would_be(page: Page, server: ServerProcess) -> None:
    id_ = server.enqueue(prompt="too high", height=9999)
    page.reload()
    stage = staged(page, id_)
    reason = stage.locator(".screen .reason")
    expect(reason).to_contain_text("height must be an integer between 1 and 720")
    # with another seed it would fail again
    expect(stage.get_by_role("button", name="Repeat with a new seed")).to_have_count(0)
    assert_accessible(page, "a failure on the stage")

    stage.get_by_role("button", name="Details").click()
    detail = page.get_by_role("dialog")
    expect(detail.locator(".screen .reason")).to_contain_text("height must be an integer between 1 and 720")
    detail.get_by_role("button", name="Change the settings").click()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("too high")


SHARING = """
    window.shared = [];
    window.answers = [];
    navigator.canShare = ({ files }) => files[0].type === "video/mp4";
    navigator.share = async ({ files }) => {
        const name = window.answers.shift();
        if (name) throw new DOMException("", name);
        window.shared.push([files[0].name, files[0].type, files[0].size]);
    };
"""


def test_a_phone_shares_the_video_as_a_file(visitor: BrowserPage, server: ServerProcess) -> None:
    id_ = server.enqueue(prompt="to be shared")
    size = len(server.video(id_))
    browser = visitor.context.browser
    assert browser is not None
    with visitors(browser, server.url) as make:
        phone = make(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
        phone.context.add_init_script(SHARING)
        page = phone.open()
        share = staged(page, id_).get_by_role("button", name="Share")

        share.click()
        page.wait_for_function("() => window.shared.length === 1")
        assert page.evaluate("window.shared") == [[f"paddock-{id_[:8]}.mp4", "video/mp4", size]]
        # who closes the sheet is told nothing
        page.evaluate("window.answers = ['AbortError', 'NotAllowedError']")
        share.click()
        page.wait_for_function("() => window.answers.length === 1")
        expect(page.locator("#banners")).not_to_contain_text("shar")
        share.click()
        expect(page.locator("#banners")).to_contain_text("press Share again")
        share.click()
        page.wait_for_function("() => window.shared.length === 2")
        expect(page.locator("#banners")).not_to_contain_text("press Share again")


def test_a_browser_without_a_share_sheet_offers_none(page: Page) -> None:
    made(page, "not shared")
    expect(page.locator("#stage").get_by_role("link", name="Download")).to_be_visible()
    expect(page.locator("#stage").get_by_role("button", name="Share")).to_have_count(0)


def test_the_detail_view_has_everything_and_an_address(page: Page, server: ServerProcess, visitor: BrowserPage) -> None:
    long = "A prompt that is long " * 30
    older, newer = made(page, "the older", Seed=3), made(page, long, Seed=4)
    page.locator("#stage").get_by_role("button", name="Details").click()
    detail = page.get_by_role("dialog")
    expect(detail.locator("[data-field=prompt]")).to_have_text(long.strip())
    facts = detail.locator("dl")
    expect(facts).to_contain_text("Wan2.1 14B - Text to Video")
    expect(facts).to_contain_text("64 × 64")
    expect(facts).to_contain_text(newer)
    assert page.url.endswith(f"#generation/{newer}")
    assert_accessible(page, "detail")

    page.keyboard.press("ArrowRight")
    expect(detail.locator("[data-field=prompt]")).to_have_text("the older")
    assert page.url.endswith(f"#generation/{older}")
    page.keyboard.press("ArrowLeft")
    expect(detail.locator("[data-field=prompt]")).to_have_text(long.strip())
    detail.get_by_label("Add a tag").fill("lake")
    detail.get_by_label("Add a tag").press("Enter")
    expect(detail.locator(".tags li")).to_have_text(["lake"])
    assert server.row(newer)["tags"] == ["lake"]
    detail.get_by_role("button", name="Remove the tag lake").click()
    expect(detail.locator(".tags li")).to_have_count(0)
    detail.get_by_text("API call").click()
    expect(detail.locator("code")).to_contain_text('"seed": 4')
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    expect(page).to_have_url(re.compile("#create$"))

    # somebody opens the link
    other = visitor.open(f"/#generation/{older}")
    expect(other.get_by_role("dialog").locator("[data-field=prompt]")).to_have_text("the older")
    other.close()


def test_an_address_of_nothing_is_told(visitor: BrowserPage) -> None:
    page = visitor.open("/#generation/00000000-0000-4000-8000-000000000000")
    expect(page.get_by_text("This generation does not exist any more.")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    visitor.errors[:] = [error for error in visitor.errors if "404 (Not Found)" not in error]
    page.close()


def test_many_are_selected_and_compared_tagged_and_deleted(page: Page, server: ServerProcess) -> None:
    ids = [made(page, f"selected {n}") for n in range(3)]
    for id_ in ids[:2]:
        tile(page, id_).hover()
        tile(page, id_).get_by_role("checkbox", name="Select").check()
    bar = page.get_by_role("region", name="Selection")
    expect(bar).to_contain_text("2 selected")
    with page.expect_download() as download:
        bar.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename.endswith(".zip")
    bar.get_by_label("Add a tag").fill("both")
    bar.get_by_label("Add a tag").press("Enter")
    for id_ in ids[:2]:
        page.wait_for_function(
            "(id) => fetch(`api/ai/queue/${id}`).then((a) => a.json()).then((row) => row.tags.includes('both'))",
            arg=id_,
        )
    bar.get_by_role("button", name="Compare").click()
    expect(page.locator("#compare-videos video")).to_have_count(2)
    page.get_by_role("tab", name="Create").click()

    tile(page, ids[0]).hover()
    tile(page, ids[0]).get_by_role("checkbox", name="Select").check()
    tile(page, ids[2]).hover()
    # from the one to the other
    tile(page, ids[2]).get_by_role("checkbox", name="Select").click(modifiers=["Shift"])
    expect(bar).to_contain_text("3 selected")
    bar.get_by_role("button", name="Delete").click()
    bar.get_by_role("button", name="Really delete?").click()
    for id_ in ids:
        expect(tile(page, id_)).to_have_count(0)
        assert server.http.get(f"/queue/{id_}").status_code == 404
    expect(bar).to_be_hidden()


def test_the_form_keeps_what_is_typed_while_the_stage_changes(page: Page) -> None:
    first = made(page, "the first one")
    fill(page, "half a sentence")
    made_again = page.locator(f"#stage[data-id='{first}']")
    expect(made_again).to_be_visible()
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("half a sentence")

"""The Compare tab in a real browser: videos in step and frame by frame, on each other, and what differs in them."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect

from pipelines.stages.writing.video_writer import Mp4Writer
from tests.e2e.test_workbench import assert_accessible, tab
from tests.support.browser import BrowserPage, chromium, visitors
from tests.support.server_process import ServerProcess
from tests.support.sound import tone
from tests.support.workbench import staged

VisitorFactory = Callable[..., BrowserPage]

RED, BLUE, REDDER = (200, 30), (30, 200), (206, 30)
FRAMES = 33
STEP = 6
FPS = 16
MODES = ("Side by side", "Wipe", "Overlay", "Difference")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}

SHOWN = """(video) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  return [...context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data];
}"""
CANVAS = """() => {
  const canvas = document.getElementById("compare-canvas");
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  return [...context.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data];
}"""
STILL = """() => {
  const all = [...document.querySelectorAll("#compare-videos video")];
  return all.length > 1 && all.every((video) => video.readyState > 1 && !video.seeking && video.paused);
}"""


def write_flat(path: Path, red_and_blue: tuple[int, int], frames: int, size: tuple[int, int], step: int) -> None:
    """Write a video of one colour, whose green grows by `step` from frame to frame."""
    width, height = size
    red, blue = red_and_blue
    video = np.empty((frames, height, width, 3), np.uint8)
    video[...] = (red, 0, blue)
    video[..., 1] = (20 + step * np.arange(frames))[:, None, None]
    with Mp4Writer(path, width, height, FPS) as writer:
        writer.write(video)
        writer.close()


def number_of(pixel: list[int]) -> int:
    """The number of the frame with this pixel."""
    return round((pixel[1] - 20) / STEP)


class Videos:
    """Generations of a server whose files the tests chose."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def make(
        self,
        colours: tuple[int, int] = RED,
        frames: int = FRAMES,
        size: tuple[int, int] = (96, 64),
        step: int = STEP,
        **changes: object,
    ) -> str:
        """Make a generation, and put a video of one colour in the place of its own."""
        id_ = self.server.enqueue(**{"num_inference_steps": 1, "seed": 3, **changes})
        self.server.wait_for(id_, "succeeded")
        [path] = (self.server.data_dir / "videos").glob(f"{id_}.*.mp4")
        write_flat(self.folder / "flat.mp4", colours, frames, size, step)
        (self.folder / "flat.mp4").replace(path)
        return id_


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose videos may be replaced."""
    process = ServerProcess(tmp_path_factory.mktemp("compared") / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture(scope="module")
def videos(own_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Videos:
    return Videos(own_server, tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="module")
def ids(videos: Videos) -> list[str]:
    """A red video, a blue one, the red one again, and one that is a little redder."""
    colours = (RED, BLUE, RED, REDDER)
    prompts = ("compared", "compared", "compared", "redder " + "and redder " * 80)
    return [
        videos.make(colour, guidance_scale=guidance, prompt=prompt)
        for colour, guidance, prompt in zip(colours, (1, 5, 7, 9), prompts, strict=True)
    ]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visitor(browser: Browser, own_server: ServerProcess) -> Iterator[VisitorFactory]:
    """Visitors; none may have met an error or another host."""
    with visitors(browser, own_server.url) as make:
        yield make


def still(page: Page) -> None:
    """Wait until every video shows the frame it was told to."""
    page.wait_for_function(STILL)


def compared(visitor: BrowserPage, ids: list[str], mode: str = "Side by side") -> Page:
    """A page that compares these videos."""
    page = visitor.open(f"/#compare={','.join(ids)}")
    expect(page.locator("#compare-videos figure")).to_have_count(len(ids))
    still(page)
    choose(page, mode)
    return page


def choose(page: Page, mode: str) -> None:
    page.locator("#compare-modes").get_by_text(mode, exact=True).click()
    expect(page.get_by_role("radio", name=mode, exact=True)).to_be_checked()


def numbers(page: Page) -> list[int]:
    """The numbers of the frames that are shown."""
    still(page)
    return [number_of(video.evaluate(SHOWN)) for video in page.locator("#compare-videos .frame video").all()]


def seen(element: Locator) -> npt.NDArray[np.uint8]:
    """What a person sees of it, (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def colours_at(page: Page, *places: float) -> list[str]:
    """Which video is seen at these parts of the stage's width."""
    picture = seen(page.locator("#compare-glass"))
    pixels = [picture[picture.shape[0] // 4, int(place * picture.shape[1])] for place in places]
    return ["red" if red > blue else "blue" for red, _, blue in pixels]


# in step


def test_videos_are_compared_in_step(visitor: VisitorFactory, ids: list[str]) -> None:
    page = visitor().open()
    for id_ in ids[:3]:
        staged(page, id_).get_by_role("button", name="Compare").click()

    tab(page, "Compare")
    shown = page.locator("#compare-videos video")
    expect(shown).to_have_count(3)
    still(page)
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('#compare-videos video').currentTime > 0.5")
    for _ in range(5):
        times = shown.evaluate_all("all => all.map(video => video.currentTime)")
        assert max(times) - min(times) < 1 / FPS, times
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Pause").click()
    assert len(set(numbers(page))) == 1

    page.get_by_label("Position").fill("16")
    assert numbers(page) == [16, 16, 16]
    expect(page.locator("#compare-frame")).to_have_text("Frame 17 / 33")
    expect(page.locator("#compare-time")).to_have_text("1.00 / 2.06 s")

    differing = page.locator("#compare-table tr.differs")
    expect(differing).to_have_count(1)
    assert differing.locator("th, td").all_inner_texts() == ["Guidance", "1", "5", "7"]
    assert page.locator("#compare-table tr").nth(1).get_attribute("class") == "differs"
    page.get_by_label("Show only differences").check()
    expect(page.locator("#compare-table tr")).to_have_count(2)


def test_each_step_is_one_frame(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids[:2])
    assert numbers(page) == [0, 0]
    forward, back = (page.get_by_role("button", name=name) for name in ("Next frame", "Previous frame"))
    for number in range(1, FRAMES):
        forward.click()
        assert numbers(page) == [number, number]
    forward.click()
    assert numbers(page) == [FRAMES - 1, FRAMES - 1]
    back.click()
    assert numbers(page) == [FRAMES - 2, FRAMES - 2]


def test_keys_play_and_step_unless_what_has_the_focus_needs_them(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids[:2])
    expect(page.locator(".keys")).to_be_visible()
    page.locator("#main").focus()
    for key, number in ((".", 1), ("ArrowRight", 2), (".", 3), (",", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        assert numbers(page) == [number, number], key
    top = page.evaluate("scrollY")
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert page.evaluate("scrollY") == top

    # a button is pressed by Space, once
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    page.keyboard.press(" ")
    still(page)
    page.get_by_label("Position").fill("5")
    # the speed's own list takes the arrows and the letters
    page.get_by_label("Speed").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(".")
    assert numbers(page) == [5, 5]
    # and in the tab of the form nothing is played
    tab(page, "Create")
    page.get_by_label("Prompt", exact=True).fill("a")
    page.keyboard.press("Space")
    page.locator("#main").focus()
    page.keyboard.press(".")
    tab(page, "Compare")
    assert numbers(page) == [5, 5]


def test_it_loops_or_ends_at_the_last_frame_at_any_speed(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids[:2])
    page.get_by_label("Speed").select_option("2")
    page.get_by_role("button", name="Loop").click()
    expect(page.get_by_role("button", name="Loop")).to_have_attribute("aria-pressed", "false")
    page.get_by_label("Position").fill("20")
    page.get_by_role("button", name="Play").click()
    rates = page.locator("#compare-videos video").evaluate_all("all => all.map(video => video.playbackRate)")
    assert rates == pytest.approx([2, 2], rel=0.16)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    assert numbers(page) == [FRAMES - 1, FRAMES - 1]

    page.get_by_role("button", name="Loop").click()
    page.get_by_label("Position").fill("30")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => Number(document.getElementById('compare-position').value) < 20")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_a_video_that_is_read_slowly_is_waited_for(visitor: VisitorFactory, videos: Videos, ids: list[str]) -> None:
    page = compared(visitor(), ids[:2])
    held: list[Route] = []

    link = videos.server.row(ids[1])["result_url"]
    is_held = True

    def hold(route: Route) -> None:
        if is_held:
            held.append(route)
        else:
            route.continue_(url=link)

    page.route("**/api/files/slow.mp4", hold)
    first, slow = page.locator("#compare-videos .frame video").all()
    slow.evaluate("video => { video.src = 'api/files/slow.mp4'; }")
    page.get_by_role("button", name="Play").click()
    page.wait_for_timeout(1500)
    assert first.evaluate("video => video.paused && video.currentTime < 1")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()

    is_held = False
    held[0].continue_(url=link)
    page.wait_for_function("() => [...document.querySelectorAll('#compare-videos video')].every(one => !one.paused)")
    times = page.locator("#compare-videos .frame video").evaluate_all("all => all.map(video => video.currentTime)")
    assert abs(times[0] - times[1]) < 1 / FPS, times


def test_a_video_that_cannot_be_read_is_told_and_the_other_plays(visitor: VisitorFactory, ids: list[str]) -> None:
    one = visitor()
    page = one.context.new_page()
    page.goto(f"{one.base}/#compare={ids[0]},{ids[1]}")
    expect(page.locator("#compare-videos figure")).to_have_count(2)
    still(page)
    # a link that has expired is replaced, once
    second = page.locator("#compare-videos .frame video").nth(1)
    second.evaluate("video => { video.src = 'api/files/expired.mp4'; }")
    still(page)
    assert number_of(second.evaluate(SHOWN)) == 0
    second.evaluate("video => { video.src = 'api/files/expired.mp4'; }")
    expect(page.locator("#compare-notes")).to_contain_text("The video of B cannot be read.")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => Number(document.getElementById('compare-position').value) > 5")
    assert [error for error in one.errors if "404" not in error] == []
    one.errors.clear()


def test_the_transport_stays_in_view(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(viewport={"width": 1024, "height": 500}), ids)
    for place in (0, 300, 10_000):
        page.evaluate("place => window.scrollTo(0, place)", place)
        box = page.locator(".transport").bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 500


def test_one_is_heard_at_most(visitor: VisitorFactory, own_server: ServerProcess, ids: list[str]) -> None:
    sound = "data:audio/wav;base64," + base64.b64encode(tone(1.0, hertz=880)).decode()
    sounding = [own_server.enqueue(input_audio=sound, num_frames=33, seed=seed) for seed in (1, 2)]
    for id_ in sounding:
        own_server.wait_for(id_, "succeeded")
    page = compared(visitor(), [*sounding, ids[0]])

    def heard() -> list[bool]:
        return list(page.locator("#compare-videos .frame video").evaluate_all("all => all.map(one => !one.muted)"))

    assert heard() == [False, False, False]
    expect(page.get_by_role("button", name="Sound of C")).to_be_hidden()
    page.get_by_role("button", name="Sound of A").click()
    assert heard() == [True, False, False]
    page.get_by_role("button", name="Sound of B").click()
    assert heard() == [False, True, False]
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => Number(document.getElementById('compare-position').value) > 3")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Sound of B").click()
    assert heard() == [False, False, False]


# on each other


def test_the_divider_is_moved_by_keys_and_by_pointer(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids[:2], "Wipe")
    divider = page.get_by_role("slider", name="Divider")
    expect(divider).to_have_attribute("aria-valuenow", "50")
    assert colours_at(page, 0.25, 0.45, 0.55, 0.75) == ["red", "red", "blue", "blue"]

    divider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuenow", "60")
    assert colours_at(page, 0.25, 0.55, 0.65, 0.75) == ["red", "red", "blue", "blue"]
    page.keyboard.press("Home")
    expect(divider).to_have_attribute("aria-valuenow", "0")
    assert colours_at(page, 0.1, 0.9) == ["blue", "blue"]
    page.keyboard.press("End")
    page.keyboard.press("Shift+ArrowLeft")
    expect(divider).to_have_attribute("aria-valuenow", "90")
    # the arrows were the divider's
    assert numbers(page) == [0, 0]

    box = page.locator("#compare-glass").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", "25")
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"])
    assert colours_at(page, 0.1, 0.2, 0.3, 0.8) == ["red", "red", "blue", "blue"]

    page.get_by_role("button", name="Swap the two videos").click()
    assert colours_at(page, 0.1, 0.2, 0.3, 0.8) == ["blue", "blue", "red", "red"]


def test_a_finger_moves_the_divider(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(**PHONE), ids[:2], "Wipe")
    box = page.locator("#compare-glass").bounding_box()
    assert box is not None
    page.touchscreen.tap(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2)
    expect(page.get_by_role("slider", name="Divider")).to_have_attribute("aria-valuenow", "70")
    assert colours_at(page, 0.3, 0.65, 0.8) == ["red", "red", "blue"]


def test_two_of_four_are_picked(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids, "Wipe")
    assert page.get_by_label("First video").locator("option").all_inner_texts() == ["A", "B", "C", "D"]
    page.get_by_label("First video").select_option("B")
    page.get_by_label("Second video").select_option("C")
    assert colours_at(page, 0.25, 0.75) == ["blue", "red"]
    expect(page.locator("figcaption:visible .letter")).to_have_text(["B", "C"])
    # who picks the other one swaps them
    page.get_by_label("Second video").select_option("B")
    expect(page.get_by_label("First video")).to_have_value(ids[2])
    assert colours_at(page, 0.25, 0.75) == ["red", "blue"]


def test_the_overlay_is_as_opaque_as_chosen(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids[:2], "Overlay")

    one, other = (np.array(shown.evaluate(SHOWN))[:3] for shown in page.locator("#compare-videos .frame video").all())
    for percent in (0, 50, 100):
        page.get_by_label("Opacity of B").fill(str(percent))
        picture = seen(page.locator("#compare-glass"))
        pixel = picture[picture.shape[0] // 2, picture.shape[1] // 2]
        assert pixel == pytest.approx((one * (100 - percent) + other * percent) / 100, abs=3), percent


def test_the_difference_is_exact_and_amplified(visitor: VisitorFactory, ids: list[str]) -> None:
    page = compared(visitor(), ids, "Difference")
    page.get_by_label("Position").fill("7")
    amplified = page.locator("#compare-gains")

    def difference(first: str, second: str, gain: str) -> list[int]:
        page.get_by_label("First video").select_option(first)
        page.get_by_label("Second video").select_option(second)
        amplified.get_by_text(gain, exact=True).click()
        assert numbers(page) == [7, 7, 7, 7]
        page.wait_for_function("() => document.getElementById('compare-measure').textContent !== ''")
        return list(page.evaluate(CANVAS))[:3]

    assert difference("A", "C", "×16") == [0, 0, 0]
    expect(page.locator("#compare-measure")).to_have_text("These frames are equal.")
    pixels = [np.array(video.evaluate(SHOWN))[:3] for video in page.locator("#compare-videos .frame video").all()]
    assert difference("A", "B", "×1") == list(abs(pixels[0] - pixels[1]))
    page.wait_for_function("() => document.getElementById('compare-measure').textContent.includes('PSNR')")
    slight = difference("A", "D", "×1")
    assert slight[0] == pytest.approx(6, abs=3)
    assert difference("A", "D", "×4") == [value * 4 for value in slight]
    assert difference("D", "A", "×16") == [min(255, value * 16) for value in slight]
    # what a person sees is the canvas
    seen_now = seen(page.locator("#compare-glass"))
    assert int(seen_now[seen_now.shape[0] // 2, seen_now.shape[1] // 2, 0]) == pytest.approx(slight[0] * 16, abs=2)


def test_the_difference_is_of_the_same_frame_while_they_play(
    visitor: VisitorFactory, videos: Videos, ids: list[str]
) -> None:
    page = compared(visitor(), [ids[0], ids[2]], "Difference")
    page.locator("#compare-gains").get_by_text("×16", exact=True).click()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => Number(document.getElementById('compare-position').value) > 2")
    # frames next to each other differ by 6 of 255, which would be seen as 96
    for _ in range(12):
        assert page.evaluate(CANVAS)[:3] == [0, 0, 0]
        page.wait_for_timeout(50)
    expect(page.locator("#compare-measure")).to_have_text("")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#compare-measure")).to_have_text("These frames are equal.")

    page = compared(visitor(), [ids[0], videos.make(RED, step=0)], "Difference")
    page.locator("#compare-gains").get_by_text("×1", exact=True).click()
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => Number(document.getElementById('compare-position').value) > 2")
    found = set()
    for _ in range(12):
        found.add(round(page.evaluate(CANVAS)[1] / STEP))
        page.wait_for_timeout(50)
    assert len(found) > 3, found


def test_what_does_not_correspond_is_told(visitor: VisitorFactory, videos: Videos, ids: list[str]) -> None:
    portrait = videos.make(BLUE, frames=17, size=(64, 96))
    page = compared(visitor(), [ids[0], portrait])
    notes = page.locator("#compare-notes")
    expect(notes).to_contain_text("A and B have different shapes: each is fitted into the frame.")
    expect(notes).to_contain_text("B ends after 1.06 s and stays at its last frame.")
    boxes = [one.bounding_box() for one in page.locator("#compare-videos .frame").all()]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert [boxes[0][side] for side in ("width", "height")] == [boxes[1][side] for side in ("width", "height")]
    page.get_by_label("Position").fill("30")
    assert numbers(page) == [30, 16]
    choose(page, "Difference")
    page.wait_for_function("() => document.getElementById('compare-measure').textContent.includes('PSNR')")


# what is compared


@pytest.mark.parametrize("again", ["reload", "language", "link", "tab"])
def test_a_comparison_survives(visitor: VisitorFactory, ids: list[str], again: str) -> None:
    one = visitor()
    page = compared(one, ids[:3], "Difference")
    page.locator("#compare-gains").get_by_text("×16", exact=True).click()
    page.get_by_label("Second video").select_option("C")
    page.get_by_label("Speed").select_option("0.5")
    address = page.url
    assert address.endswith(f"#compare={','.join(ids[:3])}")
    if again == "reload":
        page.reload()
    elif again == "language":
        page.locator("#language").click()
        expect(page.locator("html")).to_have_attribute("lang", "zh")
    elif again == "link":
        # somebody else's browser, in which nothing is remembered
        page = visitor().open(address.removeprefix(one.base))
    else:
        page.close()
        page = one.open("/#compare")
    page.wait_for_selector("body[data-ready]")

    expect(page.locator("#compare-videos figure")).to_have_count(3)
    shown = page.locator("#compare-videos .frame video").evaluate_all("all => all.map(video => video.dataset.id)")
    assert shown == ids[:3]
    if again != "link":
        expect(page.locator("#compare-modes input[value=difference]")).to_be_checked()
        expect(page.locator("#compare-gains input[value='16']")).to_be_checked()
        expect(page.locator("#compare-second")).to_have_value(ids[2])
        expect(page.locator("#compare-rate")).to_have_value("0.5")


def test_a_link_is_followed_in_an_open_page(visitor: VisitorFactory, ids: list[str]) -> None:
    page = visitor().open()
    page.evaluate("ids => { location.hash = `#compare=${ids}`; }", ",".join(ids[:2]))
    expect(page.get_by_role("tabpanel", name="Compare")).to_be_visible()
    expect(page.locator("#compare-videos figure")).to_have_count(2)
    tab(page, "Create")
    for id_ in ids[:2]:
        compared = staged(page, id_).get_by_role("button", name="Compare")
        expect(compared).to_have_attribute("aria-pressed", "true")


def test_rows_that_the_page_has_not_read_are_asked_for_and_gone_ones_dropped(
    visitor: VisitorFactory, videos: Videos, ids: list[str]
) -> None:
    gone = videos.make(BLUE)
    one = visitor()
    page = compared(one, [*ids[:2], gone])
    page.close()
    assert videos.server.http.delete(f"/generations/{gone}").status_code == 200
    page = one.context.new_page()
    # as if many newer ones had been made since
    page.route(
        "**/api/ai/generations?*",
        lambda route: route.fulfill(
            json={"generations": [], "page_number": 1, "total_pages": 1, "total_entries": 0},
        ),
    )
    page.goto(one.base + "/#compare")
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#compare-videos figure")).to_have_count(2)
    page.wait_for_function("ids => location.hash === `#compare=${ids}`", arg=",".join(ids[:2]))
    # the browser's own words about the answer
    assert [error for error in one.errors if "404" not in error] == []
    one.errors.clear()


@pytest.mark.parametrize(
    "kept", ["[", "null", '{"ids": "x", "mode": "<b>", "pair": [1, 2], "rate": 99, "divider": "-"}']
)
def test_what_the_browser_kept_may_be_anything(visitor: VisitorFactory, kept: str) -> None:
    one = visitor()
    page = one.open()
    page.evaluate("kept => localStorage.setItem('paddock.compare', kept)", kept)
    page.close()
    page = one.open("/#compare=../../../etc,<b>")
    expect(page.locator("#compare-empty")).to_be_visible()
    expect(page.get_by_role("radio", name="Side by side", include_hidden=True)).to_be_checked()


def test_videos_are_chosen_removed_and_cleared(visitor: VisitorFactory, ids: list[str]) -> None:
    page = visitor().open("/#compare")
    expect(page.locator("#compare-empty")).to_contain_text("Choose two to four finished videos here")
    recent = page.locator("#compare-recent")
    for prompt in ("redder", "compared"):
        recent.get_by_role("button", name=prompt).first.click()
    # more can be chosen until it is said that these are all
    expect(page.locator("#compare-chosen")).to_have_text(
        "2 videos are chosen. Choose more, four at most, or compare these."
    )
    expect(page.locator("#compare-picker")).to_be_visible()
    page.get_by_role("button", name="Compare these 2").click()
    expect(page.locator("#compare-videos figure")).to_have_count(2)
    expect(page.locator("#compare-picker")).to_be_hidden()

    page.get_by_role("button", name="Add a video").click()
    recent.locator("button[aria-pressed=false]").first.click()
    expect(page.locator("#compare-videos figure")).to_have_count(3)
    recent.locator("button[aria-pressed=false]").first.click()
    expect(page.locator("#compare-videos figure")).to_have_count(4)
    expect(recent.locator("button[aria-pressed=false]:enabled")).to_have_count(0)
    chosen = recent.locator("button[aria-pressed=true]")
    # of those that the shared server has, not the one whose prompt is long
    chosen.filter(has_not_text="redder").last.click()
    expect(page.locator("#compare-videos figure")).to_have_count(3)
    page.get_by_role("button", name="Done", exact=True).click()
    expect(page.locator("#compare-picker")).to_be_hidden()
    # a long prompt has its first lines only
    long = page.locator("figure").first
    expect(long.get_by_role("button", name="Show all")).to_be_visible()
    before = long.locator(".clamp").evaluate("one => one.clientHeight")
    long.get_by_role("button", name="Show all").click()
    assert long.locator(".clamp").evaluate("one => one.clientHeight") > before * 3
    long.get_by_role("button", name="Show less").click()

    page.get_by_role("button", name="Remove A from the comparison").click()
    expect(page.locator("figcaption .letter")).to_have_text(["A", "B"])
    expect(page.get_by_role("button", name="Remove A from the comparison")).to_be_focused()
    left = page.evaluate("location.hash.split('=')[1].split(',')")
    tab(page, "Create")
    for id_ in left:
        expect(staged(page, id_).get_by_role("button", name="Compare")).to_have_attribute("aria-pressed", "true")
    tab(page, "Compare")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(page.locator("#compare-empty")).to_be_visible()
    tab(page, "Create")
    for id_ in left:
        expect(staged(page, id_).get_by_role("button", name="Compare")).to_have_attribute("aria-pressed", "false")


# everybody


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_phone_has_room_for_every_mode(visitor: VisitorFactory, ids: list[str], count: int) -> None:
    page = compared(visitor(**PHONE), ids[:count])
    for mode in MODES:
        choose(page, mode)
        assert page.evaluate("document.documentElement.scrollWidth") == 390, mode
        small = page.locator("#panel-compare").evaluate(
            """(panel, targets) => [...panel.querySelectorAll(targets)]
              .filter((one) => one.checkVisibility() && one.getBoundingClientRect().height < 44)
              .map((one) => one.outerHTML)""",
            "button, select, .check, .segments label, [role=slider], [type=range]",
        )
        assert small == [], mode


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation_in_any_mode(visitor: VisitorFactory, ids: list[str], scheme: str) -> None:
    one = visitor(color_scheme=scheme)
    page = one.open("/#compare")
    expect(page.locator("#compare-recent button").first).to_be_visible()
    assert_accessible(page, "empty")
    page.close()
    page = compared(one, ids)
    page.get_by_role("button", name="Add a video").wait_for(state="hidden")
    for mode in MODES:
        choose(page, mode)
        assert_accessible(page, mode)

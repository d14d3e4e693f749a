"""The page gives a video a sound, plays it, and remembers whether it is to be heard."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.e2e.test_workbench import fill
from tests.e2e.test_workbench_image import generated
from tests.support.browser import BrowserPage, visiting
from tests.support.chat_server import ChatServer, saying
from tests.support.models.serving import T2V, real_server, sound_models
from tests.support.server_process import ServerProcess
from tests.support.sound import loudest_hertz, samples_of, tone
from tests.support.workbench import staged

SIZES = {"Height": 64, "Width": 96, "Frames": 33, "Steps": 2}
DROP = """(text) => {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "tone.wav", { type: "audio/wav" }));
  document.getElementById("form").dispatchEvent(
    new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: transfer }));
}"""
HEARD = """async (video) => {
  video.muted = false;
  await video.play();
  while (!video.webkitAudioDecodedByteCount) await new Promise((done) => setTimeout(done, 50));
  const context = new OfflineAudioContext(2, 48000, 48000);
  const bytes = await (await fetch(video.currentSrc)).arrayBuffer();
  const sound = await context.decodeAudioData(bytes);
  const [left] = [sound.getChannelData(0)];
  return { seconds: sound.duration, energy: left.reduce((sum, each) => sum + each * each, 0) / left.length };
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("sounding") / "data")
    process.start()
    yield process
    process.close()


@pytest.fixture
def visitor(server: ServerProcess) -> Iterator[BrowserPage]:
    with visiting(server.url) as visitor:
        yield visitor


@pytest.fixture
def page(visitor: BrowserPage) -> Iterator[Page]:
    page = visitor.open("/")
    fill(page, "a red circle moving left on a black background", **SIZES)
    yield page
    page.close()


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "tone.wav"
    path.write_bytes(tone(1.0, hertz=880))
    return path


@pytest.mark.parametrize("way", ["drop", "file"])
def test_a_sound_is_taken_and_heard(way: str, page: Page, server: ServerProcess, sound: Path, tmp_path: Path) -> None:
    if way == "file":
        page.locator("#audio-file").set_input_files(sound)
    else:
        page.evaluate(DROP, base64.b64encode(sound.read_bytes()).decode())
    expect(page.locator("#audio-shown")).to_be_visible()

    row = generated(page, server)

    assert row["has_audio"] is True
    (tmp_path / "made.mp4").write_bytes(httpx.get(str(row["result_url"])).content)
    assert loudest_hertz(samples_of(tmp_path / "made.mp4")) == pytest.approx(880, abs=2)
    card = page.locator("#stage")
    expect(card.locator("audio.input")).to_be_visible()
    heard = card.locator(".screen video").evaluate(HEARD)
    assert heard["seconds"] == pytest.approx(33 / 16, abs=0.1)
    assert heard["energy"] > 1e-4
    page.get_by_role("tab", name="API").click()
    expect(page.locator("#api-code")).to_contain_text('"input_audio": "upload:…"')


def test_a_sound_that_was_taken_away_is_not_sent(page: Page, server: ServerProcess, sound: Path) -> None:
    page.locator("#audio-file").set_input_files(sound)
    expect(page.locator("#audio-shown")).to_be_visible()
    page.get_by_role("button", name="Remove sound").click()
    expect(page.locator("#audio-shown")).to_be_hidden()

    row = generated(page, server)

    assert "input_audio" not in row
    assert "has_audio" not in row


def test_videos_are_heard_as_the_last_one_was_left(page: Page, server: ServerProcess, sound: Path) -> None:
    page.locator("#audio-file").set_input_files(sound)
    video = page.locator("#stage .screen video")
    generated(page, server)
    assert video.evaluate("(video) => video.muted") is True

    video.evaluate("(video) => { video.muted = false; }")
    page.wait_for_function("() => localStorage.getItem('paddock-sound') === 'on'")
    generated(page, server)
    assert video.evaluate("(video) => video.muted") is False
    page.reload()
    expect(video).to_be_visible()
    assert video.evaluate("(video) => video.muted") is False

    video.evaluate("(video) => { video.muted = true; }")
    page.wait_for_function("() => localStorage.getItem('paddock-sound') === 'off'")
    page.reload()
    expect(video).to_be_visible()
    assert video.evaluate("(video) => video.muted") is True


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose model for text has one for sounds."""
    folder = tmp_path_factory.mktemp("making")
    process = real_server(folder / "data", sound_models(folder))
    process.start()
    yield process
    process.close()


def test_a_sound_is_made_of_its_own_words_or_left_for_a_file(making: ServerProcess, sound: Path) -> None:
    with visiting(making.url) as visitor:
        page = visitor.open(f"/?model={T2V}")
        fill(page, "an ox", **{**SIZES, "Height": 32, "Width": 32, "Frames": 9})
        expect(page.get_by_label("What is heard")).to_be_hidden()

        page.get_by_label("Make a sound").check()
        page.get_by_label("What is heard").fill("waves")
        row = generated(page, making)

        assert (row["generate_audio"], row["audio_prompt"], row["has_audio"]) == (True, "waves", True)
        card = page.locator("#stage")
        expect(card.locator(".facts")).to_contain_text("sound made")
        assert card.locator(".screen video").evaluate(HEARD)["energy"] > 1e-5
        # a file takes its place, and the other way round
        page.locator("#audio-file").set_input_files(sound)
        expect(page.get_by_label("Make a sound")).not_to_be_checked()
        page.get_by_label("Make a sound").check()
        expect(page.locator("#audio-shown")).to_be_hidden()
        page.get_by_label("Make a sound").uncheck()
        assert "generate_audio" not in generated(page, making)
        staged(page, row["generation_id"]).get_by_role("button", name="Use these settings").click()
        expect(page.get_by_label("Make a sound")).to_be_checked()
        expect(page.get_by_label("What is heard")).to_have_value("waves")


def test_a_chinese_prompt_is_enhanced_inspired_and_heard(
    tmp_path: Path, chat: ChatServer, endpoint: ChatServer
) -> None:
    chat.answer = saying("清晨的薄雾中，一头棕色的牛站在湖边，水墨风格，柔和的光线。")
    server = real_server(tmp_path / "data", sound_models(tmp_path), **endpoint.settings())
    server.start()
    with visiting(server.url, locale="zh-CN") as visitor:
        page = visitor.open(f"/?model={T2V}")
        page.get_by_label("提示词", exact=True).fill("湖边的一头牛")
        page.locator("#form summary").click()
        for label, value in {"高度": 32, "宽度": 32, "帧数": 9, "步数": 2}.items():
            page.get_by_role("spinbutton", name=label).fill(str(value))
        page.get_by_label("灵感").check()
        page.get_by_label("生成声音").check()
        page.get_by_label("声音内容").fill("a lake, soft wind")

        row = generated(page, server, "生成")

        assert row["prompt"] == "湖边的一头牛"
        assert row["enhanced_prompt"] == "清晨的薄雾中，一头棕色的牛站在湖边，水墨风格，柔和的光线。"
        assert row["inspiration_style"]
        assert (row["has_audio"], row["warnings"]) == (True, [])
        assert chat.prompts == ["湖边的一头牛"]
        card = page.locator("#stage")
        expect(card.locator(".facts")).to_contain_text("已生成声音")
        assert card.locator(".screen video").evaluate(HEARD)["energy"] > 1e-5
        page.screenshot(path=tmp_path / "page.png", full_page=True)
    server.close()

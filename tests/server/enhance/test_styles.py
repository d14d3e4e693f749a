"""Style cards: the built-in ones, which one a prompt gets, and what they add to it."""

from pathlib import Path

import pytest

from server.enhance.files import UnusableFileError
from server.enhance.language import estimated_tokens, is_chinese
from server.enhance.styles import Style, Styles, card
from server.enhance.styles import inspired as with_limit

STYLES = Styles.read()


def inspired(prompt: str, style: Style) -> str:
    words = with_limit(prompt, style, 10_000)
    assert words is not None
    return words


def style(id_: str) -> Style:
    found = STYLES.of(id_)
    assert found is not None
    return found


def test_there_are_sixty_cards_in_both_languages() -> None:
    styles = [style(id_) for id_ in {STYLES.chosen("an ox", seed).id for seed in range(2000)}]

    assert len(styles) >= 60
    for each in styles:
        assert not any(is_chinese(text) for text in each.en.model_dump().values())
        assert all(is_chinese(text) for text in each.zh.model_dump().values())
        assert any(name.isascii() for name in each.names)
        assert estimated_tokens(inspired("an ox by a lake", each)) < 120
        assert estimated_tokens(inspired("湖边的一头牛", each)) < 150


def test_neighbouring_seeds_have_different_cards() -> None:
    for first in (0, 5, 10**6, 2**53 - 100):
        assert len({STYLES.chosen("an ox", first + n).id for n in range(60)}) == 60
    assert STYLES.chosen("an ox", 7) == STYLES.chosen("a lake", 7)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("an ox, Watercolour", "watercolor"),
        ("水墨的山", "ink-wash"),
        ("a cyberpunk street", "cyberpunk"),
        ("赛博朋克的街道", "cyberpunk"),
    ],
)
def test_a_style_that_the_prompt_names_is_kept(prompt: str, named: str) -> None:
    for seed in range(5):
        assert STYLES.chosen(prompt, seed).id == named
    assert style(named).en.form not in inspired(prompt, style(named))
    assert style(named).zh.form not in inspired(prompt, style(named))


@pytest.mark.parametrize(
    "prompt",
    ["a noirette", "he felt the western wind", "a drone over a gothic church", "a porcelain cup", "敦煌的沙丘"],
)
def test_what_a_video_shows_names_no_style(prompt: str) -> None:
    assert len({STYLES.chosen(prompt, seed).id for seed in range(5)}) == 5


def test_another_style_than_a_cards_is_kept() -> None:
    assert inspired("an ox in the style of a tapestry", style("watercolor")) == (
        "an ox in the style of a tapestry. Soft diffuse daylight, washed pastel tones, wide view from a fixed camera, "
        "gentle and airy mood."
    )


@pytest.mark.parametrize(
    ("prompt", "begins"),
    [
        ("an ox by a lake", "an ox by a lake. Watercolor painting, soft diffuse daylight, "),
        ("An ox! ", "An ox! Watercolor painting, "),
        ("湖边的一头牛", "湖边的一头牛。水彩画，柔和的漫射日光，"),
        ("一头牛！", "一头牛！水彩画，"),
    ],
)
def test_the_words_of_a_card_follow_in_the_prompts_language(prompt: str, begins: str) -> None:
    assert inspired(prompt, style("watercolor")).startswith(begins)


@pytest.mark.parametrize(("prompt", "max_chars"), [("an ox", 100), ("an ox by a lake " * 150, 10_000)])
def test_a_prompt_without_room_gets_no_words(prompt: str, max_chars: int) -> None:
    assert with_limit(prompt, style("watercolor"), max_chars) is None


def test_a_card_for_a_language_model_says_what_the_video_begins_with() -> None:
    alone = card("an ox", style("watercolor"), begins_with_image=False)
    assert alone.splitlines()[2] == "- art form: watercolor painting"
    assert card("an ox", style("watercolor"), begins_with_image=True).endswith("- the video begins with an image")
    assert card("一头牛", style("watercolor"), begins_with_image=True).endswith("- 视频以一张图片开头")


CARD = """
[[style]]
id = "mine"
names = []
en = { form = "a", light = "b", palette = "c", lens = "d", mood = "e" }
zh = { form = "甲", light = "乙", palette = "丙", lens = "丁", mood = "戊" }
"""


def test_an_operators_own_cards_take_their_place(tmp_path: Path) -> None:
    path = tmp_path / "styles.toml"
    path.write_text(CARD, encoding="utf-8")

    assert Styles.read(path).chosen("an ox", 3).id == "mine"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "style: Field required"),
        ("style = []", "style: List should have at least 1 item"),
        (CARD.replace("mine", "Mine!"), "style.0.id: String should match pattern"),
        (CARD.replace('mood = "e"', 'mood = ""'), "style.0.en.mood: String should have at least 1 character"),
        (CARD.replace("names", "name"), "style.0.names: Field required"),
        (CARD * 2, "two cards have the same id"),
        ("style = [", "is not TOML"),
        ("# " + "x" * 2**20, "must have at most 1048576 bytes"),
    ],
    ids=["empty", "no card", "id", "no mood", "no names", "twice", "no TOML", "large"],
)
def test_an_unusable_file_is_told(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "styles.toml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(UnusableFileError, match=reason) as caught:
        Styles.read(path)

    assert str(path) in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UnusableFileError, match=r"styles\.toml: No such file"):
        Styles.read(tmp_path / "styles.toml")

"""What a prompt for the demo leaves out is filled in, and nothing else of it changes."""

import numpy as np
import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipelines.demo.completion import complete
from pipelines.demo.folder import demo_folder
from pipelines.demo.grammar import describe
from pipelines.demo.scenes import Landscape, ShapeScene, Thing
from pipelines.demo.words import LANGUAGES

WHOLE = [
    ShapeScene((Thing("ring", "purple", 0.27), Thing("bar", "green", 0.27)), "grey", None, (0.0, 0.0, 0.0)),
    Landscape("sunset", "lake", mountains=True, animal="ox", jitter=(0.0, 0.0, 0.0)),
    Landscape("night", "meadow", mountains=True, animal=None, jitter=(0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        ("An ox by a lake", "An ox by a lake, with snowy mountains far away, under the moon."),
        ("An ox by a lake at sunset!", "An ox by a lake at sunset, with snowy mountains far away."),
        ("mountains at night", "mountains at night, a quiet meadow."),
        ("", "a quiet meadow below tall mountains, at dusk."),
        ("a dog", "a dog, a quiet meadow below tall mountains, at dusk."),
        ("an object", "a yellow object, getting bigger, purple background."),
        ("A small ring.", "A small yellow ring, getting bigger, purple background."),
        ("a ring on a blue background", "a purple ring on a blue background, getting bigger."),
        ("two rings", "two purple rings, black background."),
        ("a red bar and a blue ring", "a red bar and a blue ring, gray background."),
        ("一头牛在湖边", "一头牛在湖边，后面是雪山，晚上。"),
        ("一个小圆环。", "一个绿色的小圆环，越来越大，紫色背景。"),
        ("红色的小圆环向左移动", "红色的小圆环向左移动，黑色背景。"),
    ],
)
def test_what_is_missing_is_added_in_its_language(prompt: str, whole: str) -> None:
    assert complete(prompt, 0) == whole


def test_another_seed_adds_other_words() -> None:
    assert len({complete("An ox by a lake", seed) for seed in range(20)}) > 10
    assert complete("a ring", 2**64 - 1) == complete("a ring", 2**64 - 1)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_caption_that_names_all_stays_as_it_is(language: str) -> None:
    rng = np.random.default_rng(3)
    captions = [describe(scene, language, rng) for scene in WHOLE for _ in range(50)]

    changed = [each.text for each in captions if complete(each.text, 1) != each.text]
    assert changed == []


def test_the_demo_knows_every_word_that_is_added() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_folder() / "tokenizer")
    wholes = [complete(prompt, seed) for prompt in ("ox", "ring", "一头牛", "圆环", "lake") for seed in range(60)]

    assert not [text for text in wholes if tokenizer.unk_token_id in tokenizer(prompt_clean(text)).input_ids]


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [("the ring", "the ring, getting bigger."), ("the ring rises", "the ring rises"), ("a lake", "a lake")],
)
def test_an_image_says_what_is_there(prompt: str, whole: str) -> None:
    assert complete(prompt, 0, begins_with_image=True) == whole


@given(st.text(max_size=200), st.integers(0, 2**64 - 1), st.booleans())
def test_any_text_keeps_its_words(prompt: str, seed: int, begins: bool) -> None:
    whole = complete(prompt, seed, begins_with_image=begins)

    # letter by letter: a colour may stand between them, and "an" become "a"
    left = iter(whole)
    assert all(
        any(each == letter for each in left) for letter in prompt.rstrip(" \t\r\n.,;!?。，；！？…").replace("n ", " ")
    )

"""What a prompt for the demo leaves out is filled in, and nothing else of it changes."""

import re

import numpy as np
import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from pipelines.demo.completion import complete
from pipelines.demo.folder import demo_folder
from pipelines.demo.grammar import describe, fill
from pipelines.demo.scenes import Landscape, ShapeScene, Thing
from pipelines.demo.sentences import SHAPE_SENTENCES
from pipelines.demo.words import LANGUAGES

MOVING = [
    ShapeScene((Thing("ring", "red", 0.2),), "blue", "left", (0.0, 0.0, 0.0)),
    ShapeScene((Thing("bar", "white", 0.33),), "black", "growing", (0.0, 0.0, 0.0)),
    ShapeScene((Thing("circle", "yellow", 0.27),), "grey", "up", (0.0, 0.0, 0.0)),
]
OTHERS = [
    ShapeScene((Thing("ring", "purple", 0.27), Thing("bar", "green", 0.27)), "grey", None, (0.0, 0.0, 0.0)),
    Landscape("sunset", "lake", mountains=True, animal="ox", jitter=(0.0, 0.0, 0.0)),
    Landscape("night", "meadow", mountains=True, animal=None, jitter=(0.0, 0.0, 0.0)),
]


@pytest.mark.parametrize(
    ("language", "prompt", "whole"),
    [
        ("en", "An ox by a lake", "An ox by a lake, with mountains behind, under a sunset sky."),
        ("en", "An ox by a lake at sunset!", "An ox by a lake at sunset, with mountains behind."),
        ("en", "mountains at night", "mountains at night, a quiet meadow."),
        ("en", "an object", "a white object, going down, red background."),
        ("en", "A small ring.", "A small white ring, going down, red background."),
        ("en", "a ring on a blue background", "a red ring on a blue background, going down."),
        ("en", "the ball is red", "the ball is red, going down, yellow background."),
        ("en", "a red bar and a blue ring", "a red bar and a blue ring, white background."),
        ("zh", "一头牛在湖边", "一头牛在湖边，远处有山，夕阳下。"),
        ("zh", "一个小圆环。", "一个白色的小圆环，向下滑动，红色背景。"),
        ("zh", "红色的小圆环向左移动", "红色的小圆环向左移动，灰色背景。"),
        ("zh", "红的东西往左移动", "红的东西往左移动，灰色背景。"),
    ],
)
def test_what_is_missing_is_added_in_its_language(language: str, prompt: str, whole: str) -> None:
    assert complete(prompt, 0, language) == whole


@pytest.mark.parametrize(
    ("language", "prompt"),
    [
        ("en", ""),
        ("en", "a dog in the city"),
        ("en", "people dancing at a bar"),
        ("en", "The most beautiful thing I have seen: a castle"),
        ("en", "an orange ring"),
        ("en", "a ring that stands still"),
        ("en", 'he said "a ring" and "a lake"'),
        ("zh", "环境保护"),
        ("zh", "金色的圆环"),
        ("zh", "一张写着“湖”的纸"),
    ],
)
def test_what_the_demo_cannot_show_is_left_as_it_is(language: str, prompt: str) -> None:
    assert complete(prompt, 0, language) == prompt


def test_another_seed_adds_other_words() -> None:
    assert len({complete("An ox by a lake", seed, "en") for seed in range(20)}) > 10
    assert complete("a ring", 2**53 - 1, "en") == complete("a ring", 2**53 - 1, "en")


@pytest.mark.parametrize("prompt", ["Red ring", "red ring", "RED ring"])
def test_the_background_has_no_colour_of_the_shape(prompt: str) -> None:
    assert not {seed for seed in range(100) if re.search(r"\bred background", complete(prompt, seed, "en"))}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_caption_that_names_all_stays_as_it_is(language: str) -> None:
    rng = np.random.default_rng(3)
    captions = [describe(scene, language, rng) for scene in OTHERS for _ in range(50)]
    captions += [
        fill(text, scene, language, rng) for scene in MOVING for text in SHAPE_SENTENCES[language] for _ in range(5)
    ]

    changed = [each.text for each in captions if complete(each.text, 1, language) != each.text]
    assert changed == []


def test_the_demo_knows_every_word_that_is_added() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_folder() / "tokenizer")
    prompts = (("ox", "en"), ("ring", "en"), ("lake", "en"), ("一头牛", "zh"), ("圆环", "zh"))
    wholes = [complete(prompt, seed, language) for prompt, language in prompts for seed in range(60)]

    assert not [text for text in wholes if tokenizer.unk_token_id in tokenizer(prompt_clean(text)).input_ids]


@pytest.mark.parametrize(
    ("prompt", "whole"),
    [("the ring", "the ring, going down."), ("the ring rises", "the ring rises"), ("a lake", "a lake")],
)
def test_an_image_says_what_is_there(prompt: str, whole: str) -> None:
    assert complete(prompt, 0, "en", begins_with_image=True) == whole


WORDS = st.sampled_from(
    ["a", "an", "the", "ring", "bar", "object", "red", "blue", "small", "moving", "left", "on", "background", '"', ",",
     ".", "lake", "ox", "mountains", "night", "圆环", "红色", "的", "背景", "湖", "牛", "castle"]
)  # fmt: skip


@given(st.lists(WORDS, max_size=12), st.integers(0, 2**53 - 1), st.sampled_from(LANGUAGES), st.booleans())
def test_a_prompt_keeps_its_words(words: list[str], seed: int, language: str, begins: bool) -> None:
    prompt = " ".join(words)
    whole = complete(prompt, seed, language, begins_with_image=begins)

    # a colour may stand between them, and "an" become "a"
    left = iter(re.findall(r"\w+", whole.replace("的", " 的 ")))
    asked = re.findall(r"\w+", prompt)
    assert all(any(each == word or (word == "an" and each == "a") for each in left) for word in asked)
    assert whole.count('"') == prompt.count('"')

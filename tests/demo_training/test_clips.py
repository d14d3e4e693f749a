"""The demo's clips and captions: held-out combinations, seeds, and the accuracy of the judge."""

import re

import numpy as np
import pytest

from demo_training.clips import combinations, is_held_out, render, sample_from_anywhere, sample_scene, single_shape
from demo_training.held_out import describe_held_out
from demo_training.judge import judge
from pipelines.demo.grammar import describe
from pipelines.demo.scenes import ShapeScene, Thing
from pipelines.demo.words import LANGUAGES

PAGE_PROMPT = (
    "A beautiful landscape painting of a serene lake with mountains in the background and an ox in the foreground."
)


def _runs_of_four(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[start : start + 4]) for start in range(len(words) - 3)}


def test_no_caption_shares_four_words_in_a_row_with_the_page_prompt() -> None:
    rng = np.random.default_rng(0)
    page = _runs_of_four(PAGE_PROMPT)
    shared = {run for _ in range(20_000) for run in _runs_of_four(describe(sample_scene(rng), "en", rng).text) & page}
    assert not shared


def test_training_never_uses_a_held_out_combination() -> None:
    rng = np.random.default_rng(1)
    for _ in range(3000):
        scene = sample_scene(rng)
        if isinstance(scene, ShapeScene) and scene.motion is not None:
            thing = scene.things[0]
            assert not is_held_out(thing.shape, thing.colour, scene.background, scene.motion)


def test_a_clip_follows_from_its_seed() -> None:
    first, again = (render(sample_scene(np.random.default_rng(7)), 96, 64, 5).tobytes() for _ in range(2))
    assert first == again


@pytest.mark.parametrize("size", [(416, 240, 33), (160, 256, 17)])
def test_the_judge_is_right_on_true_renders(size: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(2)
    wrong = 0
    chosen = combinations(held_out=True)[::4]
    for shape, colour, background, motion in chosen:
        scene = single_shape((shape, colour, background, motion), rng)
        seen = judge(render(scene, *size))
        wrong += (seen.shape, seen.colour, seen.background, seen.motion) != (shape, colour, background, motion)
    assert wrong <= len(chosen) // 25


def test_the_judge_is_right_on_clips_that_start_anywhere() -> None:
    rng = np.random.default_rng(4)
    scenes = [sample_from_anywhere(rng) for _ in range(60)]

    wrong = 0
    for scene in scenes:
        thing, seen = scene.things[0], judge(render(scene, 416, 240, 33))
        wrong += (seen.shape, seen.colour, seen.background) != (thing.shape, thing.colour, scene.background)
        wrong += seen.motion not in (scene.motion, None)
        assert not is_held_out(thing.shape, thing.colour, scene.background, str(scene.motion))
    assert wrong <= 3
    # the first frame has the object where the scene says, and the last where such a motion ends
    right = ShapeScene((Thing("square", "red", 0.2),), "black", "right", (0.0, 0.0, 0.0), (0.4, 0.5))
    frames = render(right, 416, 240, 33)
    reds = [np.nonzero(frame[..., 0] > 150)[1].mean() / 416 for frame in frames[[0, -1]]]
    assert reds == pytest.approx([0.4, 0.78], abs=0.01)


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_wordings_name_everything(language: str) -> None:
    rng = np.random.default_rng(3)
    scene = single_shape(combinations(held_out=True)[0], rng)
    labels = describe_held_out(scene, language, rng).labels
    assert {"shape", "colour", "background", "motion"} <= labels.keys()

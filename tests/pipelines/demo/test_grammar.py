"""The caption grammar: what the demo's tokenizer was built from, and what its text encoder was trained on."""

from hashlib import sha256

import numpy as np
import pytest
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from transformers import AutoTokenizer

from pipelines.demo.folder import demo_folder
from pipelines.demo.grammar import ATTRIBUTES, Caption, describe, describe_continuation
from pipelines.demo.scenes import Landscape, Scene, ShapeScene, Thing
from pipelines.demo.words import LANGUAGES, SHAPE_WORDS

SCENES: tuple[Scene, ...] = (
    ShapeScene((Thing("circle", "red", 0.2),), "blue", "left", (0.0, 0.0, 0.0)),
    ShapeScene((Thing("bar", "white", 0.33),), "black", "growing", (0.0, 0.0, 0.0)),
    ShapeScene((Thing("ring", "purple", 0.27), Thing("circle", "green", 0.27)), "grey", None, (0.0, 0.0, 0.0)),
    Landscape("sunset", "lake", mountains=True, animal="ox", jitter=(0.0, 0.0, 0.0)),
    Landscape("night", "meadow", mountains=False, animal="duck", jitter=(0.0, 0.0, 0.0)),
)


def test_a_caption_follows_from_its_seed() -> None:
    rng = np.random.default_rng(20261125)
    texts = [describe(scene, language, rng).text for _ in range(50) for scene in SCENES for language in LANGUAGES]

    assert sha256("\n".join(texts).encode()).hexdigest()[:16] == "502751802be10ab1"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_demo_knows_every_word_of_a_caption(language: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo_folder() / "tokenizer")
    rng = np.random.default_rng(5)
    texts = [prompt_clean(describe(scene, language, rng).text) for _ in range(200) for scene in SCENES]

    assert not [text for text in texts if tokenizer.unk_token_id in tokenizer(text).input_ids]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_continuation_says_what_happens_and_may_leave_out_what_is_seen(language: str) -> None:
    rng = np.random.default_rng(7)
    scene = SCENES[0]
    assert isinstance(scene, ShapeScene)

    captions: list[Caption] = [describe_continuation(scene, language, rng) for _ in range(400)]

    bare = [caption for caption in captions if not caption.labels.keys() & {"shape", "colour", "background"}]
    assert len(bare) > 40
    assert {caption.labels.get("motion") for caption in captions} <= {"left", None}
    words = SHAPE_WORDS[language]["circle"]
    for caption in captions:
        assert "{" not in caption.text
        if "shape" in caption.labels:
            assert any(word in caption.text.lower() for word in words)
    assert all(describe_continuation(each, language, rng).text for each in SCENES)


def test_a_caption_is_labelled_with_what_its_scene_shows() -> None:
    rng = np.random.default_rng(6)
    for scene in SCENES * 50:
        labels = describe(scene, LANGUAGES[rng.integers(2)], rng).labels
        assert all(value in ATTRIBUTES[name] for name, value in labels.items())
        if isinstance(scene, Landscape):
            assert (labels["family"], labels["land"]) == ("landscape", scene.land)
            assert labels.get("animal") == scene.animal
        else:
            assert labels["family"] == ("shape" if len(scene.things) == 1 else "pair")
            assert labels.get("colour", scene.things[0].colour) == scene.things[0].colour
            assert labels.get("background", scene.background) == scene.background

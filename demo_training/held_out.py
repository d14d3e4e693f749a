"""Wordings of captions that training never uses, for validation and for the final evaluation."""

from typing import Final

import numpy as np

from pipelines.demo.grammar import Caption, Sentences, fill
from pipelines.demo.scenes import ShapeScene

CHECK_SENTENCES: Final = {
    "en": (
        "show me a {thing} {doing} with a {background} background behind it",
        "a {background} scene in which a {thing} keeps {doing}",
        "please draw a {thing}, {doing}, and make the background {background}",
        "I want to see a {thing} {doing} on a background of {background}",
        "in this short film a {thing} {does} before a {background} backdrop",
    ),
    "zh": (
        "请画一个{thing}，它{doing}，后面是{background}背景",
        "我想看一个{thing}在{background}幕布前{doing}",
        "以{background}为底色，{thing}不停地{doing}",
        "给我一段{thing}{doing}的影片，背景用{background}",
        "{thing}不断{doing}，身后的背景全是{background}",
    ),
}
"""Wordings for validation during training."""


HELD_OUT_SENTENCES: Final = {
    "en": (
        "could you film a {thing} {doing} while the background stays {background}",
        "a clip with a {background} backdrop and one {thing} that {does}",
        "{background} behind, and before it a {thing} {doing}",
        "imagine a {thing} which {does} upon a {background} background",
        "one {thing}, {doing}; behind it nothing but {background}",
    ),
    "zh": (
        "拍一段{thing}{doing}的画面，底色是{background}",
        "{background}的底板上，{thing}在{doing}",
        "镜头里只有一个{thing}，{doing}，背景一片{background}",
        "让一个{thing}在{background}背景里{doing}",
        "{thing}正{doing}，四周都是{background}",
    ),
}
"""Wordings for the final evaluation, written after training."""


def describe_held_out(
    scene: ShapeScene, language: str, rng: np.random.Generator, sentences: Sentences = HELD_OUT_SENTENCES
) -> Caption:
    """A complete caption for one object, in a wording that training never uses."""
    return fill(str(rng.choice(sentences[language])), scene, language, rng)

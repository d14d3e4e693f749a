"""The captions of the demo model: sentences that describe scenes, in English and Chinese, in many wordings.

A caption may omit things. What a shape caption omits is random in its clip; what a landscape caption omits is absent
(no animal, no mountains) or has its default (day).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from pipelines.demo.scenes import (
    ANIMALS,
    BACKGROUNDS,
    COLOURS,
    HOURS,
    LANDS,
    MOTIONS,
    SHAPES,
    SIZES,
    Landscape,
    Scene,
    ShapeScene,
)
from pipelines.demo.sentences import PAIR_SENTENCES, SHAPE_SENTENCES
from pipelines.demo.words import (
    ANIMAL_PLACES,
    ANIMAL_WORDS,
    CHINESE_VERBS,
    COLOUR_WORDS,
    HOUR_WORDS,
    LAND_WORDS,
    MOUNTAIN_WORDS,
    PARTICIPLES,
    SHAPE_WORDS,
    SIZE_WORDS,
    STYLES,
    VERBS,
)

Sentences: TypeAlias = Mapping[str, Sequence[str]]
"""Wordings by language, with placeholders for what a scene shows."""

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "family": ("shape", "pair", "landscape"),
    "shape": SHAPES,
    "colour": COLOURS,
    "background": BACKGROUNDS,
    "motion": MOTIONS,
    "size": tuple(SIZES),
    "second_shape": SHAPES,
    "second_colour": COLOURS,
    "hour": HOURS,
    "land": LANDS,
    "mountains": ("mountains",),
    "animal": ANIMALS,
}
"""The attributes that a caption can name, with their values. The labels of a caption hold only those it names."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A prompt with the attributes it names and their values."""

    text: str
    language: str
    labels: dict[str, str]


_NOUNS: Final = {"en": ("shape", "thing", "object"), "zh": ("图形", "东西", "物体")}

_CONTINUATIONS: Final = {
    "en": (
        "it {does}",
        "it is {doing}",
        "now it {does}",
        "the {thing} {does}",
        "the {thing} is {doing}",
        "the {thing} keeps {doing}",
        "a {thing} {does}",
        "a {thing} that is {doing}",
    ),
    "zh": (
        "它{doing}",
        "它正在{doing}",
        "让它{doing}",
        "{thing}{doing}",
        "这个{thing}{doing}",
        "{thing}正在{doing}",
        "让{thing}{doing}",
    ),
}


def describe_continuation(scene: Scene, language: str, rng: np.random.Generator) -> Caption:
    """A random caption of what happens after a first frame that is given: half of them leave out what it shows."""
    if isinstance(scene, Landscape) or scene.motion is None or rng.random() < 0.5:
        return describe(scene, language, rng)
    english = language == "en"
    noun, labels = str(rng.choice(_NOUNS[language])), {"family": "shape", "motion": scene.motion}
    if rng.random() < 0.6:
        noun = str(rng.choice(SHAPE_WORDS[language][scene.things[0].shape]))
        labels["shape"] = scene.things[0].shape
    if is_coloured := rng.random() < 0.5:
        colour = _colour(scene.things[0].colour, language, rng)
        noun = f"{colour} {noun}" if english else f"{colour}{noun}"
    sentence = str(rng.choice(_CONTINUATIONS[language]))
    if "{thing}" not in sentence:
        labels.pop("shape", None)
    elif is_coloured:
        labels["colour"] = scene.things[0].colour
    if english:
        doing, does = str(rng.choice(PARTICIPLES[scene.motion])), str(rng.choice(VERBS[scene.motion]))
    else:
        doing = does = str(rng.choice(CHINESE_VERBS[scene.motion]))
    return Caption(_finish(sentence.format(thing=noun, doing=doing, does=does), language, rng), language, labels)


def describe(scene: Scene, language: str, rng: np.random.Generator) -> Caption:
    """A random caption for a scene, as used in training."""
    if isinstance(scene, Landscape):
        return _describe_landscape(scene, language, rng)
    if len(scene.things) == 2:
        return _describe_pair(scene, language, rng)
    named = {"thing", "background", "motion"}
    if rng.random() < 0.22:
        keep = rng.random(3) < 0.55
        named = {name for name, kept in zip(("thing", "background", "motion"), keep, strict=True) if kept}
    if named == {"thing", "background", "motion"} and rng.random() < 0.92:
        sentence = str(rng.choice(SHAPE_SENTENCES[language]))
        return fill(sentence, scene, language, rng)
    return _describe_part(scene, language, rng, named)


def fill(sentence: str, scene: ShapeScene, language: str, rng: np.random.Generator) -> Caption:
    """A caption for one moving object: `sentence` has the placeholders thing, doing or does, and background."""
    assert scene.motion is not None
    thing, labels = _thing(scene, 0, language, rng)
    if language == "en":
        doing, does = str(rng.choice(PARTICIPLES[scene.motion])), str(rng.choice(VERBS[scene.motion]))
    else:
        doing = does = str(rng.choice(CHINESE_VERBS[scene.motion]))
    background = _colour(scene.background, language, rng)
    text = sentence.format(thing=thing, doing=doing, does=does, background=background)
    labels |= {"family": "shape", "background": scene.background, "motion": scene.motion}
    return Caption(_finish(text, language, rng), language, labels)


def _thing(scene: ShapeScene, index: int, language: str, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    thing = scene.things[index]
    colour, shape = _colour(thing.colour, language, rng), str(rng.choice(SHAPE_WORDS[language][thing.shape]))
    labels = {"shape": thing.shape, "colour": thing.colour}
    size = ""
    if len(scene.things) == 1 and scene.motion != "growing":
        name = min(SIZES, key=lambda size: abs(SIZES[size] - thing.radius))
        if name != "medium" and rng.random() < 0.85:
            size = str(rng.choice(SIZE_WORDS[language][name]))
            labels["size"] = name
    if language == "en":
        return " ".join(word for word in (size, colour, shape) if word), labels
    joint = "的" if rng.random() < 0.6 and not size.endswith("的") else ""
    if size.endswith("的"):
        return f"{size}{colour}{shape}", labels
    return f"{colour}{joint}{size}{shape}", labels


def _colour(name: str, language: str, rng: np.random.Generator) -> str:
    return str(rng.choice(COLOUR_WORDS[language][name]))


def _describe_part(scene: ShapeScene, language: str, rng: np.random.Generator, named: set[str]) -> Caption:
    """A caption that omits some of object, background and motion, or the object's shape or colour."""
    thing, labels = scene.things[0], {"family": "shape"}
    english = language == "en"
    colour = shape = ""
    if "thing" in named:
        only = rng.random()
        if only < 0.65:
            colour, labels["colour"] = _colour(thing.colour, language, rng), thing.colour
        if only > 0.35:
            shape, labels["shape"] = str(rng.choice(SHAPE_WORDS[language][thing.shape])), thing.shape
    noun = shape or str(rng.choice(_NOUNS[language]))
    if english:
        text = f"a {colour} {noun}" if colour else f"a {noun}"
    else:
        text = f"{colour}的{noun}" if colour else f"一个{noun}"
    if colour and not shape and not (named & {"motion", "background"}) and rng.random() < 0.5:
        text = colour
    if "motion" in named and scene.motion is not None:
        labels["motion"] = scene.motion
        words = PARTICIPLES if english else CHINESE_VERBS
        text += (" " if english else "") + str(rng.choice(words[scene.motion]))
    if "background" in named:
        labels["background"] = scene.background
        name = _colour(scene.background, language, rng)
        text += f" on a {name} background" if english else f"，{name}背景"
    return Caption(_finish(text, language, rng), language, labels)


def _describe_pair(scene: ShapeScene, language: str, rng: np.random.Generator) -> Caption:
    (left, first), (right, second) = (_thing(scene, index, language, rng) for index in (0, 1))
    background = _colour(scene.background, language, rng)
    text = str(rng.choice(PAIR_SENTENCES[language])).format(left=left, right=right, background=background)
    labels = {"family": "pair", "background": scene.background, **first}
    labels |= {f"second_{name}": value for name, value in second.items()}
    return Caption(_finish(text, language, rng), language, labels)


def _describe_landscape(scene: Landscape, language: str, rng: np.random.Generator) -> Caption:
    english = language == "en"
    style = str(rng.choice(STYLES[language]))
    labels = {"family": "landscape", "land": scene.land}
    text = str(rng.choice(LAND_WORDS[language][scene.land]))
    if scene.mountains:
        labels["mountains"] = "mountains"
        text += (" " if english else "，") + str(rng.choice(MOUNTAIN_WORDS[language]))
    if scene.animal is not None:
        labels["animal"] = scene.animal
        animal = str(rng.choice(ANIMAL_WORDS[language][scene.animal]))
        if english:
            animal = f"{'an' if animal == 'ox' else 'a'} {animal}"
        text += str(rng.choice(ANIMAL_PLACES[language])).format(animal=animal)
    if scene.hour != "day" or rng.random() < 0.35:
        labels["hour"] = scene.hour
        hour = str(rng.choice(HOUR_WORDS[language][scene.hour]))
        comma = ", " if english else "，"
        if rng.random() < (0.4 if english else 0.7):
            return Caption(_finish(f"{hour}{comma}{style}{text}", language, rng), language, labels)
        text += (" " if english else comma) + hour
    return Caption(_finish(style + text, language, rng), language, labels)


def _finish(text: str, language: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.4 and not text.endswith((".", "。")):
        text += "." if language == "en" else "。"
    return text

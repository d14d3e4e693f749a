"""Fills in what a prompt for the demo model leaves out, in the words of its captions."""

import re
from collections.abc import Iterable
from typing import Final

import numpy as np

from pipelines.demo.scenes import COLOURS
from pipelines.demo.words import (
    ANIMAL_WORDS,
    CHINESE_VERBS,
    COLOUR_WORDS,
    HOUR_WORDS,
    LAND_WORDS,
    MOUNTAIN_WORDS,
    PARTICIPLES,
    SHAPE_WORDS,
    SIZE_WORDS,
    VERBS,
)

_CHINESE: Final = re.compile(r"[\u4e00-\u9fff]")
_ENDS: Final = " \t\r\n.,;!?。，；！？…"


def _any_of(words: Iterable[str], language: str) -> "re.Pattern[str]":
    """Finds one of the words, longer ones first; words of an alphabet are whole ones, in one or many."""
    listed = "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
    return re.compile(rf"\b(?:{listed})s?\b" if language == "en" else f"(?:{listed})", re.IGNORECASE)


def _flat(words: dict[str, tuple[str, ...]]) -> list[str]:
    return [word for each in words.values() for word in each]


def _patterns(language: str, **more: Iterable[str]) -> "dict[str, re.Pattern[str]]":
    motions = [*_flat(PARTICIPLES), *_flat(VERBS)] if language == "en" else _flat(CHINESE_VERBS)
    words = {
        "shape": _flat(SHAPE_WORDS[language]),
        "colour": _flat(COLOUR_WORDS[language]),
        "size": _flat(SIZE_WORDS[language]),
        "motion": motions,
        "animal": _flat(ANIMAL_WORDS[language]),
        "hour": _flat(HOUR_WORDS[language]),
    }
    return {name: _any_of([*words.get(name, ()), *more.get(name, ())], language) for name in {*words, *more}}


_NAMES: Final = {
    "en": _patterns(
        "en",
        shape=("shape", "thing", "object"),
        motion=("left", "right", "upward", "downward", "rise", "fall", "grow", "expand", "move", "moving", "moves"),
        two=("two", "pair", "both"),
        background=("background", "backdrop", "wall", "screen", "canvas"),
        land=("lake", "meadow", "field", "grassland", "grass", "pasture", "water"),
        mountains=("mountain", "peak", "hill"),
        animal=("animal", "cow", "oxen", "bull", "ducks"),
        hour=("day", "daylight", "sunny", "noon", "sunset", "sunrise", "dusk", "dawn", "evening", "morning", "night",
              "moon", "moonlight"),
    ),
    "zh": _patterns(
        "zh",
        shape=("图形", "物体"),
        motion=("移动", "滑动", "向左", "向右", "往左", "往右", "上升", "下降"),
        two=("两", "一对"),
        background=("背景", "画布", "墙"),
        land=("湖", "草地", "草原", "牧场", "水面"),
        mountains=("山",),
        animal=("牛", "马", "羊", "鸭"),
        hour=("白天", "晴", "阳光", "蓝天", "日落", "日出", "黄昏", "傍晚", "夕阳", "夜", "月", "晚上", "清晨", "早晨"),
    ),
}  # fmt: skip
"""What tells that a prompt names something, also in words that no caption has."""


_COLOURED: Final = re.compile(
    rf"{_NAMES['en']['colour'].pattern}\s+(?:{_NAMES['en']['size'].pattern}\s+)?$"
    rf"|{_NAMES['zh']['colour'].pattern}的?(?:{_NAMES['zh']['size'].pattern})?$",
    re.IGNORECASE,
)
_ON_COLOUR: Final = re.compile(
    rf"\b(?:on|over|against|in front of|everything is)\s+(?:a\s+)?(?:plain\s+)?{_NAMES['en']['colour'].pattern}",
    re.IGNORECASE,
)
_SIZED: Final = re.compile(rf"{_NAMES['zh']['size'].pattern}$")
_AN: Final = re.compile(r"\b([Aa])n\s+$")


def complete(prompt: str, seed: int, *, begins_with_image: bool = False) -> str:
    """A prompt with what it leaves out, chosen by the seed: behind its own words, but for the colour of a shape.

    A shape gets a colour, a background and a motion; anything else becomes a landscape with mountains at some hour. Of
    a video that begins with an image only a shape's motion is open. What names everything stays as it is.
    """
    language = "zh" if _CHINESE.search(prompt) else "en"
    names, rng = _NAMES[language], np.random.default_rng(seed)
    is_landscape = any(names[name].search(prompt) for name in ("land", "mountains", "animal"))
    shapes = [] if is_landscape else list(names["shape"].finditer(prompt))
    if shapes:
        whole = _with_shape(prompt, shapes, language, rng, is_open=not begins_with_image)
    else:
        whole = prompt if begins_with_image else _with_landscape(prompt, language, rng)
    return whole


def _with_shape(
    prompt: str, shapes: "list[re.Match[str]]", language: str, rng: np.random.Generator, *, is_open: bool
) -> str:
    names, english, added = _NAMES[language], language == "en", list[str]()
    is_single = len(shapes) == 1 and not names["two"].search(prompt)
    if is_single and not names["motion"].search(prompt):
        motions = PARTICIPLES if english else CHINESE_VERBS
        added.append(_one(rng, motions[_one(rng, tuple(motions))]))
    if is_open:
        taken = {name for name, words in COLOUR_WORDS[language].items() if _any_of(words, language).search(prompt)}
        if not names["background"].search(prompt) and not _ON_COLOUR.search(prompt):
            background = _other(taken, rng)
            said = _one(rng, COLOUR_WORDS[language][background])
            added.append(f"{said} background" if english else f"{said}背景")
            taken.add(background)
        if len(shapes) == 1:
            prompt = _with_colour(prompt, shapes[0].start(), _one(rng, COLOUR_WORDS[language][_other(taken, rng)]))
    return _joined(prompt, added, language)


def _with_colour(prompt: str, shape: int, colour: str) -> str:
    """A prompt whose shape, which begins at `shape`, has a colour; unless it has one."""
    before, after = prompt[:shape], prompt[shape:]
    if _COLOURED.search(before):
        return prompt
    if _CHINESE.search(prompt):
        sized = _SIZED.search(before)
        at = sized.start() if sized else shape
        return f"{prompt[:at]}{colour}的{prompt[at:]}"
    article = _AN.sub(r"\1 ", before)
    return f"{article}{colour} {after}"


def _with_landscape(prompt: str, language: str, rng: np.random.Generator) -> str:
    names, english, added = _NAMES[language], language == "en", list[str]()
    if not names["land"].search(prompt):
        lands = LAND_WORDS[language]
        added.append(_one(rng, lands[_one(rng, tuple(lands))]))
    hours = HOUR_WORDS[language]
    hour = _one(rng, hours[_one(rng, tuple(hours))])
    # what begins with "and" belongs to what stands right before it, which the prompt chooses
    mountains = _one(rng, [words for words in MOUNTAIN_WORDS[language] if not words.startswith("and ")])
    if not names["mountains"].search(prompt):
        if english and added:
            added[0] = f"{added[0]} {mountains}"
        else:
            added.append(mountains)
    if not names["hour"].search(prompt):
        added.append(hour)
    return _joined(prompt, added, language)


def _joined(prompt: str, added: list[str], language: str) -> str:
    if not added:
        return prompt
    comma, stop = (", ", ".") if language == "en" else ("，", "。")
    return comma.join(part for part in (prompt.rstrip(_ENDS), *added) if part) + stop


def _other(taken: set[str], rng: np.random.Generator) -> str:
    """A colour that is not taken, if there is one."""
    return _one(rng, [name for name in COLOURS if name not in taken] or list(COLOURS))


def _one(rng: np.random.Generator, among: "tuple[str, ...] | list[str]") -> str:
    return among[int(rng.integers(len(among)))]

"""Fills in what a prompt for the demo model leaves out, in the words of its captions."""

import re
from collections.abc import Iterable
from random import Random
from typing import Final

from pipelines.demo.scenes import COLOURS
from pipelines.demo.sentences import PAIR_SENTENCES, SHAPE_SENTENCES
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

_ENDS: Final = " \t\r\n.,;!?。，；！？…"
_HAN: Final = re.compile(r"[\u4e00-\u9fff]")
_WORD: Final = re.compile(r"[^\W\d_]+")
_AN: Final = re.compile(r"\b([Aa])n\s+$")
_QUOTED: Final = re.compile(
    r"\"[^\"\n]+\"|“[^“”\n]+”|「[^「」\n]+」|『[^『』\n]+』|《[^《》\n]+》|‘[^‘’\n]+’|(?<!\w)'[^'\n]+'(?!\w)"
)


def _any_of(words: Iterable[str], language: str) -> str:
    """A pattern of one of the words, longer ones first; words of an alphabet are whole ones, in one or many."""
    listed = "|".join(re.escape(word) for word in sorted(set(words), key=len, reverse=True))
    return rf"\b(?:{listed})s?\b" if language == "en" else f"(?:{listed})"


def _flat(words: dict[str, tuple[str, ...]]) -> list[str]:
    return [word for each in words.values() for word in each]


def _words(language: str, **more: tuple[str, ...]) -> dict[str, str]:
    motions = [*_flat(PARTICIPLES), *_flat(VERBS)] if language == "en" else _flat(CHINESE_VERBS)
    known = {
        "shape": _flat(SHAPE_WORDS[language]),
        "colour": _flat(COLOUR_WORDS[language]),
        "size": _flat(SIZE_WORDS[language]),
        "motion": motions,
        "animal": _flat(ANIMAL_WORDS[language]),
        "hour": _flat(HOUR_WORDS[language]),
    }
    return {name: _any_of([*known.get(name, ()), *more.get(name, ())], language) for name in {*known, *more}}


_WORDS: Final = {
    "en": _words(
        "en",
        shape=("shape", "thing", "object"),
        motion=("left", "right", "upward", "downward", "rise", "fall", "grow", "expand", "move", "moving", "bigger",
                "larger"),
        two=("two", "pair", "both"),
        ground=("background", "backdrop", "wall", "screen", "canvas", "picture"),
        land=("lake", "meadow", "field", "grassland", "grass", "pasture"),
        mountains=("mountain", "peak", "hill"),
        animal=("animal", "cow", "oxen", "bull", "duck"),
        hour=("day", "daylight", "sunny", "noon", "sunset", "sunrise", "dusk", "dawn", "evening", "morning", "night",
              "moon", "moonlight"),
    ),
    "zh": _words(
        "zh",
        shape=("图形", "东西", "物体"),
        motion=("移动", "滑动", "向左", "向右", "往左", "往右", "上升", "下降"),
        two=("两", "一对"),
        ground=("背景", "画布", "墙"),
        land=("湖", "草地", "草原", "牧场"),
        mountains=("山",),
        animal=("牛", "马", "羊", "鸭"),
        hour=("白天", "晴", "阳光", "蓝天", "日落", "日出", "黄昏", "傍晚", "夕阳", "夜", "月", "晚上", "清晨", "早晨"),
    ),
}  # fmt: skip
"""What tells that a prompt names something, also in words that no caption has."""

_NAMES: Final = {
    language: {name: re.compile(pattern, re.IGNORECASE) for name, pattern in words.items()}
    for language, words in _WORDS.items()
}

_EN, _ZH = _WORDS["en"], _WORDS["zh"]
_GROUND: Final = {
    # a colour that belongs to what is behind the shape
    "en": re.compile(
        rf"\b(?:on|over|against|in front of|everything is)\s+(?:an?\s+|the\s+)?(?:plain\s+)?{_EN['colour']}(?=\s*"
        rf"(?:$|[^\w\s]|{_EN['ground']}|except\b))|{_EN['colour']}\s+{_EN['ground']}|{_EN['ground']}\s+"
        rf"(?:should\s+be|is)\s+{_EN['colour']}|\bon\s+{_EN['colour']}",
        re.IGNORECASE,
    ),
    "zh": re.compile(rf"{_ZH['colour']}的?{_ZH['ground']}|{_ZH['ground']}[是为]?{_ZH['colour']}"),
}
_COLOURS: Final = {
    language: {name: re.compile(_any_of(words, language), re.IGNORECASE) for name, words in colours.items()}
    for language, colours in COLOUR_WORDS.items()
}
_SIZED: Final = re.compile(rf"{_ZH['size']}$")


def _shape_vocabulary() -> dict[str, set[str]]:
    """The words (of Chinese the characters) of captions about shapes."""
    english = [
        *SHAPE_SENTENCES["en"],
        *PAIR_SENTENCES["en"],
        *_flat(PARTICIPLES),
        *_flat(VERBS),
        "an shape thing object",
    ]
    chinese = [*SHAPE_SENTENCES["zh"], *PAIR_SENTENCES["zh"], *_flat(CHINESE_VERBS), "图形东西物体的"]
    english += [word for words in (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS) for word in _flat(words["en"])]
    chinese += [word for words in (SHAPE_WORDS, COLOUR_WORDS, SIZE_WORDS) for word in _flat(words["zh"])]
    return {
        "en": {word.lower() for text in english for word in _WORD.findall(re.sub(r"\{\w+\}", " ", text))},
        "zh": {letter for text in chinese for letter in _HAN.findall(text)},
    }


_SHAPE_VOCABULARY: Final = _shape_vocabulary()


def complete(prompt: str, seed: int, language: str, *, begins_with_image: bool = False) -> str:
    """A prompt in `language` (en or zh) with what it leaves out, chosen by the seed; as it is if that is nothing.

    What is added stands behind its own words, but for the colour of a shape. A shape gets a colour, a background and a
    motion, and a landscape mountains and an hour; a prompt about something else gets nothing. Of a video that begins
    with an image only a shape's motion is open. What is quoted is no part of the scene.
    """
    names, rng = _NAMES[language], Random(seed)  # noqa: S311
    # of the same length: what is found has its place in the prompt
    scene = _QUOTED.sub(lambda quoted: "\0" * len(quoted[0]), prompt)
    if any(names[name].search(scene) for name in ("land", "mountains", "animal")):
        return prompt if begins_with_image else _with_landscape(prompt, scene, language, rng)
    if not _is_about_shapes(scene, language):
        return prompt
    shapes = [found.start() for found in names["shape"].finditer(scene)]
    return _with_shape(prompt, scene, shapes, language, rng, is_open=not begins_with_image)


def _is_about_shapes(scene: str, language: str) -> bool:
    """Whether a shape is named, in no other words than those of captions: many a word means something else, too."""
    words = {word.lower() for word in _WORD.findall(scene)} if language == "en" else {*_HAN.findall(scene)}
    return words <= _SHAPE_VOCABULARY[language] and _NAMES[language]["shape"].search(scene) is not None


def _with_shape(prompt: str, scene: str, shapes: list[int], language: str, rng: Random, *, is_open: bool) -> str:
    names, english, added = _NAMES[language], language == "en", list[str]()
    is_single = len(shapes) == 1 and not names["two"].search(scene)
    if is_single and not names["motion"].search(scene):
        motions = PARTICIPLES if english else CHINESE_VERBS
        added.append(_one(rng, motions[_one(rng, tuple(motions))]))
    if is_open:
        taken = {name for name, pattern in _COLOURS[language].items() if pattern.search(scene)}
        # what is left of the colours is the shape's
        is_coloured = names["colour"].search(_GROUND[language].sub(" ", scene)) is not None
        if not _GROUND[language].search(scene) and not names["ground"].search(scene):
            background = _other(taken, rng)
            said = _one(rng, COLOUR_WORDS[language][background])
            added.append(f"{said} background" if english else f"{said}背景")
            taken.add(background)
        if len(shapes) == 1 and not is_coloured:
            prompt = _with_colour(prompt, shapes[0], _one(rng, COLOUR_WORDS[language][_other(taken, rng)]), language)
    return _joined(prompt, added, language)


def _with_colour(prompt: str, shape: int, colour: str, language: str) -> str:
    """A prompt whose shape, which begins at `shape`, has a colour."""
    before, after = prompt[:shape], prompt[shape:]
    if language == "zh":
        sized = _SIZED.search(before)
        at = sized.start() if sized else shape
        return f"{prompt[:at]}{colour}的{prompt[at:]}"
    article = _AN.sub(r"\1 ", before)
    return f"{article}{colour} {after}"


def _with_landscape(prompt: str, scene: str, language: str, rng: Random) -> str:
    names, english, added = _NAMES[language], language == "en", list[str]()
    if not names["land"].search(scene):
        lands = LAND_WORDS[language]
        added.append(_one(rng, lands[_one(rng, tuple(lands))]))
    hours = HOUR_WORDS[language]
    hour = _one(rng, hours[_one(rng, tuple(hours))])
    # what begins with "and" belongs to what stands right before it, which the prompt chooses
    mountains = _one(rng, [words for words in MOUNTAIN_WORDS[language] if not words.startswith("and ")])
    if not names["mountains"].search(scene):
        if english and added:
            added[0] = f"{added[0]} {mountains}"
        else:
            added.append(mountains)
    if not names["hour"].search(scene):
        added.append(hour)
    return _joined(prompt, added, language)


def _joined(prompt: str, added: list[str], language: str) -> str:
    if not added:
        return prompt
    comma, stop = (", ", ".") if language == "en" else ("，", "。")
    return comma.join((prompt.rstrip(_ENDS), *added)) + stop


def _other(taken: set[str], rng: Random) -> str:
    """A colour that is not taken, if there is one."""
    return _one(rng, [name for name in COLOURS if name not in taken] or list(COLOURS))


def _one(rng: Random, among: "tuple[str, ...] | list[str]") -> str:
    return among[rng.randrange(len(among))]

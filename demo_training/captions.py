"""Words for scenes, in English and Chinese, in many wordings; some wordings are kept for evaluation.

A caption may leave things out. What a shape caption leaves out is drawn at random in its clip; what a landscape
caption leaves out is not there (no animal, no mountains) or is plain (day).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from demo_training.clips import Scene
from demo_training.landscapes import ANIMALS, HOURS, LANDS, Landscape
from demo_training.shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES, ShapeScene

LANGUAGES: Final = ("en", "zh")

Sentences: TypeAlias = Mapping[str, Sequence[str]]
"""Wordings by language, with places for what a scene shows."""

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
"""What a caption can name, and its values; a caption's labels hold only what it names."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A prompt, and what it names: attribute → value."""

    text: str
    language: str
    labels: dict[str, str]


_SHAPE_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "circle": ("circle", "circle", "disc", "ball"),
        "ring": ("ring", "ring", "hoop"),
        "bar": ("bar", "bar", "rod", "stick"),
    },
    "zh": {
        "circle": ("圆形", "圆盘", "圆球"),
        "ring": ("圆环", "环形", "环"),
        "bar": ("长条", "长棍", "棍子"),
    },
}
_COLOUR_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {name: (name,) for name in (*COLOURS, "black")} | {"grey": ("grey", "gray")},
    "zh": {
        "red": ("红色", "红色", "红"),
        "yellow": ("黄色", "黄色", "黄"),
        "green": ("绿色", "绿色", "绿"),
        "blue": ("蓝色", "蓝色", "蓝"),
        "purple": ("紫色", "紫色", "紫"),
        "white": ("白色", "白色", "白"),
        "black": ("黑色", "黑色", "黑"),
        "grey": ("灰色", "灰色", "灰"),
    },
}
_SIZE_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "zh": {"small": ("小", "小小的", "很小的"), "large": ("大", "大大的", "巨大的")},
}
_DOING: Final = {
    "left": ("moving left", "moving to the left", "sliding left", "drifting to the left", "going left"),
    "right": ("moving right", "moving to the right", "sliding right", "drifting to the right", "going right"),
    "up": ("moving up", "moving upwards", "rising", "going up", "sliding up"),
    "down": ("moving down", "moving downwards", "falling", "going down", "sliding down"),
    "growing": ("growing", "growing larger", "getting bigger", "expanding"),
}
_DOES: Final = {
    "left": ("moves left", "moves to the left", "slides left", "drifts to the left", "goes left"),
    "right": ("moves right", "moves to the right", "slides right", "drifts to the right", "goes right"),
    "up": ("moves up", "moves upwards", "rises", "goes up", "slides up"),
    "down": ("moves down", "moves downwards", "falls", "goes down", "slides down"),
    "growing": ("grows", "grows larger", "gets bigger", "expands"),
}
_CHINESE_MOTIONS: Final = {
    "left": ("向左移动", "往左移动", "向左滑动", "朝左边移动", "往左边走"),
    "right": ("向右移动", "往右移动", "向右滑动", "朝右边移动", "往右边走"),
    "up": ("向上移动", "往上移动", "上升", "向上滑动", "升起"),
    "down": ("向下移动", "往下移动", "下降", "向下滑动", "落下"),
    "growing": ("变大", "逐渐变大", "越来越大", "放大"),
}

_SENTENCES: Final = {
    "en": (
        "a {thing} {doing} on a {background} background",
        "a {thing} {doing} against a {background} backdrop",
        "a {thing} is {doing} on a {background} background",
        "{background} background, {thing} {doing}",
        "on a {background} background, a {thing} {does}",
        "a video of a {thing} {doing} over a {background} background",
        "the {thing} {does}. The background is {background}.",
        "a {thing} {does} in front of a {background} wall",
        "animation of a {thing} that {does}, {background} background",
        "the background is {background} and a {thing} is {doing}",
        "a {thing} {does} across a {background} screen",
        "{doing}: a {thing} on {background}",
        "a {background} canvas with a {thing} {doing}",
        "simple clip, {thing}, {doing}, {background} backdrop",
        "everything is {background} except a {thing} {doing}",
        "there is a {thing} {doing} on a plain {background} background",
        "{thing}, {doing}, and the backdrop is {background}",
        "draw a {thing}; it {does}; the background should be {background}",
        "a {background} picture where a {thing} is {doing}",
        "make a {thing}, {doing}, in front of {background}",
    ),
    "zh": (
        "{background}背景上，一个{thing}{doing}",
        "一个{thing}在{background}背景上{doing}",
        "{background}的背景，{thing}{doing}",
        "一个{thing}{doing}，背景是{background}",
        "在{background}背景前，有一个{thing}正在{doing}",
        "视频：{thing}{doing}，{background}背景",
        "画面中一个{thing}{doing}，背景为{background}",
        "背景是{background}的，一个{thing}在{doing}",
        "{thing}在{background}的画布上{doing}",
        "动画，{background}背景，一个{thing}慢慢地{doing}",
        "{background}墙前面，{thing}{doing}着",
        "有一个{thing}，它在{doing}，背景{background}",
        "{background}为背景，{thing}{doing}",
    ),
}
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
"""Wordings that training never uses, but that its curves were watched on."""

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
"""Wordings that training never uses, written when it was done: what the weights are judged by."""

_PAIRS: Final = {
    "en": (
        "a {left} and a {right} on a {background} background",
        "a {left} on the left and a {right} on the right, {background} background",
        "two shapes on {background}: a {left} and a {right}",
        "a {left} beside a {right} against a {background} backdrop",
        "a {left} next to a {right}, the background is {background}",
    ),
    "zh": (
        "{background}背景上，左边一个{left}，右边一个{right}",
        "一个{left}和一个{right}，背景是{background}",
        "{left}和{right}在{background}背景上",
        "两个图形：{left}与{right}，{background}背景",
    ),
}


def describe(scene: Scene, language: str, rng: np.random.Generator) -> Caption:
    """A caption for training."""
    if isinstance(scene, Landscape):
        return _describe_landscape(scene, language, rng)
    if len(scene.things) == 2:
        return _describe_pair(scene, language, rng)
    named = {"thing", "background", "motion"}
    if rng.random() < 0.22:
        keep = rng.random(3) < 0.55
        named = {name for name, kept in zip(("thing", "background", "motion"), keep, strict=True) if kept}
    if named == {"thing", "background", "motion"} and rng.random() < 0.92:
        sentence = str(rng.choice(_SENTENCES[language]))
        return _fill(sentence, scene, language, rng)
    return _describe_part(scene, language, rng, named)


def describe_held_out(
    scene: ShapeScene, language: str, rng: np.random.Generator, sentences: Sentences = HELD_OUT_SENTENCES
) -> Caption:
    """A full caption of one thing, in a wording that training never uses."""
    return _fill(str(rng.choice(sentences[language])), scene, language, rng)


def _fill(sentence: str, scene: ShapeScene, language: str, rng: np.random.Generator) -> Caption:
    assert scene.motion is not None
    thing, labels = _thing(scene, 0, language, rng)
    if language == "en":
        doing, does = str(rng.choice(_DOING[scene.motion])), str(rng.choice(_DOES[scene.motion]))
    else:
        doing = does = str(rng.choice(_CHINESE_MOTIONS[scene.motion]))
    background = _colour(scene.background, language, rng)
    text = sentence.format(thing=thing, doing=doing, does=does, background=background)
    labels |= {"family": "shape", "background": scene.background, "motion": scene.motion}
    return Caption(_finish(text, language, rng), language, labels)


def _thing(scene: ShapeScene, index: int, language: str, rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    thing = scene.things[index]
    colour, shape = _colour(thing.colour, language, rng), str(rng.choice(_SHAPE_WORDS[language][thing.shape]))
    labels = {"shape": thing.shape, "colour": thing.colour}
    size = ""
    if len(scene.things) == 1 and scene.motion != "growing":
        name = min(SIZES, key=lambda size: abs(SIZES[size] - thing.radius))
        if name != "medium" and rng.random() < 0.85:
            size = str(rng.choice(_SIZE_WORDS[language][name]))
            labels["size"] = name
    if language == "en":
        return " ".join(word for word in (size, colour, shape) if word), labels
    joint = "的" if rng.random() < 0.6 and not size.endswith("的") else ""
    if size.endswith("的"):
        return f"{size}{colour}{shape}", labels
    return f"{colour}{joint}{size}{shape}", labels


def _colour(name: str, language: str, rng: np.random.Generator) -> str:
    return str(rng.choice(_COLOUR_WORDS[language][name]))


def _describe_part(scene: ShapeScene, language: str, rng: np.random.Generator, named: set[str]) -> Caption:
    """A caption that leaves out some of thing, background and motion, or the thing's shape or colour."""
    thing, labels = scene.things[0], {"family": "shape"}
    english = language == "en"
    colour = shape = ""
    if "thing" in named:
        only = rng.random()
        if only < 0.65:
            colour, labels["colour"] = _colour(thing.colour, language, rng), thing.colour
        if only > 0.35:
            shape, labels["shape"] = str(rng.choice(_SHAPE_WORDS[language][thing.shape])), thing.shape
    noun = shape or str(rng.choice(("shape", "thing", "object") if english else ("图形", "东西", "物体")))
    if english:
        text = f"a {colour} {noun}" if colour else f"a {noun}"
    else:
        text = f"{colour}的{noun}" if colour else f"一个{noun}"
    if colour and not shape and not (named & {"motion", "background"}) and rng.random() < 0.5:
        text = colour
    if "motion" in named and scene.motion is not None:
        labels["motion"] = scene.motion
        words = _DOING if english else _CHINESE_MOTIONS
        text += (" " if english else "") + str(rng.choice(words[scene.motion]))
    if "background" in named:
        labels["background"] = scene.background
        name = _colour(scene.background, language, rng)
        text += f" on a {name} background" if english else f"，{name}背景"
    return Caption(_finish(text, language, rng), language, labels)


def _describe_pair(scene: ShapeScene, language: str, rng: np.random.Generator) -> Caption:
    (left, first), (right, second) = (_thing(scene, index, language, rng) for index in (0, 1))
    background = _colour(scene.background, language, rng)
    text = str(rng.choice(_PAIRS[language])).format(left=left, right=right, background=background)
    labels = {"family": "pair", "background": scene.background, **first}
    labels |= {f"second_{name}": value for name, value in second.items()}
    return Caption(_finish(text, language, rng), language, labels)


_HOUR_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "day": ("by daylight", "on a sunny day", "at noon", "under a blue sky"),
        "sunset": ("at sunset", "at dusk", "with evening light", "under a sunset sky"),
        "night": ("at night", "by moonlight", "under the moon", "under a night sky"),
    },
    "zh": {
        "day": ("白天", "晴天", "阳光下", "蓝天下"),
        "sunset": ("日落时", "黄昏", "傍晚", "夕阳下"),
        "night": ("夜晚", "月光下", "晚上", "夜里"),
    },
}
_LAND_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "lake": ("a lake", "a calm lake", "a quiet lake", "a serene blue lake", "a still lake"),
        "meadow": ("a meadow", "a green meadow", "a grassy field", "a quiet meadow", "grassland"),
    },
    "zh": {
        "lake": ("湖", "平静的湖", "宁静的湖泊", "湖水", "蓝色的湖面"),
        "meadow": ("草地", "草原", "绿色的草地", "宁静的草原", "牧场"),
    },
}
_MOUNTAIN_WORDS: Final = {
    "en": (
        "with mountains behind",
        "below tall mountains",
        "with snowy mountains far away",
        "and mountains",
        "surrounded by mountains",
        "and a background of mountains",
    ),
    "zh": ("远处有山", "背景是群山", "后面是雪山", "远处是高山", "群山环绕"),
}
_ANIMAL_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {"ox": ("ox", "ox", "bull"), "horse": ("horse",), "sheep": ("sheep",), "duck": ("duck",)},
    "zh": {"ox": ("一头牛", "牛", "一头公牛"), "horse": ("一匹马", "马"), "sheep": ("一只羊", "绵羊"),
           "duck": ("一只鸭子", "鸭子")},
}  # fmt: skip
_ANIMAL_PLACES: Final = {
    "en": (
        ", {animal} standing close by",
        "; in the foreground stands {animal}",
        ", {animal} up front",
        " with {animal} near the viewer",
        ", foreground: {animal}",
        " where {animal} stands",
        " and {animal}",
    ),
    "zh": ("，前景有{animal}", "，前面站着{animal}", "，近处是{animal}", "，还有{animal}", "，{animal}在前面"),
}
_STYLES: Final = {
    "en": (
        "", "a painting: ", "a landscape, ", "a beautiful view of ", "a drawing of ", "a peaceful picture of ",
        "painted scenery: ", "a beautiful painting showing ", "a landscape painting with ", "a video of ",
    ),
    "zh": ("", "一幅画：", "风景画，", "美丽的风景：", "一幅美丽的画，", "视频：", "画着"),
}  # fmt: skip


def _describe_landscape(scene: Landscape, language: str, rng: np.random.Generator) -> Caption:
    english = language == "en"
    style = str(rng.choice(_STYLES[language]))
    labels = {"family": "landscape", "land": scene.land}
    text = str(rng.choice(_LAND_WORDS[language][scene.land]))
    if scene.mountains:
        labels["mountains"] = "mountains"
        text += (" " if english else "，") + str(rng.choice(_MOUNTAIN_WORDS[language]))
    if scene.animal is not None:
        labels["animal"] = scene.animal
        animal = str(rng.choice(_ANIMAL_WORDS[language][scene.animal]))
        if english:
            animal = f"{'an' if animal == 'ox' else 'a'} {animal}"
        text += str(rng.choice(_ANIMAL_PLACES[language])).format(animal=animal)
    if scene.hour != "day" or rng.random() < 0.35:
        labels["hour"] = scene.hour
        hour = str(rng.choice(_HOUR_WORDS[language][scene.hour]))
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

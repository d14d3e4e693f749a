"""The words of captions, in English and Chinese: for each thing that a clip can show a list to choose from at random.

A word that is listed twice is chosen twice as often.
"""

from typing import Final

from pipelines.demo.scenes import COLOURS

LANGUAGES: Final = ("en", "zh")


SHAPE_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "circle": ("circle", "circle", "disc", "ball"),
        "ring": ("ring", "ring", "hoop"),
        "bar": ("bar", "bar", "rod", "stick"),
        "square": ("square", "square", "box"),
    },
    "zh": {
        "circle": ("圆形", "圆盘", "圆球"),
        "ring": ("圆环", "环形", "环"),
        "bar": ("长条", "长棍", "棍子"),
        "square": ("正方形", "方块", "方形"),
    },
}


COLOUR_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {name: (name,) for name in COLOURS} | {"grey": ("grey", "gray")},
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


SIZE_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")},
    "zh": {"small": ("小", "小小的", "很小的"), "large": ("大", "大大的", "巨大的")},
}


PARTICIPLES: Final = {
    "left": ("moving left", "moving to the left", "sliding left", "drifting to the left", "going left"),
    "right": ("moving right", "moving to the right", "sliding right", "drifting to the right", "going right"),
    "up": ("moving up", "moving upwards", "rising", "going up", "sliding up"),
    "down": ("moving down", "moving downwards", "falling", "going down", "sliding down"),
    "growing": ("growing", "growing larger", "getting bigger", "expanding"),
}


VERBS: Final = {
    "left": ("moves left", "moves to the left", "slides left", "drifts to the left", "goes left"),
    "right": ("moves right", "moves to the right", "slides right", "drifts to the right", "goes right"),
    "up": ("moves up", "moves upwards", "rises", "goes up", "slides up"),
    "down": ("moves down", "moves downwards", "falls", "goes down", "slides down"),
    "growing": ("grows", "grows larger", "gets bigger", "expands"),
}


CHINESE_VERBS: Final = {
    "left": ("向左移动", "往左移动", "向左滑动", "朝左边移动", "往左边走"),
    "right": ("向右移动", "往右移动", "向右滑动", "朝右边移动", "往右边走"),
    "up": ("向上移动", "往上移动", "上升", "向上滑动", "升起"),
    "down": ("向下移动", "往下移动", "下降", "向下滑动", "落下"),
    "growing": ("变大", "逐渐变大", "越来越大", "放大"),
}


HOUR_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
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


LAND_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "lake": ("a lake", "a calm lake", "a quiet lake", "a serene blue lake", "a still lake"),
        "meadow": ("a meadow", "a green meadow", "a grassy field", "a quiet meadow", "grassland"),
    },
    "zh": {
        "lake": ("湖", "平静的湖", "宁静的湖泊", "湖水", "蓝色的湖面"),
        "meadow": ("草地", "草原", "绿色的草地", "宁静的草原", "牧场"),
    },
}


MOUNTAIN_WORDS: Final = {
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


ANIMAL_WORDS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {"ox": ("ox", "ox", "bull"), "horse": ("horse",), "sheep": ("sheep",), "duck": ("duck",)},
    "zh": {"ox": ("一头牛", "牛", "一头公牛"), "horse": ("一匹马", "马"), "sheep": ("一只羊", "绵羊"),
           "duck": ("一只鸭子", "鸭子")},
}  # fmt: skip


ANIMAL_PLACES: Final = {
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


STYLES: Final = {
    "en": (
        "", "a painting: ", "a landscape, ", "a beautiful view of ", "a drawing of ", "a peaceful picture of ",
        "painted scenery: ", "a beautiful painting showing ", "a landscape painting with ", "a video of ",
    ),
    "zh": ("", "一幅画：", "风景画，", "美丽的风景：", "一幅美丽的画，", "视频：", "画着"),
}  # fmt: skip

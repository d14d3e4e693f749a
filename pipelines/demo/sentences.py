"""The sentences of captions about shapes, in English and Chinese, with placeholders for what they show."""

from typing import Final

SHAPE_SENTENCES: Final = {
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
"""What is said of one shape that moves."""


PAIR_SENTENCES: Final = {
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
"""What is said of two shapes side by side."""

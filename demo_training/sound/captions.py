"""Captions of sounds, in English and Chinese: names of a sound, alone or after a caption of the demo's clips.

A caption without a sound has the one that fits its scene: water at a lake, birds on a meadow by day, wind at sunset,
crickets at night, beeps for plain shapes.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from demo_training.clips import sample_scene
from demo_training.sound.sounds import KINDS
from demo_training.vocabulary import COMMON_ENGLISH
from pipelines.demo.grammar import Sentences, describe
from pipelines.demo.scenes import Landscape, Scene

NAMES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "en": {
        "water": ("water", "running water", "flowing water", "a stream", "a bubbling stream", "a brook",
                  "a small river", "a babbling brook", "trickling water", "a fountain", "splashing water"),
        "wind": ("wind", "the wind", "a strong wind", "blowing wind", "wind blowing", "a breeze", "howling wind",
                 "gusts of wind", "a windy day", "a storm"),
        "birds": ("birds", "a bird", "a bird singing", "birds singing", "birdsong", "chirping birds", "singing birds",
                  "a songbird", "twittering birds", "birds chirping"),
        "crickets": ("crickets", "a cricket", "chirping crickets", "crickets chirping", "insects", "night insects",
                     "cicadas", "insects at night", "grasshoppers"),
        "beeps": ("beeps", "a beep", "beeping", "electronic beeps", "short beeps", "a beeping machine",
                  "computer beeps", "an alarm", "an alarm clock", "a signal tone"),
        "waves": ("waves", "sea waves", "ocean waves", "the sea", "the ocean", "surf", "breaking waves",
                  "waves on a beach", "waves on the shore", "rolling waves"),
    },
    "zh": {
        "water": ("水声", "流水声", "流水的声音", "溪水声", "小溪流水声", "泉水声", "潺潺的流水声", "水流声",
                  "小河的水声"),
        "wind": ("风声", "大风声", "微风声", "呼呼的风声", "刮风的声音", "狂风的声音", "风吹的声音", "风的声音"),
        "birds": ("鸟叫声", "鸟鸣", "鸟鸣声", "小鸟的叫声", "鸟儿唱歌的声音", "叽叽喳喳的鸟叫", "鸟的叫声", "鸟语"),
        "crickets": ("蟋蟀声", "蟋蟀的叫声", "虫鸣", "虫鸣声", "虫叫声", "昆虫的叫声", "蝉鸣声", "夜里的虫鸣"),
        "beeps": ("哔哔声", "滴滴声", "嘟嘟声", "提示音", "电子提示音", "蜂鸣器的声音", "闹钟的滴滴声", "警报声"),
        "waves": ("海浪声", "波浪声", "浪花的声音", "海浪的声音", "大海的声音", "海水拍岸的声音", "潮水声",
                  "海浪拍打沙滩的声音"),
    },
}  # fmt: skip


SENTENCES: Final[Sentences] = {
    "en": (
        "{sound}", "{sound}", "the sound of {sound}", "sound of {sound}", "{sound} in the background",
        "we hear {sound}", "you can hear {sound}", "a recording of {sound}", "audio: {sound}", "sound: {sound}",
        "a clip with {sound}", "please make the sound of {sound}", "listen to {sound}", "{sound} far away",
        "{sound} and nothing else", "nothing but {sound}", "the noise of {sound}", "sounds like {sound}",
        "loud: {sound}", "quiet: {sound}",
    ),
    "zh": (
        "{sound}", "{sound}", "一段{sound}", "背景是{sound}", "听到{sound}", "可以听见{sound}", "{sound}的录音",
        "声音：{sound}", "请生成{sound}", "只有{sound}", "远处传来{sound}", "音频：{sound}", "有{sound}",
        "做一个{sound}", "{sound}，没有别的",
    ),
}  # fmt: skip
"""Wordings for a sound alone."""


SCENE_SENTENCES: Final[Sentences] = {
    "en": ("{scene}, with {sound}", "{scene}. Sound: {sound}", "{scene} and the sound of {sound}", "{sound}; {scene}",
           "{scene}, {sound}", "{scene}, we hear {sound}", "the sound of {sound}, {scene}"),
    "zh": ("{scene}，伴有{sound}", "{scene}，{sound}", "{sound}，{scene}", "{scene}。声音：{sound}",
           "{scene}，听到{sound}", "{scene}，还有{sound}"),
}  # fmt: skip
"""Wordings for a caption of a clip with a sound."""


CHECK_SENTENCES: Final[Sentences] = {
    "en": ("show me what {sound} is like", "make a short film sound: {sound}", "I want {sound} to be heard"),
    "zh": ("给我一段{sound}", "我要{sound}", "这里响着{sound}"),
}
"""Wordings for validation during training."""


HELD_OUT_SENTENCES: Final[Sentences] = {
    "en": (
        "could you play {sound} for me",
        "an ambience made of {sound}",
        "only {sound} can be heard here",
        "close your eyes and imagine {sound}",
        "a quiet place where one notices {sound}",
    ),
    "zh": (
        "请播放{sound}给我听",
        "四周回荡着{sound}",
        "我很想听听{sound}",
        "耳边响起{sound}",
        "安静的地方传来阵阵{sound}",
    ),
}
"""Wordings for the final evaluation."""


@dataclass(frozen=True, slots=True)
class SoundCaption:
    """A prompt and the kind of sound it asks for."""

    text: str
    language: str
    kind: str


def fitting(scene: Scene) -> str:
    """The kind of sound that fits a scene."""
    if not isinstance(scene, Landscape):
        return "beeps"
    if scene.land == "lake":
        return "water"
    return {"day": "birds", "sunset": "wind", "night": "crickets"}[scene.hour]


def name_sound(kind: str, language: str, rng: np.random.Generator, sentences: Sentences = SENTENCES) -> SoundCaption:
    """A random caption of a sound alone."""
    name = str(rng.choice(NAMES[language][kind]))
    return SoundCaption(str(rng.choice(sentences[language])).format(sound=name), language, kind)


def describe_sound(kind: str, language: str, rng: np.random.Generator) -> SoundCaption:
    """A random caption for a sound, as used in training: one in four has a scene, too."""
    if rng.random() < 0.75:
        return name_sound(kind, language, rng)
    scene = describe(sample_scene(rng), language, rng).text.rstrip(".。")
    name = str(rng.choice(NAMES[language][kind]))
    return SoundCaption(str(rng.choice(SCENE_SENTENCES[language])).format(scene=scene, sound=name), language, kind)


def describe_scene(kind: str, language: str, rng: np.random.Generator) -> SoundCaption:
    """A random caption of a clip whose fitting sound is of `kind`; waves fit none, and are named."""
    for _ in range(200):
        scene = sample_scene(rng)
        if fitting(scene) == kind and not (isinstance(scene, Landscape) and scene.hour == "day" and rng.random() < 0.3):
            return SoundCaption(describe(scene, language, rng).text, language, kind)
    return describe_sound(kind, language, rng)


def training_caption(kind: str, language: str, rng: np.random.Generator) -> SoundCaption:
    """A random caption of any sort; some have nonsense and filler words, so that unknown words do not mislead."""
    made = (describe_scene if rng.random() < 0.15 else describe_sound)(kind, language, rng)
    return _clutter(made, rng) if rng.random() < 0.3 else made


def _clutter(caption: SoundCaption, rng: np.random.Generator) -> SoundCaption:
    if caption.language == "en":
        words = caption.text.split()
        for _ in range(rng.integers(1, 5)):
            noise = "".join(rng.choice(list("etaoinshrdlcumwfgyp"), rng.integers(2, 8)))
            if rng.random() < 0.5:
                noise = str(rng.choice(COMMON_ENGLISH.replace("water", "").split()))
            words.insert(int(rng.choice([0, len(words)])), noise)
        return SoundCaption(" ".join(words), caption.language, caption.kind)
    noise = "".join(chr(code) for code in rng.integers(0x4E00, 0x9F00, rng.integers(1, 5)))
    text = f"{noise}{caption.text}" if rng.random() < 0.5 else f"{caption.text}{noise}"
    return SoundCaption(text, caption.language, caption.kind)


def held_out_prompts(count: int, seed: int) -> list[SoundCaption]:
    """Prompts in wordings that training never uses: all kinds in turn, half of them English and half Chinese."""
    rng = np.random.default_rng(seed)
    return [
        name_sound(KINDS[index % len(KINDS)], ("en", "zh")[index // len(KINDS) % 2], rng, HELD_OUT_SENTENCES)
        for index in range(count)
    ]

"""The demo's tokenizer: whole English words from the captions, single letters, and single Chinese characters."""

import json
from collections import Counter
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from demo_training.clips import sample_scene
from pipelines.demo.grammar import describe, describe_continuation
from pipelines.demo.words import LANGUAGES

SAMPLES = 20_000
COMMON_ENGLISH = (
    "show me please draw make want to see keeps which scene film short with behind before after it is are this that "
    "of the and an in on at by for from very high quality cinematic realistic style bright dark slow fast slowly "
    "quickly no not bad blurry ugly low art image picture sky sun moon cloud water grass hill tree nature"
)


def build_tokenizer(seed: int) -> Any:
    """A T5 tokenizer whose pieces follow from `seed`. Unknown words are split into characters."""
    from transformers import T5TokenizerFast

    rng = np.random.default_rng(seed)
    words: Counter[str] = Counter(COMMON_ENGLISH.split())
    characters: Counter[str] = Counter()
    for index in range(SAMPLES):
        caption = describe if index % 4 < 3 else describe_continuation
        text = prompt_clean(caption(sample_scene(rng), LANGUAGES[index % 2], rng).text)
        characters.update(character for character in text if not character.isspace())
        words.update("".join(c if c.isascii() and c.isalpha() else " " for c in text).split())
    words.update({word.lower(): 1 for word in list(words)})
    words.update({word.capitalize(): 1 for word in list(words)})
    characters.update(map(chr, range(0x21, 0x7F)))
    total = sum(words.values())
    pieces = {f"▁{word}": log(count / total) for word, count in words.items() if len(word) > 1}
    singles = dict.fromkeys(sorted(characters), -12.0)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    vocabulary += sorted(pieces.items()) + sorted(singles.items())
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def extend_tokenizer(folder: Path, seed: int) -> Any:
    """The tokenizer in a folder with the pieces after its own that it lacks for today's captions."""
    from transformers import T5TokenizerFast

    own, wanted = (
        json.loads(text)["model"]["vocab"]
        for text in ((folder / "tokenizer.json").read_text(), build_tokenizer(seed).backend_tokenizer.to_str())
    )
    known = {piece for piece, _ in own}
    vocabulary = [(piece, score) for piece, score in [*own, *(each for each in wanted if each[0] not in known)]]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)

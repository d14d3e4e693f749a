"""Train the text encoder of the sound model to tell from each token which sound a caption asks for; then it is frozen.

The video model's tokenizer lacks the characters of birds, crickets and waves, so the sound model has one of its own.

python -m demo_training.sound.train_text --state FOLDER
"""

import argparse
from collections import Counter
from math import cos, log, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.longcat_audio_dit.pipeline_longcat_audio_dit import _normalize_text
from torch import nn
from torch.nn import functional

from demo_training.sound.captions import CHECK_SENTENCES, SoundCaption, describe_scene, describe_sound, name_sound
from demo_training.sound.captions import training_caption as describe
from demo_training.sound.sounds import KINDS
from demo_training.training import Run, seed_step
from demo_training.vocabulary import COMMON_ENGLISH
from pipelines.demo.words import LANGUAGES

SEED = 20261202
TEXT_DIM = 96
BATCH = 96
SAMPLES = 12_000
MAX_TOKENS = 96
CHECKED = 300
"""Captions of each language and sort whose kind is guessed at the end."""


def build_tokenizer() -> Any:
    """A T5 tokenizer of the captions' words, single letters and single Chinese characters, all in lower case."""
    from transformers import T5TokenizerFast

    rng = np.random.default_rng(SEED)
    words: Counter[str] = Counter(COMMON_ENGLISH.split())
    characters: Counter[str] = Counter(map(chr, range(0x21, 0x7F)))
    for index in range(SAMPLES):
        caption = describe_sound if index % 4 < 3 else describe_scene
        text = _normalize_text(caption(KINDS[index % len(KINDS)], LANGUAGES[index // 2 % 2], rng).text)
        characters.update(character for character in text if not character.isspace())
        words.update("".join(c if c.isascii() and c.isalpha() else " " for c in text).split())
    total = sum(words.values())
    pieces = {f"▁{word}": log(count / total) for word, count in words.items() if len(word) > 1}
    singles = dict.fromkeys(sorted(character for character in characters if not character.isupper()), -12.0)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    vocabulary += sorted(pieces.items()) + sorted(singles.items())
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def build_text_encoder(tokenizer: Any) -> Any:
    """A UMT5 of two layers; its heads are initialised to attend to neighbouring tokens."""
    from transformers import UMT5Config, UMT5EncoderModel

    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer), d_model=TEXT_DIM, d_kv=32, d_ff=192, num_layers=2, num_heads=4, dropout_rate=0.0
        )
    )
    # bucket n means n tokens back, 16 + n means n tokens ahead
    neighbours = ((1,), (17,), (2, 18))
    for block in encoder.encoder.block:
        bias = block.layer[0].SelfAttention.relative_attention_bias.weight
        with torch.no_grad():
            for head, buckets in enumerate(neighbours):
                bias[list(buckets), head] = 5.0
    return encoder


def encode_texts(tokenizer: Any, encoder: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts → states (b, l, d) as `LongCatAudioDiTPipeline.encode_prompt` makes them, and the mask (b, l)."""
    tokens = tokenizer(
        [_normalize_text(text) for text in texts],
        padding="longest",
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    output = encoder(tokens.input_ids, tokens.attention_mask, output_hidden_states=True)
    last, first = (
        functional.layer_norm(states, (TEXT_DIM,), eps=1e-6)
        for states in (output.last_hidden_state, output.hidden_states[0])
    )
    return last + first, tokens.attention_mask.bool()


class Classifier(nn.Module):
    """A linear classifier of the kind of sound, for each token and for the mean of all."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(TEXT_DIM, len(KINDS))

    def forward(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States (b, l, d) and mask (b, l) → logits (b, kinds) of their mean."""
        return self.read((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))

    def loss(self, states: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Cross-entropy for kinds (b), of every token and of the mean."""
        every = functional.cross_entropy(self.read(states)[mask], kinds[:, None].expand(mask.shape)[mask])
        return every + functional.cross_entropy(self(states, mask), kinds)


def kinds_of(captions: list[SoundCaption]) -> torch.Tensor:
    """The index of each caption's kind."""
    return torch.tensor([KINDS.index(caption.kind) for caption in captions])


@torch.no_grad()
def accuracy(tokenizer: Any, encoder: Any, classifier: Classifier, count: int) -> dict[str, float]:
    """The share of captions in unseen wordings, and of captions of scenes, whose kind is recognised."""
    rng = np.random.default_rng(SEED)
    result = {}
    for language in LANGUAGES:
        for name in ("named", "scene"):
            captions = [
                name_sound(KINDS[index % len(KINDS)], language, rng, CHECK_SENTENCES)
                if name == "named"
                else describe_scene(KINDS[index % 5], language, rng)
                for index in range(count)
            ]
            logits = classifier(*encode_texts(tokenizer, encoder, [caption.text for caption in captions]))
            right = logits.argmax(-1) == kinds_of(captions)
            result[f"{language}_{name}"] = round(float(right.float().mean()), 4)
    return result


def load_text_encoder(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the frozen encoder of a finished training."""
    from transformers import T5TokenizerFast, UMT5EncoderModel

    tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer")
    return tokenizer, UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval().requires_grad_(False)


def train(folder: Path, steps: int, peak: float) -> None:
    """Train, or resume, until `steps` are done. Writes `tokenizer` and `text_encoder` to `folder`."""
    from transformers import T5TokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer").is_dir():
        build_tokenizer().save_pretrained(folder / "tokenizer")
    tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer")
    torch.manual_seed(SEED)
    encoder, classifier = build_text_encoder(tokenizer), Classifier()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *classifier.parameters()], peak, betas=(0.9, 0.98))
    run = Run(folder, {"encoder": encoder, "classifier": classifier, "optimizer": optimizer})
    for step in run.until(steps):
        seed_step(SEED, step)
        rng = np.random.default_rng((SEED, step))
        captions = [describe(KINDS[index % len(KINDS)], LANGUAGES[index // 6 % 2], rng) for index in range(BATCH)]
        states, mask = encode_texts(tokenizer, encoder, [caption.text for caption in captions])
        loss = classifier.loss(states, mask, kinds_of(captions))
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = peak * min(1, (step + 1) / 30) * (0.02 + 0.49 * (1 + cos(pi * step / steps)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            run.log(loss=round(float(loss.detach()), 4), **accuracy(tokenizer, encoder, classifier, 60))
    run.log(**accuracy(tokenizer, encoder, classifier, CHECKED))
    encoder.save_pretrained(folder / "text_encoder")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--peak", type=float, default=3e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(options.state / "text", options.steps, options.peak)

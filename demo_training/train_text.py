"""Train the text encoder to classify what a caption names, from each of its tokens. Afterwards it is frozen.

Without this a small UMT5 does not learn which noun a colour belongs to. Two measures help: position biases that start
with attention to neighbours, and this task.

python -m demo_training.train_text --state FOLDER
"""

import argparse
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import nn

from demo_training.clips import combinations, sample_scene, single_shape
from demo_training.held_out import CHECK_SENTENCES, describe_held_out
from demo_training.training import Run, seed_step
from demo_training.vocabulary import COMMON_ENGLISH, build_tokenizer, extend_tokenizer
from pipelines.demo.grammar import ATTRIBUTES, Caption, describe, describe_continuation
from pipelines.demo.words import LANGUAGES

SEED = 20261125
TEXT_DIM = 128
BATCH = 96
_FILLERS = COMMON_ENGLISH.split()
MAX_TOKENS = 96


def build_text_encoder(tokenizer: Any) -> Any:
    """A UMT5 of three layers; its heads are initialised to attend to neighbouring tokens."""
    from transformers import UMT5Config, UMT5EncoderModel

    encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_DIM,
            d_kv=32,
            d_ff=256,
            num_layers=3,
            num_heads=6,
            dropout_rate=0.0,
        )
    )
    # bucket n means n tokens back, 16 + n means n tokens ahead
    neighbours = ((1,), (17,), (2, 18), (3, 19))
    for block in encoder.encoder.block:
        bias = block.layer[0].SelfAttention.relative_attention_bias.weight
        with torch.no_grad():
            for head, buckets in enumerate(neighbours):
                bias[list(buckets), head] = 5.0
    return encoder


class Classifiers(nn.Module):
    """A linear classifier per attribute; class 0 is "not named"."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.ModuleDict({name: nn.Linear(TEXT_DIM, 1 + len(values)) for name, values in ATTRIBUTES.items()})

    def loss(self, states: torch.Tensor, mask: torch.Tensor, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy on states (b, l, d), for every token and for their mean."""
        pooled = pool(states, mask)
        total = torch.zeros(())
        for name, target in labels.items():
            every = self.read[name](states)[mask]
            total = total + nn.functional.cross_entropy(every, target[:, None].expand(mask.shape)[mask])
            total = total + nn.functional.cross_entropy(self.read[name](pooled), target)
        return total


def pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean (b, d) of the states (b, l, d) without padding."""
    weight = mask.unsqueeze(-1).float()
    return (states * weight).sum(1) / weight.sum(1)


def encode_texts(tokenizer: Any, encoder: Any, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts → states (b, l, d), zero at padding, and the mask (b, l) of tokens that are not padding."""
    tokens = tokenizer(
        [prompt_clean(text) for text in texts],
        padding=True,
        truncation=True,
        max_length=MAX_TOKENS,
        return_tensors="pt",
    )
    states = encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
    mask = tokens.attention_mask.bool()
    return states * mask.unsqueeze(-1), mask


def targets(captions: list[Caption]) -> dict[str, torch.Tensor]:
    """The class of each attribute for each caption; 0 if the caption does not name it."""
    return {
        name: torch.tensor([1 + values.index(c.labels[name]) if name in c.labels else 0 for c in captions])
        for name, values in ATTRIBUTES.items()
    }


def _batch(step: int) -> list[Caption]:
    rng = np.random.default_rng((SEED, step))
    captions = [
        (describe if index % 8 < 6 else describe_continuation)(sample_scene(rng), LANGUAGES[index % 2], rng)
        for index in range(BATCH)
    ]
    return [_clutter(caption, rng) if rng.random() < 0.3 else caption for caption in captions]


def _clutter(caption: Caption, rng: np.random.Generator) -> Caption:
    """Insert nonsense and filler words, so that unknown words do not mislead the encoder."""
    if caption.language == "en":
        words = caption.text.split()
        for _ in range(rng.integers(1, 4)):
            noise = "".join(rng.choice(list("etaoinshrdlcumwfgyp"), rng.integers(2, 8)))
            if rng.random() < 0.6:
                noise = str(rng.choice(_FILLERS))
            words.insert(int(rng.integers(len(words) + 1)), noise)
        return Caption(" ".join(words), caption.language, caption.labels)
    noise = "".join(chr(code) for code in rng.integers(0x4E00, 0x9F00, rng.integers(1, 5)))
    text = f"{noise}{caption.text}" if rng.random() < 0.5 else f"{caption.text}{noise}"
    return Caption(text, caption.language, caption.labels)


@torch.no_grad()
def accuracy(tokenizer: Any, encoder: Any, classifiers: Classifiers, count: int = 400) -> dict[str, float]:
    """Accuracy of each attribute on held-out combinations and wordings, by language."""
    rng = np.random.default_rng(SEED)
    unseen = combinations(held_out=True)
    result = {}
    for language in LANGUAGES:
        scenes = [single_shape(unseen[rng.integers(len(unseen))], rng) for _ in range(count)]
        captions = [describe_held_out(scene, language, rng, CHECK_SENTENCES) for scene in scenes]
        states, mask = encode_texts(tokenizer, encoder, [caption.text for caption in captions])
        pooled = pool(states, mask)
        for name, target in targets(captions).items():
            if name in ("shape", "colour", "background", "motion", "family"):
                right = classifiers.read[name](pooled).argmax(-1) == target
                result[f"{language}_{name}"] = round(float(right.float().mean()), 4)
    return result


def load_text_encoder(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the trained encoder of a finished training."""
    from transformers import T5TokenizerFast, UMT5EncoderModel

    tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer")
    return tokenizer, UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval().requires_grad_(False)


def extend_text_encoder(weights: Path, tokenizer: Any) -> Any:
    """The text encoder of finished weights, with untrained embeddings of the pieces that are new to its tokenizer."""
    encoder = load_text_encoder(weights)[1].float().train().requires_grad_(True)
    encoder.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    return encoder


def train(folder: Path, steps: int, peak: float, weights: Path | None = None) -> None:
    """Train, or resume, until `steps` are done, from the beginning or from finished `weights`.

    Writes `tokenizer` and `text_encoder` to `folder`.
    """
    from transformers import T5TokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokenizer").is_dir():
        made = build_tokenizer(SEED) if weights is None else extend_tokenizer(weights / "tokenizer", SEED)
        made.save_pretrained(folder / "tokenizer")
    tokenizer = T5TokenizerFast.from_pretrained(folder / "tokenizer")
    torch.manual_seed(SEED)
    encoder = build_text_encoder(tokenizer) if weights is None else extend_text_encoder(weights, tokenizer)
    classifiers = Classifiers()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *classifiers.parameters()], peak, betas=(0.9, 0.98))
    run = Run(folder, {"encoder": encoder, "readers": classifiers, "optimizer": optimizer})
    for step in run.until(steps):
        seed_step(SEED, step)
        captions = _batch(step)
        states, mask = encode_texts(tokenizer, encoder, [caption.text for caption in captions])
        loss = classifiers.loss(states, mask, targets(captions))
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = peak * min(1, (step + 1) / 100) * (0.02 + 0.49 * (1 + cos(pi * step / steps)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            run.log(loss=round(float(loss.detach()), 4), **accuracy(tokenizer, encoder, classifiers, 100))
    run.log(**accuracy(tokenizer, encoder, classifiers))
    encoder.save_pretrained(folder / "text_encoder")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--peak", type=float, default=1.5e-3)
    parser.add_argument("--from", dest="weights", type=Path, help="continue these finished weights")
    options = parser.parse_args()
    torch.set_num_threads(2)
    train(options.state / "text", options.steps, options.peak, options.weights)

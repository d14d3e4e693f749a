"""Train the transformer of sounds: flow matching on the latents of drawn sounds, with a new caption at every step.

python -m demo_training.sound.train_transformer --state FOLDER
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LongCatAudioDiTTransformer
from torch.nn import functional

from demo_training.optim import Optimizers
from demo_training.sound.autoencoder import LATENT_CHANNELS, add_noise
from demo_training.sound.basis import SIGNAL, load_basis
from demo_training.sound.captions import training_caption
from demo_training.sound.latents import LENGTH, load_latents
from demo_training.sound.sounds import KINDS
from demo_training.sound.train_autoencoder import follow
from demo_training.sound.train_text import TEXT_DIM, encode_texts, load_text_encoder
from demo_training.training import Run, seed_step
from pipelines.demo.words import LANGUAGES

SEED = 20261204
CAPTION_DROPOUT = 0.1
EMA = 0.995
TOKENS_PER_STEP = 1920
LENGTHS = (96, 160, 160, 320)
"""Lengths of the clips of a step, in latents: 1.5, 2.6 and 5.1 seconds."""


def build_transformer() -> Any:
    """The transformer, untrained; its velocity is 0 at first."""
    return LongCatAudioDiTTransformer(
        dit_dim=128,
        dit_depth=4,
        dit_heads=4,
        dit_text_dim=TEXT_DIM,
        latent_dim=LATENT_CHANNELS,
        text_conv=False,
        use_latent_condition=False,
    )


def flow_loss(
    model: Any, clean: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor, times: torch.Tensor
) -> torch.Tensor:
    """The loss for latents (b, LATENT_CHANNELS, l), text (b, t, d) with its mask (b, t), and times (b), 1 at the end.

    Noise is what the noise channels need at the end, too. So they stay as they begin, and their velocity is the 0 that
    it is without training.
    """
    noise = torch.randn_like(clean)
    noise[:, SIGNAL:] = clean[:, SIGNAL:]
    share = times[:, None, None]
    noisy = (1 - share) * noise + share * clean
    mask = torch.ones(len(clean), clean.shape[2], dtype=torch.bool)
    velocity = model(
        noisy.transpose(1, 2), encoder_hidden_states=text, encoder_attention_mask=text_mask, timestep=times,
        attention_mask=mask,
    ).sample.transpose(1, 2)  # fmt: skip
    return functional.mse_loss(velocity[:, :SIGNAL], (clean - noise)[:, :SIGNAL])


def learning_rate(progress: float) -> float:
    """Share of the peak learning rate: warm-up, constant until half of training, then down to 2 %."""
    if progress < 0.5:
        return min(1.0, 0.02 + progress / 0.02)
    return max(0.02, 1 - 0.98 * (progress - 0.5) / 0.5)


class Trainer:
    """One training; the latents are drawn before its first step."""

    def __init__(self, state: Path, peak: float, shards: int) -> None:
        self._latents = load_latents(load_basis(state), state / "latents", shards)
        self._tokenizer, self._encoder = load_text_encoder(state / "text")
        torch.manual_seed(SEED)
        self.model = build_transformer()
        self._average = build_transformer().requires_grad_(False)
        self._average.load_state_dict(self.model.state_dict())
        plain = [self.model.proj_out.weight, self.model.input_embed.proj[0].weight, self.model.norm_out.linear.weight]
        self._optimizers = Optimizers(self.model, peak, plain)
        parts = {"model": self.model, "average": self._average, "optimizers": self._optimizers}
        self._run = Run(state / "transformer", parts)

    def train(self, steps: int) -> None:
        """Train, or resume, until `steps` are done."""
        recent: list[float] = []
        for step in self._run.until(steps):
            seed_step(SEED, step)
            loss = self._loss(np.random.default_rng((SEED, step)))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizers.step(learning_rate(step / steps))
            follow(self._average, self.model, step, EMA)
            recent.append(float(loss.detach()))
            if (step + 1) % 50 == 0:
                self._run.log(loss=round(float(np.mean(recent)), 4))
                recent.clear()

    def _loss(self, rng: np.random.Generator) -> torch.Tensor:
        length = int(rng.choice(LENGTHS))
        batch = TOKENS_PER_STEP // length
        kinds = (np.arange(batch) + rng.integers(len(KINDS))) % len(KINDS)
        clips = []
        for kind in kinds:
            start = int(rng.integers(LENGTH - length + 1))
            clips.append(self._latents[kind, rng.integers(self._latents.shape[1]), :, start : start + length])
        clean = add_noise(torch.stack(clips).float())
        texts = [training_caption(KINDS[kind], LANGUAGES[rng.integers(2)], rng).text for kind in kinds]
        with torch.no_grad():
            states, mask = encode_texts(self._tokenizer, self._encoder, texts)
        # without a caption the pipeline gives zeros of the caption's length
        states[torch.rand(batch) < CAPTION_DROPOUT] = 0
        # stratified: a batch covers all noise levels evenly
        times = (torch.randperm(batch) + torch.rand(batch)) / batch
        return flow_loss(self.model, clean, states, mask, times)


def load_average(state: Path) -> Any:
    """The averaged transformer of a finished or unfinished training."""
    model = build_transformer()
    saved = torch.load(state / "transformer" / "state.pt", weights_only=True)
    model.load_state_dict(saved["parts"]["average"])
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--shards", type=int, default=6, help="shards of 25 drawn clips for each kind of sound")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Trainer(options.state, options.peak, options.shards).train(options.steps)

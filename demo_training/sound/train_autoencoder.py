"""Train the decoder of sounds on clips of one second, then the encoder to give the decoder's latents.

python -m demo_training.sound.train_autoencoder --state FOLDER
"""

import argparse
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from demo_training.optim import Optimizers
from demo_training.sound.autoencoder import add_noise, build_autoencoder, energy_loss, fix_deviations
from demo_training.sound.basis import RATIO, SIGNAL, Basis, load_basis
from demo_training.sound.sounds import KINDS, draw
from demo_training.training import Run, seed_step

SEED = 20261201
CLIP = 250
"""Latents of a drawn clip: four seconds. A step takes CROP of them."""

CROP = 64
SHAKE = 0.25
"""The most noise on the latents in training: the decoder must tolerate the transformer's errors."""

EMA = 0.995


class Pool:
    """Drawn clips of all kinds in turn with their latents."""

    def __init__(self, basis: Basis, clips: int) -> None:
        self._sounds: npt.NDArray[np.float16] = np.empty((clips, CLIP * RATIO), np.float16)
        self._latents: npt.NDArray[np.float16] = np.empty((clips, SIGNAL, CLIP), np.float16)
        for index in range(clips):
            sound = draw(KINDS[index % len(KINDS)], CLIP * RATIO, np.random.default_rng((SEED, index)))
            self._sounds[index], self._latents[index] = sound, basis.latents(sound)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The crops of a step, one of each kind: sounds (kinds, 1, samples) and latents (kinds, SIGNAL, CROP)."""
        rng = np.random.default_rng((SEED, step))
        chosen = rng.integers(len(self._sounds) // len(KINDS), size=len(KINDS)) * len(KINDS) + np.arange(len(KINDS))
        starts = rng.integers(CLIP - CROP + 1, size=len(KINDS))
        sounds, latents = [], []
        for clip, start in zip(chosen, starts, strict=True):
            sounds.append(self._sounds[clip, None, start * RATIO : (start + CROP) * RATIO])
            latents.append(self._latents[clip, :, start : start + CROP])
        return tuple(torch.from_numpy(np.stack(each).astype(np.float32)) for each in (sounds, latents))


def train(state: Path, part: str, steps: int, peak: float, pool_size: int) -> None:
    """Train, or resume, the "encoder" or the "decoder" until `steps` are done."""
    torch.manual_seed(SEED)
    model, average = (getattr(build_autoencoder(), part) for _ in range(2))
    average.load_state_dict(model.state_dict())
    average.requires_grad_(False)
    optimizers = Optimizers(model, peak)
    run = Run(state / part, {"model": model, "average": average, "optimizers": optimizers})
    pool = Pool(load_basis(state), pool_size)
    recent: list[float] = []
    for step in run.until(steps):
        seed_step(SEED, step)
        sounds, latents = pool.batch(step)
        loss = (decoder_loss if part == "decoder" else encoder_loss)(model, sounds, latents)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(min(1.0, (step + 1) / 30) * (0.02 + 0.98 * 0.5 * (1 + cos(pi * min(1.0, step / steps)))))
        follow(average, model, step, EMA)
        recent.append(float(loss.detach()))
        if (step + 1) % 25 == 0:
            run.log(loss=round(float(np.mean(recent)), 4))
            recent.clear()


def decoder_loss(decoder: Any, sounds: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The energy distance of sounds (b, 1, samples) from two that are decoded from latents (b, SIGNAL, n)."""
    shake = SHAKE * float(torch.rand(()))
    one, other = decoder(torch.cat([add_noise(latents, shake), add_noise(latents, shake)]))[:, 0].chunk(2)
    return energy_loss(sounds[:, 0], one, other)


def encoder_loss(encoder: Any, sounds: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """The squared error of the latents (b, SIGNAL, n) that are encoded from sounds (b, 1, samples)."""
    return functional.mse_loss(encoder(sounds)[:, :SIGNAL], latents)


@torch.no_grad()
def follow(average: torch.nn.Module, model: torch.nn.Module, step: int, window: float) -> None:
    """Move the averaged weights towards the model's; the window is short at first, to forget the initial weights."""
    keep = min(window, (step + 1) / (step + 10))
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)


def load_autoencoder(state: Path) -> Any:
    """The averaged autoencoder of a finished or unfinished training."""
    vae = build_autoencoder()
    for part in ("encoder", "decoder"):
        file = state / part / "state.pt"
        if file.is_file():
            getattr(vae, part).load_state_dict(torch.load(file, weights_only=True)["parts"]["average"])
    fix_deviations(vae)
    return vae.eval().requires_grad_(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--part", choices=("decoder", "encoder"), required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--peak", type=float, default=4e-3)
    parser.add_argument("--pool", type=int, default=480)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train(options.state, options.part, options.steps, options.peak, options.pool)

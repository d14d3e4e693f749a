"""Fit the map from the demo's latents to RGB, which previews use, and store it with the weights.

python -m demo_training.fit_latent_rgb --weights FOLDER

The clips are drawn as for training. A least-squares fit maps each latent to the mean colour of its pixels.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from demo_training.clips import render, sample_scene
from demo_training.train_vae import encode, to_pixels
from pipelines.core.model import LatentRgb
from pipelines.demo.folder import demo_folder
from pipelines.stages.preview.latent_rgb import write_latent_rgb

SEED = 20261125
CLIPS = 60
WIDTH, HEIGHT, NUM_FRAMES = 416, 240, 17
"""The demo's own size, and half its length."""

_DIGITS = 4


@torch.inference_mode()
def pairs(vae: Any, seed: int, clips: int = CLIPS) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised latents (n, channels) of random clips and the mean colours of their pixels (n, 3) in -1 … 1."""
    rng = np.random.default_rng(seed)
    mean, deviation = (torch.tensor(vae.config[name]) for name in ("latents_mean", "latents_std"))
    latents, colours = [], []
    for _ in range(clips):
        pixels = to_pixels(render(sample_scene(rng), WIDTH, HEIGHT, NUM_FRAMES))[None]
        encoded = encode(vae, pixels).mean
        latents.append((encoded[0].flatten(1).T - mean) / deviation)
        colours.append(_means(pixels, vae).flatten(1).T)
    return torch.cat(latents), torch.cat(colours)


def _means(pixels: torch.Tensor, vae: Any) -> torch.Tensor:
    """The mean colour of each latent's pixels: (1, 3, t, H, W) → (3, t', h, w)."""
    side = vae.config.scale_factor_spatial
    small = torch.nn.functional.avg_pool3d(pixels[0], (1, side, side))
    # the first latent frame covers one frame, each other as many as the VAE's temporal scale
    later = torch.nn.functional.avg_pool3d(small[:, 1:], (vae.config.scale_factor_temporal, 1, 1))
    return torch.cat([small[:, :1], later], dim=1)


def fit(latents: torch.Tensor, colours: torch.Tensor) -> LatentRgb:
    """The least-squares map from latents (n, channels) to colours (n, 3)."""
    ones = torch.ones(len(latents), 1)
    solution = torch.linalg.lstsq(torch.cat([latents, ones], dim=1).double(), colours.double()).solution
    *factors, bias = [
        (round(red, _DIGITS), round(green, _DIGITS), round(blue, _DIGITS)) for red, green, blue in solution.tolist()
    ]
    return LatentRgb(tuple(factors), bias)


def error(latent_rgb: LatentRgb, latents: torch.Tensor, colours: torch.Tensor) -> float:
    """Root mean squared error of a map, in the units of the colours."""
    made = latents @ torch.tensor(latent_rgb.factors) + torch.tensor(latent_rgb.bias)
    return float((made - colours).square().mean().sqrt())


def fit_weights(folder: Path) -> None:
    """Fit the map for a folder of weights and write it there. Prints its error on other clips."""
    vae = AutoencoderKLWan.from_pretrained(folder / "vae").float()
    latent_rgb = fit(*pairs(vae, SEED))
    write_latent_rgb(latent_rgb, folder)
    latents, colours = pairs(vae, SEED + 1, CLIPS // 6)
    print(f"error {error(latent_rgb, latents, colours):.3f}, where the colours' deviation is {colours.std():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=demo_folder())
    fit_weights(parser.parse_args().weights)

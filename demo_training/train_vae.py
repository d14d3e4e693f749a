"""Train the VAE: Wan2.2's residual layout at a small width, 16x smaller sides, 4x fewer frames.

python -m demo_training.train_vae --state FOLDER
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from math import cos, pi
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import patchify, unpatchify
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from demo_training.clips import render, sample_scene
from demo_training.optim import Optimizers
from demo_training.residual_vae import residual_vae
from demo_training.training import Run, seed_step
from pipelines.core.progress import Frames
from pipelines.demo.scenes import Landscape

SEED = 20261124
LATENT_CHANNELS = 16
SINGLE_FRAMES = 0.3
"""Share of training, at its start, that uses single frames only."""
CROP = 128
POOL_FRAMES = 17
DIVERGENCE = 1.5e-5
"""Weight of the KL divergence from a standard normal distribution, per latent."""
NOISE = 0.08
"""Noise on the latents in training, in standard deviations: the decoder must tolerate the transformer's errors."""
BATCHES = {1: 16, 5: 8, 9: 5, 17: 3}
"""Batch sizes by length in frames."""


def build_vae() -> Any:
    """The demo's VAE, untrained; its latents' mean and deviation are measured after training."""
    return residual_vae(base_dim=24, latent_channels=LATENT_CHANNELS)


def encode(vae: Any, pixels: torch.Tensor) -> DiagonalGaussianDistribution:
    """Encode (b, 3, t, H, W) in two chunks, frame 0 and the rest: equal to `vae.encode`, in fewer calls."""
    vae.clear_cache()
    patches = patchify(pixels, patch_size=vae.config.patch_size)
    encoded = []
    for chunk in (patches[:, :, :1], patches[:, :, 1:]):
        if chunk.shape[2]:
            vae._enc_conv_idx = [0]
            encoded.append(vae.encoder(chunk, feat_cache=vae._enc_feat_map, feat_idx=vae._enc_conv_idx))
    moments = vae.quant_conv(torch.cat(encoded, 2))
    vae.clear_cache()
    return DiagonalGaussianDistribution(moments)


def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode (b, c, t, h, w) in two chunks, as `encode` does; not clamped."""
    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    decoded = []
    for index, chunk in enumerate((hidden[:, :, :1], hidden[:, :, 1:])):
        if chunk.shape[2]:
            vae._conv_idx = [0]
            decoded.append(vae.decoder(chunk, feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=index == 0))
    vae.clear_cache()
    return unpatchify(torch.cat(decoded, 2), patch_size=vae.config.patch_size)


def to_pixels(frames: Frames) -> torch.Tensor:
    """(…, t, H, W, 3) bytes → (…, 3, t, H, W) in -1 … 1."""
    return torch.from_numpy(frames).movedim(-1, -4).float().div_(127.5).sub_(1)


def crop_pool(count: int, seed: int) -> Frames:
    """Clips cropped around the moving object: (count, POOL_FRAMES, CROP, CROP, 3)."""
    rng = np.random.default_rng((SEED, seed))
    pool = np.empty((count, POOL_FRAMES, CROP, CROP, 3), np.uint8)
    sizes = [(416, 256), (256, 160), (256, 416), (832, 480)]
    for clip in pool:
        scene = sample_scene(rng)
        width, height = sizes[rng.choice(len(sizes), p=[0.45, 0.4, 0.1, 0.05])]
        length = 33 if width * height > 50_000 else 17
        frames = render(scene, width, height, length)[:: 1 if rng.random() < 0.5 else length // 16][:POOL_FRAMES]
        top, left = _corner(frames, isinstance(scene, Landscape), rng)
        clip[:] = frames[:, top : top + CROP, left : left + CROP]
    return pool


def _corner(frames: Frames, anywhere: bool, rng: np.random.Generator) -> tuple[int, int]:
    height, width = frames.shape[1:3]
    corner = [int(rng.integers(height - CROP + 1)), int(rng.integers(width - CROP + 1))]
    if not anywhere:
        # aim at the object in the middle frame
        middle = frames[len(frames) // 2].astype(int)
        rows, columns = np.nonzero(np.abs(middle - middle[:, :1]).sum(-1) > 60)
        if len(rows):
            for axis, (places, side) in enumerate(((rows, height), (columns, width))):
                aim = places.mean() - CROP / 2 + rng.uniform(-0.35, 0.35) * CROP
                corner[axis] = int(np.clip(aim, 0, side - CROP))
    return corner[0], corner[1]


def train(folder: Path, steps: int, peak: float, pool_size: int, encoder_of: Path | None = None) -> None:
    """Train, or resume, until `steps` are done. Writes the VAE to `folder`/vae.

    If `encoder_of` is the folder of a trained VAE, only its decoder is trained further; its latents do not change.
    """
    torch.manual_seed(SEED)
    vae = build_vae() if encoder_of is None else AutoencoderKLWan.from_pretrained(encoder_of)
    if encoder_of is not None:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    optimizers = Optimizers(vae, peak)
    run = Run(folder, {"vae": vae, "optimizers": optimizers})
    pool_file = folder / "pool.npy"
    if not pool_file.is_file():
        with ProcessPoolExecutor(2) as workers:
            parts = workers.map(crop_pool, [50] * (pool_size // 50), range(pool_size // 50))
            np.save(pool_file, np.concatenate(list(parts)))
    pool = np.load(pool_file)
    average: dict[str, float] = {}
    for step in run.until(steps):
        seed_step(SEED, step)
        pixels = _batch(pool, step, step / steps if encoder_of is None else 1.0)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = encode(vae, pixels)
            decoded = decode(vae, _shake(posterior.sample()))
        error = decoded.float() - pixels
        squared = error.square().mean()
        divergence = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        (error.abs().mean() + squared + DIVERGENCE * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        warm = min(1.0, (step + 1) / 50)
        optimizers.step(warm * (0.02 + 0.98 * 0.5 * (1 + cos(pi * step / steps))))
        figures = {"psnr": float(10 * torch.log10(4 / squared.detach())), "kl": float(divergence.detach())}
        for name, value in figures.items():
            average[name] = average.get(name, value) * 0.95 + value * 0.05
        if (step + 1) % 25 == 0:
            run.log(**{name: round(value, 3) for name, value in average.items()})
    if encoder_of is None:
        measure(vae, pool)
    vae.save_pretrained(folder / "vae")


def _shake(latents: torch.Tensor) -> torch.Tensor:
    deviation = latents.detach().float().std(dim=(0, 2, 3, 4), keepdim=True)
    return latents + NOISE * deviation * torch.randn_like(latents)


@torch.inference_mode()
def measure(vae: Any, pool: Frames) -> None:
    """Measure the latents' mean and deviation on clips of the pool, and store them in the VAE's config."""
    means = [encode(vae, to_pixels(pool[index : index + 8])).mean for index in range(0, min(len(pool), 240), 8)]
    latents = torch.cat(means).movedim(1, 0).flatten(1).double()
    vae.register_to_config(latents_mean=latents.mean(1).tolist(), latents_std=latents.std(1).tolist())


def _batch(pool: Frames, step: int, progress: float) -> torch.Tensor:
    rng = np.random.default_rng((SEED, step))
    lengths = [1] if progress < SINGLE_FRAMES else [1, 5, 9, 17]
    length = int(rng.choice(lengths, p=None if len(lengths) == 1 else [0.15, 0.35, 0.35, 0.15]))
    clips = rng.integers(len(pool), size=BATCHES[length])
    start = int(rng.integers(POOL_FRAMES - length + 1))
    chosen = pool[clips, start : start + length]
    if rng.random() < 0.5:
        chosen = chosen[..., ::-1, :]
    return to_pixels(np.ascontiguousarray(chosen))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--peak", type=float, default=3e-3)
    parser.add_argument("--pool", type=int, default=1200)
    parser.add_argument("--decoder", action="store_true", help="train only the decoder of a trained VAE further")
    options = parser.parse_args()
    torch.set_num_threads(2)
    trained = options.state / "vae" / "vae"
    train(
        options.state / ("decoder" if options.decoder else "vae"),
        options.steps,
        options.peak,
        options.pool,
        trained if options.decoder else None,
    )

"""The cost of decoding: whole frames and tiles, diffusers' and ours, with the demo's VAE in fp32 on the same latents.

python -m benchmarks.cpu.decoding --rounds 5

The cases alternate, so that a busy machine slows all of them equally. The latents show a gradient, with a little noise
in each frame, so that seams between tiles are visible. PSNR compares with whole frames.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from benchmarks.report import bootstrap, show
from benchmarks.server.overhead import timed
from pipelines.core.progress import Frames
from pipelines.demo.folder import demo_folder
from pipelines.layers.cpu_conv3d import use_onednn
from pipelines.planning.layout import Decoding
from pipelines.stages.decoding.decoding import decode_frames, denormalise
from pipelines.tools.calibrate_step_cache import psnr

Case = Callable[[torch.Tensor], Frames]


def load() -> Any:
    """Return the demo's VAE as diffusers loads it."""
    return AutoencoderKLWan.from_pretrained(demo_folder(), subfolder="vae", torch_dtype=torch.float32)


def ours(vae: Any, decoding: Decoding, latents: torch.Tensor) -> Frames:
    """Decode a group of frames at a time."""
    return np.concatenate(list(decode_frames(vae, latents, decoding)))


def diffusers(vae: Any, latents: torch.Tensor) -> Frames:
    """Decode all frames at once."""
    video = vae.decode(denormalise(vae, latents)).sample[0]
    return ((video + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


def diffusers_tiled(vae: Any, latents: torch.Tensor) -> Frames:
    """Decode all frames at once, in tiles of 256 pixels."""
    vae.enable_tiling()
    try:
        return diffusers(vae, latents)
    finally:
        vae.disable_tiling()


def cases() -> dict[str, Case]:
    """Return what is measured; the others are compared with the first."""
    plain, quick = load(), load()
    use_onednn(quick)
    return {
        "diffusers, whole frames": partial(diffusers, plain),
        "diffusers, tiles": partial(diffusers_tiled, plain),
        "ours, torch's convolutions": partial(ours, plain, Decoding.WHOLE),
        **{f"ours, {decoding}": partial(ours, quick, decoding) for decoding in Decoding},
    }


def some_latents(width: int, height: int, num_frames: int) -> torch.Tensor:
    """Return latents of a gradient that differ slightly from frame to frame."""
    vae = load()
    scale, dice = vae.config.scale_factor_spatial, torch.Generator().manual_seed(0)
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    picture = torch.stack([rows.expand(height, width), columns.expand(height, width), rows * columns])[None, :, None]
    encoded = vae.encode(picture).latent_dist.mode()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    length = (num_frames - 1) // vae.config.scale_factor_temporal + 1
    shape = (1, vae.config.z_dim, length, height // scale, width // scale)
    return ((encoded - mean) / std).expand(shape) + 0.1 * torch.randn(shape, generator=dice)


@torch.no_grad()
def main() -> None:
    """Measure in rounds, print a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=3, default=[832, 480, 33], metavar=("WIDTH", "HEIGHT", "FRAMES"))
    options = parser.parse_args()
    measured, latents = cases(), some_latents(*options.size)
    videos = {name: case(latents) for name, case in measured.items()}
    taken: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(options.rounds):
        for name, case in measured.items():
            taken[name].append(timed(partial(case, latents)))
    first = next(iter(measured))
    rows: list[tuple[str, ...]] = []
    figures: dict[str, dict[str, Any]] = {}
    for name, seconds in taken.items():
        ratios = [ours / theirs for ours, theirs in zip(seconds, taken[first], strict=True)]
        low, high = bootstrap(ratios)
        ratio, off = statistics.median(ratios), psnr(videos[first], videos[name])
        figures[name] = {"seconds": statistics.median(seconds), "ratio": ratio, "ratio_95": [low, high]}
        figures[name]["psnr"] = off if isfinite(off) else None
        rows.append(
            (name, f"{statistics.median(seconds):.2f} s", f"{ratio:.2f} ({low:.2f} to {high:.2f})", f"{off:.1f} dB")
        )
    command = f"python -m benchmarks.cpu.decoding --rounds {options.rounds} --size {' '.join(map(str, options.size))}"
    columns = ("decoding", "seconds", f"of {first} (95 %)", "PSNR to it")
    show("decoding", rows, {"command": command, "cases": figures}, columns)


if __name__ == "__main__":
    main()

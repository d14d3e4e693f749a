"""The latents of training clips: drawn and encoded once, stored on disk in shards.

A shard holds clips of one size; a killed run continues with the next missing shard.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo_training.clips import render, sample_from_anywhere, sample_scene
from demo_training.train_vae import encode, to_pixels
from pipelines.core.files import atomic_path
from pipelines.demo.scenes import Scene

SEED = 20261126
SHARD_PIXELS = 70_000_000
ENCODED_PIXELS = 3_500_000
"""Pixels of clips that are encoded in one batch, at most."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A size to train at, in pixels and frames, and the number of its clips.

    `is_free` if their objects start anywhere, so that a caption does not describe the first frame.
    """

    width: int
    height: int
    num_frames: int
    clips: int
    is_free: bool = False

    @property
    def name(self) -> str:
        """The prefix of its shards' file names."""
        return f"{self.width}x{self.height}x{self.num_frames}" + ("-free" if self.is_free else "")

    @property
    def tokens(self) -> int:
        """Transformer tokens in a clip: patches of two by two latents."""
        return (self.width // 32) * (self.height // 32) * ((self.num_frames - 1) // 4 + 1)

    @property
    def shard(self) -> int:
        """Clips in a shard."""
        return max(1, min(100, SHARD_PIXELS // (self.width * self.height * self.num_frames)))

    @property
    def shards(self) -> int:
        """The number of shards for all clips."""
        return (self.clips + self.shard - 1) // self.shard


def scene_of(canvas: Canvas, index: int) -> Scene:
    """The scene of clip `index`; follows from the seed."""
    rng = np.random.default_rng((SEED, canvas.width, canvas.height, canvas.num_frames, canvas.is_free, index))
    return sample_from_anywhere(rng) if canvas.is_free else sample_scene(rng)


def draw_shard(vae: Any, canvas: Canvas, number: int, folder: Path) -> None:
    """Draw and encode shard `number`: the posterior means (clips, c, t, h, w), not normalised, in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{canvas.name}-{number:04}.pt"
    first = number * canvas.shard
    scenes = [scene_of(canvas, index) for index in range(first, first + canvas.shard)]
    with ThreadPoolExecutor(2) as workers:
        drawn = workers.map(lambda scene: render(scene, canvas.width, canvas.height, canvas.num_frames), scenes)
        frames = np.stack(list(drawn))
    together = max(1, ENCODED_PIXELS // frames[0, ..., 0].size)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        means = [
            encode(vae, to_pixels(frames[start : start + together])).mean for start in range(0, len(frames), together)
        ]
    with atomic_path(path, durable=False) as part:
        torch.save(torch.cat(means).half(), part)


def has_shard(canvas: Canvas, number: int, folder: Path) -> bool:
    """Whether shard `number` is on disk."""
    return (folder / f"{canvas.name}-{number:04}.pt").is_file()


def load_shard(canvas: Canvas, number: int, folder: Path) -> torch.Tensor:
    """The clips of shard `number` (clips, c, t, h, w), in order, not normalised."""
    return torch.load(folder / f"{canvas.name}-{number:04}.pt", weights_only=True)

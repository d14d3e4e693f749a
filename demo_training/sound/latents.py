"""The latents of training sounds: drawn once, stored on disk in one shard for each kind and number."""

from pathlib import Path

import numpy as np
import torch

from demo_training.sound.basis import RATIO, SIGNAL, Basis
from demo_training.sound.sounds import KINDS, draw
from pipelines.core.files import atomic_path

SEED = 20261203
LENGTH = 320
"""Latents of a clip: 5.12 seconds."""

SHARD = 25
"""Clips in a shard."""


def draw_shard(basis: Basis, kind: str, number: int) -> torch.Tensor:
    """The latents (clips, SIGNAL, LENGTH) of drawn sounds, in half precision."""
    result = torch.empty(SHARD, SIGNAL, LENGTH, dtype=torch.float16)
    for place, latents in enumerate(result):
        rng = np.random.default_rng((SEED, KINDS.index(kind), number * SHARD + place))
        latents.copy_(torch.from_numpy(basis.latents(draw(kind, LENGTH * RATIO, rng))))
    return result


def load_latents(basis: Basis, folder: Path, shards: int) -> torch.Tensor:
    """The latents (kinds, clips, SIGNAL, LENGTH) of `shards` shards of each kind; missing ones are drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = []
    for kind in KINDS:
        clips = []
        for number in range(shards):
            file = folder / f"{kind}-{number:03}.pt"
            if not file.is_file():
                with atomic_path(file, durable=False) as part:
                    torch.save(draw_shard(basis, kind, number), part)
            clips.append(torch.load(file, weights_only=True))
        kinds.append(torch.cat(clips))
    return torch.stack(kinds)

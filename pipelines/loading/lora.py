"""Merges LoRA fine-tunes into a transformer's weights while these are read.

Because they are merged before the weights are converted, they work with every precision and placement, and cost no time
in a step. The supported file layouts are those that diffusers reads: its own, the original one, and musubi-tuner's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import torch

from pipelines.core.errors import UnsupportedModelError
from pipelines.models.family import ModelFamily

_FACTORS = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_B.bias": "bias"}


@dataclass
class _Change:
    """The change of a linear layer: up (out, rank) times down (rank, in) for its weight, and a bias (out)."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    bias: torch.Tensor | None = None


class Loras:
    """The changes that LoRA files (safetensors), each with its strength, make to one part of a family's pipeline."""

    def __init__(self, files: Sequence[tuple[Path, float]], family: ModelFamily, part: str) -> None:
        self._changes = [(path, strength, _read(path, family, part)) for path, strength in files]

    def merge(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the parameter `name` with all changes to it, in fp32; unchanged if there are none."""
        layer, _, kind = name.rpartition(".")
        for _, strength, changes in self._changes:
            change = changes.get(layer)
            if change is None:
                continue
            if kind == "weight" and change.down is not None and change.up is not None:
                tensor = tensor.float() + strength * (change.up.float() @ change.down.float())
            elif kind == "bias" and change.bias is not None:
                tensor = tensor.float() + strength * change.bias.float()
        return tensor

    def check(self, module: torch.nn.Module) -> None:
        """Raise UnsupportedModelError if a file changes a layer that the part lacks, or one of another size."""
        layers = dict(module.named_modules())
        for path, _, changes in self._changes:
            for name, change in changes.items():
                layer = layers.get(name)
                if not isinstance(layer, torch.nn.Linear):
                    raise UnsupportedModelError(f"{path} changes {name}, which this model does not have.")
                if change.down is None or change.up is None:
                    raise UnsupportedModelError(f"{path} has only one of the two factors of {name}.")
                shape = (change.up.shape[0], change.down.shape[1])
                if shape != (layer.out_features, layer.in_features) or change.up.shape[1] != change.down.shape[0]:
                    raise UnsupportedModelError(f"{path} is for a model of another size: see {name}.")


def _read(path: Path, family: ModelFamily, part: str) -> dict[str, _Change]:
    """Return a file's changes by layer; of a file for several parts, those of this part."""
    try:
        state, metadata = resolve_name(family.pipeline).lora_state_dict(
            str(path.parent), weight_name=path.name, local_files_only=True, return_lora_metadata=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModelError(f"{path} is not a readable LoRA file: {error}") from error
    prefixes = [f"{each.name}." for each in family.parts if each.takes_loras]
    is_for_several = sum(any(name.startswith(prefix) for name in state) for prefix in prefixes) > 1
    changes: dict[str, _Change] = {}
    for name, tensor in state.items():
        if is_for_several and not name.startswith(f"{part}."):
            continue
        short = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
        suffix = next((suffix for suffix in _FACTORS if short.endswith(suffix)), None)
        if suffix is None:
            raise UnsupportedModelError(f"{path} is not a LoRA file that can be merged: it contains {name}.")
        setattr(changes.setdefault(short.removesuffix(suffix), _Change()), _FACTORS[suffix], tensor)
    scale = _scale(metadata or {}, prefixes)
    for change in changes.values():
        if change.up is not None:
            change.up = change.up * scale
    return changes


def _scale(metadata: dict[str, object], prefixes: Sequence[str]) -> float:
    """Return the scale in the file's metadata; layouts without it include the scale in their factors."""
    for prefix in prefixes:
        alpha, rank = metadata.get(f"{prefix}lora_alpha"), metadata.get(f"{prefix}r")
        if isinstance(alpha, int | float) and isinstance(rank, int | float) and rank:
            return alpha / rank
    return 1.0

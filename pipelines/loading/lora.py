"""Fine-tunings of low rank (LoRA), merged into a transformer's weights as they are read.

Merged before anything else is done to the weights, they go with every precision and every place, and cost no time in a
step. The file layouts are those that diffusers reads: its own, the original one, and musubi-tuner's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanPipeline

from pipelines.core.errors import UnsupportedModelError

_PARTS = ("transformer_2.", "transformer.")
_FACTORS = {".lora_A.weight": "down", ".lora_B.weight": "up", ".lora_B.bias": "bias"}


@dataclass
class _Change:
    """What is added to a linear layer: up (out, rank) times down (rank, in) to its weight, and a bias (out)."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    bias: torch.Tensor | None = None


class Loras:
    """The changes of some LoRA files (safetensors), each with its strength, to one part: one of two transformers."""

    def __init__(self, files: Sequence[tuple[Path, float]], part: str = "transformer") -> None:
        self._changes = [(path, strength, _read(path, part)) for path, strength in files]

    def merge(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """The parameter `name` with all changes to it, in fp32; as it is where there are none."""
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
        """Raise UnsupportedModelError if a file changes a layer that the transformer has not, or has otherwise."""
        layers = dict(module.named_modules())
        for path, _, changes in self._changes:
            for name, change in changes.items():
                layer = layers.get(name)
                if not isinstance(layer, torch.nn.Linear):
                    raise UnsupportedModelError(f"{path} changes {name}, which this model has not.")
                if change.down is None or change.up is None:
                    raise UnsupportedModelError(f"{path} has only one of the two factors of {name}.")
                shape = (change.up.shape[0], change.down.shape[1])
                if shape != (layer.out_features, layer.in_features) or change.up.shape[1] != change.down.shape[0]:
                    raise UnsupportedModelError(f"{path} was made for a model of another size: see {name}.")


def _read(path: Path, part: str) -> dict[str, _Change]:
    """The changes of a file by the layer's name; of a file for both transformers, those that are for this part."""
    try:
        state, metadata = WanPipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, local_files_only=True, return_lora_metadata=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedModelError(f"{path} is not a LoRA file that can be read: {error}") from error
    changes: dict[str, _Change] = {}
    is_for_both = any(name.startswith(_PARTS[0]) for name in state) and any(
        name.startswith(_PARTS[1]) for name in state
    )
    for name, tensor in state.items():
        if is_for_both and not name.startswith(f"{part}."):
            continue
        short = next((name.removeprefix(prefix) for prefix in _PARTS if name.startswith(prefix)), name)
        suffix = next((suffix for suffix in _FACTORS if short.endswith(suffix)), None)
        if suffix is None:
            raise UnsupportedModelError(f"{path} is not a LoRA file that can be merged: it holds {name}.")
        setattr(changes.setdefault(short.removesuffix(suffix), _Change()), _FACTORS[suffix], tensor)
    scale = _scale(metadata or {})
    for change in changes.values():
        if change.up is not None:
            change.up = change.up * scale
    return changes


def _scale(metadata: dict[str, object]) -> float:
    """What the file's own metadata says of its strength; the other layouts have it in their factors already."""
    for part in _PARTS:
        alpha, rank = metadata.get(f"{part}lora_alpha"), metadata.get(f"{part}r")
        if isinstance(alpha, int | float) and isinstance(rank, int | float) and rank:
            return alpha / rank
    return 1.0

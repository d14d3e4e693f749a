"""Merges LoRA fine-tunes into a transformer's weights while these are read.

Because they are merged before the weights are converted, they work with every precision and placement, and cost no time
in a step. Only matrices that a file has quantized already are not changed: their factors are kept beside them.
"""

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path

import torch

from pipelines.core.errors import UnsupportedModelError
from pipelines.loading.lora.change import Change
from pipelines.loading.lora.file import read_changes
from pipelines.loading.lora.keys import listed
from pipelines.models.family import ModelFamily


class Loras:
    """The changes that LoRA files (safetensors), each with its strength, make to one part of a family's pipeline.

    Raises UnsupportedModelError that names the file, unless every file is a LoRA for that family.
    """

    def __init__(self, files: Sequence[tuple[Path, float]], family: ModelFamily, part: str) -> None:
        self._layout = family.part(part).lora
        for path, strength in files:
            if strength == 0 or not isfinite(strength):
                raise UnsupportedModelError(
                    f"{path} has strength {strength}, which has to be a finite number other than 0."
                )
        self._files = [(path, strength, read_changes(path, family, part)) for path, strength in files]

    def merge(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return the parameter `name` with all changes to it, in fp32; unchanged if there are none."""
        for change, strength in self._changes_of(name):
            tensor = change.added_to(tensor, strength)
        return tensor

    def rank(self, name: str) -> int:
        """Return the rank of the factors of all changes to a matrix, 0 if there are none."""
        return sum(change.rank for change, _ in self._changes_of(name))

    def changes(self, name: str) -> bool:
        """Return whether any file changes the parameter `name`."""
        return any(name in changes for _, _, changes in self._files)

    def factors(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return two fp32 factors (rank, in) and (out, rank) of all changes to a matrix; None if there are none.

        Those of several files are joined along the rank.
        """
        found = [change.factors(strength) for change, strength in self._changes_of(name)]
        if not found:
            return None
        downs, ups = zip(*found, strict=True)
        return torch.cat(downs), torch.cat(ups, dim=1)

    def check(self, module: torch.nn.Module) -> None:
        """Raise UnsupportedModelError unless every file fits a part, is finite and changes something."""
        shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
        for path, _, changes in self._files:
            if missing := sorted(changes.keys() - shapes.keys()):
                raise UnsupportedModelError(f"{path} {self._unknown(missing)}")
            try:
                for name, own in changes.items():
                    for change in own:
                        change.check(shapes[name])
                # every change is read, because each has to be finite
                effective = [change.changes_anything() for own in changes.values() for change in own]
            except UnsupportedModelError as error:
                raise UnsupportedModelError(f"{path} {error}.") from error
            if not any(effective):
                raise UnsupportedModelError(f"{path} changes nothing: all of its values are 0.")

    def _changes_of(self, name: str) -> Iterator[tuple[Change, float]]:
        for _, strength, changes in self._files:
            for change in changes.get(name, ()):
                yield change, strength

    def _unknown(self, missing: Sequence[str]) -> str:
        layers = {name: name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name for name in missing}
        if self._layout is not None and any(self._layout.is_for_images(layer) for layer in layers.values()):
            return f"is for a model that takes an image: it changes {listed(missing)}, which this model does not have."
        return f"changes {listed(missing)}, which this model does not have."

"""Merges the LoRAs of a request into loaded weights, and restores the weights for the next request.

Each tensor that changes is read again from the files of the model, merged with the model's own LoRAs and then the
request's, converted to the plan's format and copied into the loaded tensor, whose identity and place stay the same.
Nothing is ever subtracted, so the weights do not depend on what was merged before. At most one set is merged at a time,
and no copy of the model's own weights is kept. Only weights that are mapped from disk cannot be changed in place: their
merged tensors are kept in host memory. Matrices that stay quantized are not changed: the LoRAs are beside them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import psutil
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

from pipelines.core.errors import LoraError
from pipelines.core.model import ModelSpec
from pipelines.core.request import RequestLora
from pipelines.hub import local as weights
from pipelines.hub.folder import part_digest
from pipelines.hub.loras import LocatedLora, locate_loras
from pipelines.layers.gguf_lora import with_lora
from pipelines.loading.lora.loras import Loras
from pipelines.loading.modules import StoredTensors, WeightSource, skeleton
from pipelines.loading.weight_format import WeightFormat, dequantized
from pipelines.models.family import ModelFamily, Part
from pipelines.planning.layout import GIB, HOST_SHARE, format_gib

MAX_BESIDE_BYTES = GIB
"""Limit of the factors beside a transformer's quantized matrices: they stay on the device, and no plan counts them.

A LoRA of rank 64 for all matrices of Wan's 14B takes 0.6 GiB.
"""

TensorCallback = Callable[[int, int], None]
"""Called with the number of tensors that are done, and of all."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadedPart:
    """A loaded transformer, and what its weights were made from.

    `config` is the folder of its configuration, `source` the files of its weights, `loras` the model's own with their
    strengths. `is_mapped` says of a tensor's name whether it is mapped from a file on disk.
    """

    part: Part
    module: Any
    config: Path
    source: WeightSource
    loras: Sequence[tuple[Path, float]]
    weight_format: WeightFormat
    is_mapped: Callable[[str], bool]

    def source_digest(self) -> str:
        """Return a fingerprint of the files of the source."""
        path = self.source.path
        return weights.file_digest(path) if path.is_file() else part_digest(path, self.part.library)


class RequestLoras:
    """The LoRAs of requests for one loaded pipeline. `folder` has the files that requests may name."""

    def __init__(
        self,
        spec: ModelSpec,
        family: ModelFamily,
        parts: Sequence[LoadedPart],
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        self._spec = spec
        self._family = family
        self._parts = [_MergedPart(part, device) for part in parts]
        self._device = device
        self._folder = folder
        self._merged: str | None = ""
        self.portable = ""
        """The identity of what is merged, the same for every machine with copies of the files."""

    @property
    def merged(self) -> str:
        """The identity of what is merged into the weights; "incomplete" after an error."""
        return "incomplete" if self._merged is None else self._merged

    def locate(self, chosen: Sequence[RequestLora]) -> tuple[LocatedLora, ...]:
        """Return the files of a request's LoRAs. Raises LoraError that names the first that is not there."""
        return locate_loras(chosen, self._spec, self._folder, [merged.loaded.part.name for merged in self._parts])

    def merge(self, loras: Sequence[LocatedLora], on_tensor: TensorCallback = lambda *_: None) -> None:
        """Let the weights have these LoRAs and no others. `on_tensor` may raise, to stop.

        Raises UnsupportedModelError for a file that does not fit, LoraError or WeightsNotFoundError. After an error the
        weights are incomplete until the next call, which restores what this one has changed.
        """
        wanted = identity(loras)
        if wanted == self._merged:
            return
        # every file is read and checked before anything changes
        changes = [merged.read(loras, self._family) for merged in self._parts]
        if self._device.type == "cuda":
            # copies from host memory that is written below may still be running
            torch.cuda.synchronize(self._device)
        self._merged = None
        total, done = sum(merged.tensors for merged in self._parts), 0
        on_tensor(done, total)
        for merged, change in zip(self._parts, changes, strict=True):
            for _ in merged.apply(change):
                done += 1
                on_tensor(done, total)
        self.portable = ", ".join(lora.portable for lora in loras)
        self._merged = wanted


def identity(loras: Sequence[LocatedLora]) -> str:
    """Return everything of these LoRAs that the bytes of a video depend on, in the order in which they are merged."""
    return ", ".join(lora.identity for lora in loras)


class _MergedPart:
    """A loaded transformer, and which of its tensors may differ from the model's own."""

    def __init__(self, loaded: LoadedPart, device: torch.device) -> None:
        self.loaded = loaded
        self._device = device
        self._digest = loaded.source_digest()
        self._stale: set[str] = set()
        # what others stand in for: mapped tensors, and layers without the request's LoRAs beside their weights
        self._mapped: dict[str, torch.Tensor] = {}
        self._layers: dict[str, GGUFLinear] = {}

    @property
    def tensors(self) -> int:
        """The most tensors that `apply` yields for."""
        return len(self.loaded.module.state_dict())

    def read(self, loras: Sequence[LocatedLora], family: ModelFamily) -> list[Loras] | None:
        """Return the changes by the model's own LoRAs, then by these; None if there is nothing to change or restore."""
        loaded, name = self.loaded, self.loaded.part.name
        own = [lora for lora in loras if lora.part in (None, name)]
        if not own and not self._stale and not self._layers:
            return None
        if loaded.source_digest() != self._digest:
            raise LoraError(
                f"The files of {loaded.source.path} have changed since the model was loaded, so LoRAs cannot be "
                "merged. Unload the model, or restart the server."
            )
        module = skeleton(resolve_name(loaded.part.model_class), loaded.config)
        changes = []
        for files in (loaded.loras, [(lora.path, lora.strength) for lora in own]):
            changes.append(Loras(files, family, name))
            changes[-1].check(module)
        for lora in own:
            lora.check_unchanged()
        self._check_beside(changes)
        return changes

    def _check_beside(self, changes: Sequence[Loras]) -> None:
        """Raise LoraError if the factors beside quantized matrices would take too much of the device's memory."""
        weight_format, requested = self.loaded.weight_format, changes[-1]
        size = sum(
            sum(each.rank(name) for each in changes) * sum(tensor.quant_shape)
            for name, tensor in self.loaded.source.headers()
            if weight_format.stays_quantized(name, tensor) and requested.changes(name)
        )
        size *= weight_format.dtype.itemsize
        if size > MAX_BESIDE_BYTES:
            raise LoraError(
                f"These LoRAs need {format_gib(size)} beside the quantized weights of {self.loaded.source.path.name}; "
                f"the limit is {format_gib(MAX_BESIDE_BYTES)}. Use fewer LoRAs, a lower rank, or weights that are not "
                "quantized."
            )

    def apply(self, changes: Sequence[Loras] | None) -> Iterator[None]:
        """Let the weights have these changes and no others. Yield after each tensor."""
        if changes is None:
            return
        for name, layer in self._layers.items():
            self.loaded.module.set_submodule(name, layer)
        loaded = self.loaded.module.state_dict(keep_vars=True)
        for name, original in self._mapped.items():
            loaded[name].data = original
        restored = {name for name in self._stale if name in loaded and not self.loaded.is_mapped(name)}
        self._stale, self._mapped, self._layers = set(restored), {}, {}
        room = psutil.virtual_memory().available * HOST_SHARE
        changed: set[str] = set()
        weight_format = self.loaded.weight_format
        models_own, requested = changes
        for name, tensor in self.loaded.source.tensors():
            if weight_format.stays_quantized(name, tensor) and requested.changes(name):
                self._put_beside(name, models_own, requested)
            elif name in restored or requested.changes(name):
                if requested.changes(name):
                    changed.add(name)
                self._stale.add(name)
                merged = requested.merge(name, models_own.merge(name, dequantized(tensor)))
                room -= self._write(weight_format.store(name, merged), loaded, room)
            yield
        self._stale = changed

    def _put_beside(self, name: str, *changes: Loras) -> None:
        """Put changes of a quantized matrix beside it."""
        factors = [found for each in changes if (found := each.factors(name)) is not None]
        downs, ups = zip(*factors, strict=True)
        down, up = (
            factor.to(self._device, self.loaded.weight_format.dtype) for factor in (torch.cat(downs), torch.cat(ups, 1))
        )
        layer = name.removesuffix(".weight")
        linear = self.loaded.module.get_submodule(layer)
        self._layers[layer] = linear
        self.loaded.module.set_submodule(layer, with_lora(linear, down, up))

    def _write(self, stored: StoredTensors, loaded: Mapping[str, torch.Tensor], room: float) -> int:
        """Replace tensors of the loaded ones. Return the bytes that were kept in host memory, at most `room`."""
        kept = 0
        for name, tensor in stored.items():
            value = tensor.as_tensor() if isinstance(tensor, GGUFParameter) else tensor
            target = loaded[name]
            if not self.loaded.is_mapped(name):
                target.data.copy_(value)
                continue
            kept += value.nbytes
            if kept > room:
                raise LoraError(
                    "The weights that this request's LoRAs change are streamed from disk, and have to be kept in host "
                    f"memory, where {format_gib(round(room))} is left for them. Leave the LoRAs out, or add memory."
                )
            self._mapped.setdefault(name, target.data)
            target.data = value.contiguous()
        return kept

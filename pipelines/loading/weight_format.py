"""How a part's weights are stored: in the pipeline's dtype, in 8 bits, or in 4; and stored so on disk, once.

Two shorter forms are diffusers' own: layerwise casting for fp8, and the linear layers that it reads GGUF files with
for 4 bits (Q4_0: 32 weights share a scale). Matrices of a file that is quantized already stay as they are, in the same
layers. What computes is bf16 in all of these. Matrices for multiplying in fp8 or int8 are kept with scales of their
own, a second tensor beside each, by `scaled`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from diffusers.quantizers.gguf.utils import (
    GGUFLinear,
    GGUFParameter,
    _replace_with_gguf_linear,
    dequantize_gguf_tensor,
)

from pipelines.core.precision import Precision
from pipelines.layers.quantized_linear import quantize, scale_name, use_scaled
from pipelines.loading.lora import Loras
from pipelines.loading.modules import StoredTensors, headers
from pipelines.planning.shapes import FP32

_Q4 = gguf.GGMLQuantizationType.Q4_0
_Q4_BLOCK, _Q4_BYTES = gguf.GGML_QUANT_SIZES[_Q4]


class WeightFormat:
    """Prepares a skeleton for a precision, and turns each tensor that is read into what is kept for it.

    For the precision GGUF it takes the `named` tensors of the file, or stand-ins for them.
    """

    def __init__(
        self,
        module: Any,
        precision: Precision,
        dtype: torch.dtype,
        loras: Loras | None = None,
        named: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self._dtype = dtype
        self._precision = precision
        self._loras = loras
        # transformers names such modules too, but keeps them so in fp16 only
        exact = module._keep_in_fp32_modules if hasattr(module, "load_config") else None
        self._exact = frozenset(exact or ())
        self._in_fp8: frozenset[str] = frozenset()
        self._in_q4: frozenset[str] = frozenset()
        self._scaled: frozenset[str] = frozenset()
        self._in_gguf: frozenset[str] = frozenset()
        if precision is Precision.FP8:
            module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
            self._in_fp8 = frozenset(n for n, p in module.named_parameters() if p.dtype is torch.float8_e4m3fn)
        elif precision.multiplies:
            self._scaled = frozenset(use_scaled(module, precision, dtype))
        elif precision is Precision.Q4:
            self._in_q4 = frozenset(_use_q4(module, dtype))
        elif precision is Precision.GGUF:
            _replace_with_gguf_linear(module, dtype, named or {}, modules_to_not_convert=list(self._exact))
            layers = (name for name, layer in module.named_modules() if isinstance(layer, GGUFLinear))
            self._in_gguf = frozenset(f"{name}.weight" for name in layers)

    def convert(self, name: str, tensor: torch.Tensor) -> StoredTensors:
        """What is kept for a tensor that is read from the published files."""
        if isinstance(tensor, GGUFParameter):
            if name in self._in_gguf:
                return {name: tensor}
            tensor = dequantize_gguf_tensor(tensor)
        if self._loras is not None:
            tensor = self._loras.merge(name, tensor)
        if name in self._scaled:
            rounded, scales = quantize(tensor, self._precision)
            return {name: rounded, scale_name(name): scales}
        if name in self._in_q4:
            return {name: GGUFParameter(_to_q4(tensor), quant_type=_Q4)}
        return {name: tensor.to(self._dtype_of(name, tensor))}

    def restore(self, name: str, tensor: torch.Tensor) -> StoredTensors:
        """What is kept for a tensor that is read from the files `stored` wrote."""
        return {name: GGUFParameter(tensor, quant_type=_Q4) if name in self._in_q4 else tensor}

    def changes(self, source: Path) -> bool:
        """Whether anything in a part's files is kept otherwise than it is written there."""
        return self._loras is not None or any(
            tensor.dtype is not (torch.uint8 if name in self._in_q4 else self._dtype_of(name, tensor))
            for name, tensor in headers(source)
        )

    def size(self, name: str, tensor: torch.Tensor) -> int:
        """Bytes of what is kept for a tensor."""
        if name in self._scaled:
            return tensor.numel() + len(tensor) * FP32
        if name in self._in_q4:
            return tensor.numel() // _Q4_BLOCK * _Q4_BYTES
        return tensor.numel() * self._dtype_of(name, tensor).itemsize

    def _dtype_of(self, name: str, tensor: torch.Tensor) -> torch.dtype:
        if name in self._in_fp8:
            return torch.float8_e4m3fn
        if not tensor.is_floating_point():
            return tensor.dtype
        return torch.float32 if self._exact & set(name.split(".")) else self._dtype


def _use_q4(module: Any, dtype: torch.dtype) -> list[str]:
    """Put layers that compute from 4 bits in the place of the blocks' linear ones; returns their weights' names."""
    names = []
    for index, block in enumerate(module.blocks):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, torch.nn.Linear) and layer.in_features % _Q4_BLOCK == 0:
                short = GGUFLinear(
                    layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, device="meta"
                )
                block.set_submodule(name, short.requires_grad_(False))
                names.append(f"blocks.{index}.{name}.weight")
    return names


def _to_q4(weight: torch.Tensor) -> torch.Tensor:
    """(out, in) numbers → (out, bytes), by GGUF's own quantization."""
    return torch.from_numpy(gguf.quants.quantize(weight.float().numpy(), _Q4))

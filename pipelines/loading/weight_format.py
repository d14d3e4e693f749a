"""The formats in which a part's weights are stored: the pipeline's dtype, 8 bits or 4 bits.

Two of the shorter formats are diffusers' own: layerwise casting for fp8, and for 4 bits the linear layers with which it
reads GGUF files (Q4_0: 32 weights share a scale). Matrices of a file that is already quantized stay as they are, in the
same layers, and have LoRAs beside them (`pipelines.layers.gguf_lora`). All of these compute in bf16. Matrices that are
multiplied in fp8 or int8 are stored with scales in a second tensor (`pipelines.layers.quantized_linear`).
"""

from collections.abc import Mapping
from copy import copy
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
from pipelines.layers.gguf_lora import factor_names, use_gguf_lora
from pipelines.layers.quantized_linear import quantize, scale_name, use_quantized_linear
from pipelines.loading.lora.loras import Loras
from pipelines.loading.modules import StoredTensors, WeightSource
from pipelines.planning.shapes import FP32

_Q4 = gguf.GGMLQuantizationType.Q4_0
_Q4_BLOCK, _Q4_BYTES = gguf.GGML_QUANT_SIZES[_Q4]


class WeightFormat:
    """Prepares a skeleton for a precision, and converts each tensor that is read to its stored form.

    `dtype` is that of unquantized weights. For the precision GGUF, `named` are the tensors of the file, or stand-ins on
    the meta device.
    """

    def __init__(
        self,
        module: Any,
        precision: Precision,
        dtype: torch.dtype,
        loras: Loras | None = None,
        named: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.dtype = dtype
        self._precision = precision
        self._loras = loras
        # transformers also lists such modules, but keeps them in fp32 only when it loads fp16
        fp32_modules = module._keep_in_fp32_modules if hasattr(module, "load_config") else None
        self._fp32_modules = frozenset(fp32_modules or ())
        self._in_fp8: frozenset[str] = frozenset()
        self._in_q4: frozenset[str] = frozenset()
        self._scaled: frozenset[str] = frozenset()
        self._in_gguf: frozenset[str] = frozenset()
        if precision is Precision.FP8:
            module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)
            self._in_fp8 = frozenset(n for n, p in module.named_parameters() if p.dtype is torch.float8_e4m3fn)
        elif precision.multiplies:
            self._scaled = frozenset(use_quantized_linear(module, precision, dtype))
        elif precision is Precision.Q4:
            self._in_q4 = frozenset(_use_q4(module, dtype))
        elif precision is Precision.GGUF:
            _replace_with_gguf_linear(module, dtype, named or {}, modules_to_not_convert=list(self._fp32_modules))
            layers = (name for name, layer in module.named_modules() if isinstance(layer, GGUFLinear))
            self._in_gguf = frozenset(f"{name}.weight" for name in layers)
            for name in self._in_gguf:
                if loras is not None and (rank := loras.rank(name)):
                    use_gguf_lora(module, name, rank, dtype)

    def convert(self, name: str, tensor: torch.Tensor) -> StoredTensors:
        """Return what is stored for a tensor of the published files."""
        if self.stays_quantized(name, tensor):
            return {name: tensor, **self._factors(name)}
        tensor = dequantized(tensor)
        if self._loras is not None:
            tensor = self._loras.merge(name, tensor)
        return self.store(name, tensor)

    def stays_quantized(self, name: str, tensor: torch.Tensor) -> bool:
        """Return whether a tensor of the published files is stored as it is, and LoRAs beside it."""
        return isinstance(tensor, GGUFParameter) and name in self._in_gguf

    def store(self, name: str, tensor: torch.Tensor) -> StoredTensors:
        """Return what is stored for a tensor that is not quantized, and has all changes by LoRAs already."""
        if name in self._scaled:
            quantized, scales = quantize(tensor, self._precision)
            return {name: quantized, scale_name(name): scales}
        if name in self._in_q4:
            return {name: GGUFParameter(_to_q4(tensor), quant_type=_Q4)}
        return {name: tensor.to(self._dtype_of(name, tensor))}

    def without_loras(self) -> "WeightFormat":
        """Return the same format without LoRAs, which take memory."""
        plain = copy(self)
        plain._loras = None
        return plain

    def restore(self, name: str, tensor: torch.Tensor) -> StoredTensors:
        """Return what is stored for a tensor of a file that was written in this format."""
        return {name: GGUFParameter(tensor, quant_type=_Q4) if name in self._in_q4 else tensor}

    def changes(self, source: WeightSource) -> bool:
        """Return whether any weight of a part is stored differently from how its files have it."""
        return self._loras is not None or any(
            tensor.dtype is not (torch.uint8 if name in self._in_q4 else self._dtype_of(name, tensor))
            for name, tensor in source.headers()
        )

    def size(self, name: str, tensor: torch.Tensor) -> int:
        """Return the bytes that are stored for a tensor."""
        if name in self._scaled:
            return tensor.numel() + len(tensor) * FP32
        if name in self._in_q4:
            return tensor.numel() // _Q4_BLOCK * _Q4_BYTES
        return tensor.numel() * self._dtype_of(name, tensor).itemsize

    def _factors(self, name: str) -> StoredTensors:
        """Return what is stored beside a weight that stays quantized."""
        factors = None if self._loras is None else self._loras.factors(name)
        if factors is None:
            return {}
        return {each: factor.to(self.dtype) for each, factor in zip(factor_names(name), factors, strict=True)}

    def _dtype_of(self, name: str, tensor: torch.Tensor) -> torch.dtype:
        if name in self._in_fp8:
            return torch.float8_e4m3fn
        if not tensor.is_floating_point():
            return tensor.dtype
        return torch.float32 if self._fp32_modules & set(name.split(".")) else self.dtype


def dequantized(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor with the values of one that may be quantized."""
    return dequantize_gguf_tensor(tensor) if isinstance(tensor, GGUFParameter) else tensor


def _use_q4(module: Any, dtype: torch.dtype) -> list[str]:
    """Replace the linear layers of all blocks by layers with 4-bit weights. Return the names of these weights."""
    names = []
    for index, block in enumerate(module.blocks):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, torch.nn.Linear) and layer.in_features % _Q4_BLOCK == 0:
                quantized = GGUFLinear(
                    layer.in_features, layer.out_features, layer.bias is not None, compute_dtype=dtype, device="meta"
                )
                block.set_submodule(name, quantized.requires_grad_(False))
                names.append(f"blocks.{index}.{name}.weight")
    return names


def _to_q4(weight: torch.Tensor) -> torch.Tensor:
    """Quantize a weight (out, in) to Q4_0 bytes (out, bytes)."""
    return torch.from_numpy(gguf.quants.quantize(weight.float().numpy(), _Q4))

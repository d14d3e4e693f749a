"""Linear layers whose weight stays quantized as a GGUF file has it, with a LoRA beside it.

Merging would quantize the weight again, with an error of the size of many LoRAs. So W x + B (A x) is computed at run
time: two narrow products, with rank · (in + out) multiplications per token beside the in · out of the weight.
"""

from typing import Any

import torch
from diffusers.quantizers.gguf.utils import GGUFLinear


class GGUFLoraLinear(GGUFLinear):
    """A `GGUFLinear` on the meta device with two more parameters: `lora_A` (rank, in) and `lora_B` (out, rank).

    Strength and scale are part of `lora_B`. Several LoRAs are joined along the rank.
    """

    def __init__(self, linear: GGUFLinear, rank: int, dtype: torch.dtype) -> None:
        has_bias = linear.bias is not None
        super().__init__(linear.in_features, linear.out_features, has_bias, linear.compute_dtype, device="meta")
        self.lora_A = _on_meta(rank, linear.in_features, dtype)
        self.lora_B = _on_meta(linear.out_features, rank, dtype)
        self.requires_grad_(False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply inputs (…, in). Return (…, out)."""
        output = super().forward(inputs).contiguous()
        narrow = torch.nn.functional.linear(inputs.to(self.lora_A.dtype), self.lora_A).to(output.dtype)
        # in place: the output of the MLP's first layer takes gigabytes at 720p
        output.view(-1, self.out_features).addmm_(narrow.view(-1, len(self.lora_A)), self.lora_B.t().to(output.dtype))
        return output


def use_gguf_lora(module: Any, weight: str, rank: int, dtype: torch.dtype) -> None:
    """Replace the `GGUFLinear` whose weight has that name by one with room for a LoRA of a rank, in `dtype`."""
    name = weight.removesuffix(".weight")
    module.set_submodule(name, GGUFLoraLinear(module.get_submodule(name), rank, dtype))


def with_lora(linear: GGUFLinear, down: torch.Tensor, up: torch.Tensor) -> GGUFLoraLinear:
    """Return a layer with the same weight and bias, which are shared, and these factors (rank, in) and (out, rank)."""
    layer = GGUFLoraLinear(linear, len(down), down.dtype)
    layer.weight, layer.bias = linear.weight, linear.bias
    layer.lora_A, layer.lora_B = (torch.nn.Parameter(factor, requires_grad=False) for factor in (down, up))
    return layer.train(linear.training)


def factor_names(weight: str) -> tuple[str, str]:
    """Return the names of the two factors beside a weight."""
    layer = weight.removesuffix(".weight")
    return f"{layer}.lora_A", f"{layer}.lora_B"


def _on_meta(rows: int, columns: int, dtype: torch.dtype) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.empty((rows, columns), dtype=dtype, device="meta"), requires_grad=False)

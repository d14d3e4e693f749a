"""A LoRA beside a quantized weight gives what merging it into the restored weight gives."""

import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter, dequantize_gguf_tensor
from gguf import GGMLQuantizationType as Type

from pipelines.layers.gguf_lora import factor_names, use_gguf_lora
from tests.support.models.wan_files import quantized

INSIDE, OUTSIDE, RANK = 64, 96, 5


def layer(dtype: torch.dtype, has_bias: bool) -> tuple[torch.nn.Module, torch.nn.Linear]:
    """A quantized layer with a LoRA, and the plain layer in fp64 that equals it."""
    generator = torch.Generator().manual_seed(0)
    weight, down, up, bias = (
        torch.randn(shape, generator=generator)
        for shape in ((OUTSIDE, INSIDE), (RANK, INSIDE), (OUTSIDE, RANK), (OUTSIDE,))
    )
    model = torch.nn.Sequential(GGUFLinear(INSIDE, OUTSIDE, has_bias, compute_dtype=dtype, device="meta"))
    use_gguf_lora(model, "0.weight", RANK, dtype)
    stored = {
        "0.weight": GGUFParameter(torch.from_numpy(quantized(weight, Type.Q8_0)), quant_type=Type.Q8_0),
        **dict(zip(factor_names("0.weight"), (down.to(dtype), up.to(dtype)), strict=True)),
    }
    if has_bias:
        stored["0.bias"] = bias
    assert stored.keys() == dict(model.named_parameters()).keys()
    for name, tensor in stored.items():
        model[0].register_parameter(name.removeprefix("0."), torch.nn.Parameter(tensor, requires_grad=False))
    merged = torch.nn.Linear(INSIDE, OUTSIDE, has_bias, dtype=torch.float64)
    merged.weight.data = (
        dequantize_gguf_tensor(stored["0.weight"]).double() + up.to(dtype).double() @ down.to(dtype).double()
    )
    if has_bias:
        merged.bias.data = bias.double()
    return model, merged


@torch.no_grad()
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("shape", [(INSIDE,), (7, INSIDE), (2, 3, INSIDE)])
def test_it_equals_the_merged_layer(shape: tuple[int, ...], has_bias: bool) -> None:
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 0.02)):
        model, merged = layer(dtype, has_bias)

        output = model(inputs.to(dtype))

        expected = merged(inputs.to(dtype).double())
        assert output.dtype is dtype
        assert output.shape == expected.shape
        assert float((output.double() - expected).norm() / expected.norm()) < error

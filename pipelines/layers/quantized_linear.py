"""Linear layers that multiply in fp8 or int8, of which tensor cores do twice as many a second as in bf16.

Both sides of a product are rounded: each row of the weight, once, and each token as it comes, every one to a scale of
its own, so that the product of the scales undoes them exactly ("row-wise", "dynamic"). It is what torchao's
`Float8DynamicActivationFloat8WeightConfig(PerRow())` and `Int8DynamicActivationInt8WeightConfig` do. The weights are
torchao's; the arithmetic is written out here on torch's own operations, for three reasons:

- torchao is made for `torch.compile`. As it stands it reads and writes memory 33 (fp8) and 80 bytes for each number
  that it rounds, which takes most of what the faster product gains; here it is 13 and 37.
- it makes each of these tensors for all tokens at once, gigabytes at 720p; here it is done `CHUNK_TOKENS` at a time.
- its fp8 refuses to run without a GPU; torch's product runs anywhere, so that it can be tested anywhere.

And kept as two plain tensors a layer, weight and scale, they are pinned, streamed and mapped as any others are.

Which layers: the attentions' projections and the MLP of every block, as LightX2V quantizes Wan (`tools/convert`:
`target_keys` "self_attn", "cross_attn", "ffn"). Embeddings of patches, time and text, modulation, norms and the way out
keep their exactness, as diffusers keeps them from its own casting (`_skip_layerwise_casting_patterns`): what goes wrong
there goes wrong in every block, and they are a hundredth of the arithmetic.
"""

from typing import Any

import torch

from pipelines.core.precision import CHUNK_TOKENS, Precision

_MULTIPLE = 16
"""Sides of an fp8 matrix must be multiples of it, those of an int8 one of half of it."""

_LEAST = 1e-12
"""What the largest number of a row or token counts as when all are 0: a scale divides."""

_FORMS = {Precision.FP8_MATMUL: torch.float8_e4m3fn, Precision.INT8_MATMUL: torch.int8}


class QuantizedLinear(torch.nn.Module):
    """A linear layer whose weight (out, in) is fp8 or int8 with one fp32 scale a row (out, 1); it comes on "meta"."""

    def __init__(self, linear: torch.nn.Linear, precision: Precision, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        shape, form = (linear.out_features, linear.in_features), _FORMS[precision]
        self.weight = _frozen(torch.empty(shape, dtype=form, device="meta"))
        self.weight_scale = _frozen(torch.empty((linear.out_features, 1), dtype=torch.float32, device="meta"))
        has_bias = linear.bias is not None
        self.bias = _frozen(torch.empty(linear.out_features, dtype=dtype, device="meta")) if has_bias else None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """(…, in) → (…, out), in the dtype of `values`."""
        tokens = values.reshape(-1, self.in_features)
        multiply = _multiply_int8 if self.weight.dtype is torch.int8 else _multiply_fp8
        if torch.compiler.is_compiling():
            # a compiler keeps no numbers in between, and so needs no chunks
            whole = multiply(tokens, self.weight, self.weight_scale, self.bias, None)
            return whole.to(values.dtype).reshape(*values.shape[:-1], self.out_features)
        made = tokens.new_empty(len(tokens), self.out_features)
        # evenly, as torch's product of int8 takes no fewer than 17 rows
        chunks = max(1, -(-len(tokens) // CHUNK_TOKENS))
        for chunk, out in zip(tokens.tensor_split(chunks), made.tensor_split(chunks), strict=True):
            multiply(chunk, self.weight, self.weight_scale, self.bias, out)
        return made.reshape(*values.shape[:-1], self.out_features)


def use_quantized_linear(module: Any, precision: Precision, dtype: torch.dtype) -> list[str]:
    """Put such layers in the place of the blocks' linear ones, where their sides allow; returns the weights' names."""
    names = []
    for index, block in enumerate(module.blocks):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, torch.nn.Linear) and all(side % _MULTIPLE == 0 for side in layer.weight.shape):
                block.set_submodule(name, QuantizedLinear(layer, precision, dtype))
                names.append(f"blocks.{index}.{name}.weight")
    return names


def scale_name(weight: str) -> str:
    """The name of the scales that belong to a weight of that name."""
    return f"{weight}_scale"


def quantize(weight: torch.Tensor, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, in) → the same in fp8 or int8, and the fp32 scales of its rows (out, 1)."""
    # a second start reads what was made here, and has no need of it
    from torchao.quantization import Float8Tensor, Int8Tensor, PerRow
    from torchao.quantization.quantize_.common import KernelPreference

    if precision is Precision.INT8_MATMUL:
        made = Int8Tensor.from_hp(weight.float(), granularity=PerRow())
    else:
        made = Float8Tensor.from_hp(
            weight.float(),
            granularity=PerRow(),
            hp_value_lb=_LEAST,
            kernel_preference=KernelPreference.TORCH,
        )
    return made.qdata, made.scale.reshape(-1, 1)


def _multiply_fp8(
    tokens: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    token_scale = _largest(tokens) / torch.finfo(weight.dtype).max
    rounded = (tokens / token_scale).to(weight.dtype)
    # the product adds a bias to what it rounds to bf16 itself, but to nothing else
    adds = bias if tokens.dtype is torch.bfloat16 else None
    product = torch._scaled_mm(
        rounded, weight.t(), token_scale, scale.t(), bias=adds, out_dtype=tokens.dtype, use_fast_accum=True, out=out
    )
    return product if bias is None or adds is not None else torch.add(product, bias, out=out)


def _multiply_int8(
    tokens: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    token_scale = _largest(tokens) / torch.iinfo(weight.dtype).max
    rounded = (tokens / token_scale).round_().to(weight.dtype)
    product = torch._int_mm(rounded, weight.t()) * token_scale
    if bias is None:
        return torch.mul(product, scale.t(), out=out)
    return torch.addcmul(bias, product, scale.t(), out=out)


def _largest(tokens: torch.Tensor) -> torch.Tensor:
    """The largest magnitude of each token (tokens, 1), in fp32."""
    return torch.linalg.vector_norm(tokens, float("inf"), dim=-1, keepdim=True).float().clamp_(min=_LEAST)


def _frozen(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)

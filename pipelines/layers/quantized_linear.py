"""Linear layers that multiply in fp8 or int8, which tensor cores do twice as fast as in bf16.

Both factors of a product are quantized: each row of the weight once, and each token when it arrives, all with scales of
their own ("row-wise", "dynamic"). The product of the scales restores the result. This is what torchao's
`Float8DynamicActivationFloat8WeightConfig(PerRow())` and `Int8DynamicActivationInt8WeightConfig` do. The weights are
quantized by torchao; the arithmetic is written here with torch's own operations, for three reasons:

- torchao is made for `torch.compile`. Uncompiled it reads and writes 33 (fp8) and 80 bytes for each value that it
  quantizes, which costs most of what the faster product gains; here it is 13 and 37 bytes.
- torchao creates each of these tensors for all tokens at once, gigabytes at 720p; here it is done for `CHUNK_TOKENS` at
  a time.
- torchao's fp8 needs a GPU; torch's product runs everywhere, so that it can be tested everywhere.

Because each layer stores two plain tensors, weight and scale, these are pinned, streamed and memory-mapped like others.

The quantized layers are the attentions' projections and the MLP of every block, as LightX2V quantizes Wan
(`tools/convert`: `target_keys` "self_attn", "cross_attn", "ffn"). Embeddings of patches, time and text, modulation,
norms and the output layer stay exact, as with diffusers' own casting (`_skip_layerwise_casting_patterns`): their errors
reach every block, and they are a hundredth of the arithmetic.
"""

from typing import Any

import torch

from pipelines.core.precision import CHUNK_TOKENS, Precision

_MULTIPLE = 16
"""The sides of an fp8 matrix must be multiples of it, those of an int8 matrix of half of it."""

_MIN_MAGNITUDE = 1e-12
"""The least magnitude of a row or token, because values are divided by its scale."""

_DTYPES = {Precision.FP8_MATMUL: torch.float8_e4m3fn, Precision.INT8_MATMUL: torch.int8}


class QuantizedLinear(torch.nn.Module):
    """A linear layer on the meta device: its weight (out, in) is fp8 or int8, with an fp32 scale per row (out, 1)."""

    def __init__(self, linear: torch.nn.Linear, precision: Precision, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        shape = (linear.out_features, linear.in_features)
        self.weight = _frozen(torch.empty(shape, dtype=_DTYPES[precision], device="meta"))
        self.weight_scale = _frozen(torch.empty((linear.out_features, 1), dtype=torch.float32, device="meta"))
        has_bias = linear.bias is not None
        self.bias = _frozen(torch.empty(linear.out_features, dtype=dtype, device="meta")) if has_bias else None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply values (…, in). Return (…, out) in their dtype."""
        tokens = values.reshape(-1, self.in_features)
        multiply = _multiply_int8 if self.weight.dtype is torch.int8 else _multiply_fp8
        if torch.compiler.is_compiling():
            # compiled code stores no intermediate tensors, and so needs no chunks
            whole = multiply(tokens, self.weight, self.weight_scale, self.bias, None)
            return whole.to(values.dtype).reshape(*values.shape[:-1], self.out_features)
        product = tokens.new_empty(len(tokens), self.out_features)
        # of equal size, because torch's int8 product needs at least 17 rows
        chunks = max(1, -(-len(tokens) // CHUNK_TOKENS))
        for chunk, out in zip(tokens.tensor_split(chunks), product.tensor_split(chunks), strict=True):
            multiply(chunk, self.weight, self.weight_scale, self.bias, out)
        return product.reshape(*values.shape[:-1], self.out_features)


def use_quantized_linear(module: Any, precision: Precision, dtype: torch.dtype) -> list[str]:
    """Replace the linear layers of all blocks whose sides allow it. Return the names of the quantized weights."""
    names = []
    for index, block in enumerate(module.blocks):
        for name, layer in list(block.named_modules()):
            if isinstance(layer, torch.nn.Linear) and all(side % _MULTIPLE == 0 for side in layer.weight.shape):
                block.set_submodule(name, QuantizedLinear(layer, precision, dtype))
                names.append(f"blocks.{index}.{name}.weight")
    return names


def scale_name(weight: str) -> str:
    """Return the name of a weight's scales."""
    return f"{weight}_scale"


def quantize(weight: torch.Tensor, precision: Precision) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantize a weight (out, in) to fp8 or int8. Return it with the fp32 scales of its rows (out, 1)."""
    # imported late: later starts read the quantized weights from disk
    from torchao.quantization import Float8Tensor, Int8Tensor, PerRow
    from torchao.quantization.quantize_.common import KernelPreference

    if precision is Precision.INT8_MATMUL:
        quantized = Int8Tensor.from_hp(weight.float(), granularity=PerRow())
    else:
        quantized = Float8Tensor.from_hp(
            weight.float(),
            granularity=PerRow(),
            hp_value_lb=_MIN_MAGNITUDE,
            kernel_preference=KernelPreference.TORCH,
        )
    return quantized.qdata, quantized.scale.reshape(-1, 1)


def _multiply_fp8(
    tokens: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    token_scale = _magnitude(tokens) / torch.finfo(weight.dtype).max
    quantized = (tokens / token_scale).to(weight.dtype)
    # torch's product adds a bias only if its output is bf16
    fused_bias = bias if tokens.dtype is torch.bfloat16 else None
    product = torch._scaled_mm(
        quantized,
        weight.t(),
        token_scale,
        scale.t(),
        bias=fused_bias,
        out_dtype=tokens.dtype,
        use_fast_accum=True,
        out=out,
    )
    return product if bias is None or fused_bias is not None else torch.add(product, bias, out=out)


def _multiply_int8(
    tokens: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None
) -> torch.Tensor:
    token_scale = _magnitude(tokens) / torch.iinfo(weight.dtype).max
    quantized = (tokens / token_scale).round_().to(weight.dtype)
    product = torch._int_mm(quantized, weight.t()) * token_scale
    if bias is None:
        return torch.mul(product, scale.t(), out=out)
    return torch.addcmul(bias, product, scale.t(), out=out)


def _magnitude(tokens: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude of each token (tokens, 1), in fp32."""
    return torch.linalg.vector_norm(tokens, float("inf"), dim=-1, keepdim=True).float().clamp_(min=_MIN_MAGNITUDE)


def _frozen(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor, requires_grad=False)

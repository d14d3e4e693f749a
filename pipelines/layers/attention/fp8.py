"""Attention whose two products are computed in fp8, by a kernel of cuDNN that torch does not offer.

At 720p attention is three quarters of a step's arithmetic, and on a Hopper chip this kernel is 1.5 times as fast as the
bf16 one (docs/speed.md). Its inputs are rounded to three bits beside the exponent, all tokens and heads of a tensor
with one scale. Two shifts that do not change attention make the most of these bits:

- A vector added to all keys adds the same to all scores of a query, which softmax ignores. So the mean of the keys,
  which is most of a trained model's keys, is subtracted ("smoothed" in SageAttention, arXiv:2410.02367).
- A vector added to all values is added to every output, because a query's weights sum to 1. So the mean of the values
  is subtracted before and added after.

The kernel is up to a sixth slower if the last tile of keys is not full, which it is for a video only by chance. So keys
and values of 0 are added. After these shifts 0 is the mean, and because exp is convex, no query gives an added key more
weight than the average of the others. That weight is small and known, and is removed again.

The kernel also rounds its outputs to fp8. On a CPU the same steps are computed one by one: slower than exact attention,
but it shows on any machine what the rounding does to a video.
"""

from functools import cache
from typing import Any

import torch
from torch.nn import functional

DTYPE = torch.float8_e4m3fn
WEIGHT_SCALE = 256.0
"""Factor of the weights (0 … 1) before they are rounded: small ones would become 0."""

TILE = 256
"""Keys in a tile of cuDNN's kernel: the larger of its two sizes."""

MIN_KEYS = 515
"""Attention over fewer keys, as over a prompt or two images, stays exact: fp8 would save no time."""

CPU_QUERIES = 1024
"""Queries that a CPU computes at a time."""

_MIN_MAGNITUDE = 1e-12
"""The least magnitude of a tensor, because values are divided by its scale."""


def fp8_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Compute attention of (batch, heads, queries, dim) to (batch, heads, keys, dim), in the dtype of `query`."""
    key_mean, value_mean = (part.mean(-2, keepdim=True) for part in (key, value))
    added = -key.shape[-2] % TILE
    rounded_query, query_scale = _rounded(query, torch.zeros_like(key_mean))
    rounded_key, key_scale = _rounded(key, key_mean, added)
    rounded_value, value_scale = _rounded(value, value_mean, added)
    outputs, log_sum = _attend(rounded_query, rounded_key, rounded_value, query_scale, key_scale, value_scale)
    # no output exceeds the largest value, so that the values' scale fits the outputs too. Added keys have the score 0
    units = value_scale / (1 - added * torch.exp(-log_sum))
    return torch.addcmul(value_mean, outputs.to(query.dtype), units.to(query.dtype))


def unavailable_reason() -> str | None:
    """Return why cuDNN's kernel cannot be called; None if it can."""
    try:
        import cudnn  # noqa: F401
    except ImportError:
        return "the package nvidia-cudnn-frontend is not installed."
    return None


def _rounded(part: torch.Tensor, mean: torch.Tensor, added: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a tensor without its mean in fp8, followed by `added` tokens of 0, and its fp32 scale (1).

    It lies in memory as (batch, tokens, heads, dim), as projections return it. The scale comes from an upper bound of
    the largest magnitude, which needs no second pass over the tensor: a larger scale costs a float no precision.
    """
    largest = torch.linalg.vector_norm(part, float("inf"), dim=-2, keepdim=True) + mean.abs()
    scale = largest.amax().float().clamp(min=_MIN_MAGNITUDE).reshape(1) / torch.finfo(DTYPE).max
    centred = (part - mean).div_(scale.to(part.dtype))
    return _laid_out((functional.pad(centred, (0, 0, 0, added)) if added else centred).to(DTYPE)), scale


def _laid_out(part: torch.Tensor) -> torch.Tensor:
    return part.transpose(1, 2).contiguous().transpose(1, 2)


@torch.library.custom_op("paddock::fp8_attention", mutates_args=(), device_types="cuda")
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_scale: torch.Tensor,
    key_scale: torch.Tensor,
    value_scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute attention on fp8 tensors. Return fp8 outputs in units of the values' scale, and the log-sum-exp.

    The latter are the logarithms of the sums of exp of all scores, (batch, heads, queries, 1) in fp32.
    """
    outputs, log_sum = _outputs_like(query)
    graph = _graph(query.device, tuple(query.shape), key.shape[-2])
    scales = (query_scale, key_scale, value_scale)
    graph.run(_laid_out(query), _laid_out(key), _laid_out(value), scales, outputs, log_sum)
    return outputs, log_sum


@_attend.register_fake
def _(query: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs_like(query)


@_attend.register_kernel("cpu")
def _attend_on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_scale: torch.Tensor,
    key_scale: torch.Tensor,
    value_scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, log_sum = _outputs_like(query)
    score_scale = query_scale * key_scale * query.shape[-1] ** -0.5
    keys, values = key.float().transpose(-1, -2), value.float()
    for queries, out, logs in zip(
        *(part.split(CPU_QUERIES, dim=-2) for part in (query, outputs, log_sum)), strict=True
    ):
        scores = (queries.float() @ keys) * score_scale
        largest = scores.amax(-1, keepdim=True)
        weights = torch.exp(scores - largest)
        products, sums = (weights * WEIGHT_SCALE).to(DTYPE).float() @ values, weights.sum(-1, keepdim=True)
        out.copy_(products / WEIGHT_SCALE / sums)
        logs.copy_(largest + sums.log())
    return outputs, log_sum


def _outputs_like(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, tokens, dim = query.shape
    log_sum = torch.empty(batch, heads, tokens, 1, dtype=torch.float32, device=query.device)
    return query.new_empty(batch, tokens, heads, dim).transpose(1, 2), log_sum


class _Graph:
    """cuDNN's graph of the operation, for tensors of one shape on one device."""

    def __init__(self, device: torch.device, shape: tuple[int, ...], keys: int) -> None:
        import cudnn

        self._device = device
        self._handle = _handle(device)
        fp8, fp32 = cudnn.data_type.FP8_E4M3, cudnn.data_type.FLOAT
        graph = cudnn.pygraph(
            io_data_type=fp8, intermediate_data_type=fp32, compute_data_type=fp32, handle=self._handle
        )
        batch, heads, queries, dim = shape

        def strides(tokens: int) -> list[int]:
            return [tokens * heads * dim, dim, heads * dim, 1]

        def tensor(tokens: int) -> Any:
            return graph.tensor(dim=[batch, heads, tokens, dim], stride=strides(tokens), data_type=fp8)

        self._inputs = [tensor(queries), tensor(keys), tensor(keys)]
        self._scales = [graph.tensor(dim=[1] * 4, stride=[1] * 4, data_type=fp32) for _ in range(6)]
        self._output, self._log_sum, *self._largest = graph.sdpa_fp8(
            *self._inputs, *self._scales, attn_scale=dim**-0.5, generate_stats=True
        )
        self._output.set_output(True).set_dim(list(shape)).set_stride(strides(queries)).set_data_type(fp8)
        stats = self._log_sum.set_output(True).set_dim([batch, heads, queries, 1])
        stats.set_stride([heads * queries, queries, 1, 1]).set_data_type(fp32)
        for largest in self._largest:
            largest.set_output(True).set_dim([1] * 4).set_stride([1] * 4).set_data_type(fp32)
        graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
        self._graph = graph

    def run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scales: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        output: torch.Tensor,
        log_sum: torch.Tensor,
    ) -> None:
        """Compute `output` and `log_sum` from tensors of the graph's shapes."""
        import cudnn

        weights = (scales[0].new_full((1,), scale) for scale in (1 / WEIGHT_SCALE, WEIGHT_SCALE))
        given = [each.reshape(1, 1, 1, 1) for each in (*scales, *weights, 1 / scales[2])]
        # the kernel always returns the largest weight and output, which nothing here uses
        largest = [scales[0].new_empty(1, 1, 1, 1) for _ in self._largest]
        workspace = torch.empty(self._graph.get_workspace_size(), dtype=torch.uint8, device=self._device)
        tensors = [*self._inputs, *self._scales, self._output, self._log_sum, *self._largest]
        cudnn.set_stream(self._handle, torch.cuda.current_stream(self._device).cuda_stream)
        self._graph.execute(
            dict(zip(tensors, [query, key, value, *given, output, log_sum, *largest], strict=True)),
            workspace,
            handle=self._handle,
        )


@cache
def _handle(device: torch.device) -> Any:
    import cudnn

    with torch.cuda.device(device):
        return cudnn.create_handle()


@cache
def _graph(device: torch.device, shape: tuple[int, ...], keys: int) -> _Graph:
    with torch.cuda.device(device):
        return _Graph(device, shape, keys)

"""Attention whose two products are in fp8: cuDNN's kernel for it, which torch has no name for.

At 720p attention is three quarters of a step's arithmetic, and on a Hopper chip this kernel does half as much again a
second as the bf16 one (docs/speed.md). What it multiplies is rounded to three bits beside the exponent, all tokens and
heads of a tensor to one scale. Two shifts that change nothing of attention make the most of these bits:

- a vector added to all keys adds the same to all scores of a query, so that softmax does not see it: the keys' mean,
  which is most of a trained model's keys, is taken off ("smoothed" in SageAttention, arXiv:2410.02367);
- a vector added to all values is added to every output, as the weights of a query are 1 together: the values' mean is
  taken off before and put back after.

The kernel loses up to a sixth of its speed where the last tile of keys is not full, and a video's tokens fill it only
by chance: so keys and values of 0 are added. With these shifts 0 is the mean, and exp being convex no query gives it
more weight than it gives all others on average: a small weight, which is known and taken off again.

The kernel rounds what it returns to fp8 too. On a processor the same steps are done one by one: slower than exact
attention, to see what the rounding does to a video anywhere.
"""

from functools import cache
from typing import Any

import torch
from torch.nn import functional

FORM = torch.float8_e4m3fn
WEIGHT_SCALE = 256.0
"""What a weight, 0 … 1, is multiplied by before it is rounded: small ones would be 0 otherwise."""

TILE = 256
"""Keys in a tile of cuDNN's kernel, the larger of those it takes."""

LEAST_KEYS = 513
"""Attention to fewer keys, which is to a prompt, stays exact: there is no time to be gained."""

QUERIES = 1024
"""How many queries a processor takes at a time."""

_LEAST = 1e-12
"""The least scale, for a tensor of nothing but 0: a scale divides."""


def fp8_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of (batch, heads, queries, dim) to (batch, heads, keys, dim), in the dtype of `query`."""
    key_mean, value_mean = (part.mean(-2, keepdim=True) for part in (key, value))
    added = -key.shape[-2] % TILE
    rounded_query, query_scale = _rounded(query, torch.zeros_like(key_mean))
    rounded_key, key_scale = _rounded(key, key_mean, added)
    rounded_value, value_scale = _rounded(value, value_mean, added)
    made, log_sum = _attend(rounded_query, rounded_key, rounded_value, query_scale, key_scale, value_scale)
    # no output is larger than the largest value: in units of its scale it fits the form. The score of 0 is 0
    units = value_scale / (1 - added * torch.exp(-log_sum))
    return torch.addcmul(value_mean, made.to(query.dtype), units.to(query.dtype))


def why_not() -> str | None:
    """Why cuDNN's kernel cannot be called from here; None if it can."""
    try:
        import cudnn  # noqa: F401
    except ImportError:
        return "the package nvidia-cudnn-frontend is not installed."
    return None


def _rounded(part: torch.Tensor, mean: torch.Tensor, added: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor without its mean in fp8, laid out (batch, tokens, heads, dim) as projections leave it.

    So many tokens of 0 follow it. With it its fp32 scale (1). That may be too large, by a bound for the largest number
    instead of that number: a float loses nothing by it, and one pass over the tensor finds both the mean and the bound.
    """
    largest = torch.linalg.vector_norm(part, float("inf"), dim=-2, keepdim=True) + mean.abs()
    scale = largest.amax().float().clamp(min=_LEAST).reshape(1) / torch.finfo(FORM).max
    less = (part - mean).div_(scale.to(part.dtype))
    return _laid_out((functional.pad(less, (0, 0, 0, added)) if added else less).to(FORM)), scale


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
    """fp8 tensors and their scales → outputs in fp8, in units of the values' scale.

    And the logarithms of the sums of exp of all scores, (batch, heads, queries, 1) in fp32.
    """
    made, log_sum = _outputs_like(query)
    graph = _graph(query.device, tuple(query.shape), key.shape[-2])
    graph.run(_laid_out(query), _laid_out(key), _laid_out(value), (query_scale, key_scale, value_scale), made, log_sum)
    return made, log_sum


@_attend.register_fake
def _(query: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return _outputs_like(query)


@_attend.register_kernel("cpu")
def _attend_on_processor(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_scale: torch.Tensor,
    key_scale: torch.Tensor,
    value_scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    made, log_sum = _outputs_like(query)
    by_scores = query_scale * key_scale * query.shape[-1] ** -0.5
    keys, values = key.float().transpose(-1, -2), value.float()
    for queries, out, logs in zip(*(part.split(QUERIES, dim=-2) for part in (query, made, log_sum)), strict=True):
        scores = (queries.float() @ keys) * by_scores
        largest = scores.amax(-1, keepdim=True)
        weights = torch.exp(scores - largest)
        products, sums = (weights * WEIGHT_SCALE).to(FORM).float() @ values, weights.sum(-1, keepdim=True)
        out.copy_(products / WEIGHT_SCALE / sums)
        logs.copy_(largest + sums.log())
    return made, log_sum


def _outputs_like(query: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    batch, heads, tokens, dim = query.shape
    log_sum = torch.empty(batch, heads, tokens, 1, dtype=torch.float32, device=query.device)
    return query.new_empty(batch, tokens, heads, dim).transpose(1, 2), log_sum


class _Graph:
    """cuDNN's graph of one operation, for tensors of one shape on one device."""

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
        """Compute `output` and `log_sum` from tensors of the graph's shape."""
        import cudnn

        weights = (scales[0].new_full((1,), scale) for scale in (1 / WEIGHT_SCALE, WEIGHT_SCALE))
        given = [each.reshape(1, 1, 1, 1) for each in (*scales, *weights, 1 / scales[2])]
        # the largest weight and output, which a next rounding could be planned by: not asked for, but always told
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

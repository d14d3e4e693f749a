"""Bytes of a transformer's activations. The formulas count the tensors that are alive at the peak.

Tests compare them with a trace of the real modules at their real sizes. `stream` below is the residual stream.
"""

from pipelines.core.precision import CHUNK_TOKENS, FEED_FORWARD_SLICES, Accuracy, Precision
from pipelines.planning.layout import Layout
from pipelines.planning.shapes import BF16, FP32, ModelShape, TransformerShape

ROWS = 16
"""Rows that a CPU computes together in a matrix product: the bytes change if a slice divides them, or has very few."""


def slice_size(tokens: int, most: int) -> int:
    """The size of slices of at most `most` tokens: about equal and, where possible, a multiple of ROWS."""
    count = -(-tokens // most)
    return min(most, -(-tokens // (count * ROWS)) * ROWS)


def activation_bytes(shape: ModelShape, tokens: int, layout: Layout) -> int:
    """Peak bytes of activations for so many tokens, in a batch of any size, by a layout.

    It includes the quantized copies that products in fp8 or int8 need.
    """
    transformer = shape.transformer
    peak = _in_slices if layout.slice_tokens else _whole
    # the cosines and sines of the rotary embedding are alive throughout
    return round(
        peak(transformer, tokens, layout, shape.expand_timesteps) + tokens * 8 * transformer.attention_head_dim
    )


def _whole(transformer: TransformerShape, tokens: int, layout: Layout, expand_timesteps: bool) -> float:
    """The peak is at the modulation or in attention, or in the MLP.

    With standard accuracy the former is the bf16 stream, its norm, and two fp32 copies. With a timestep per token the
    modulation itself is as long as the video, six channels wide, and summed in fp32. With high accuracy it is the
    stream before and after the first attention, and a query while it is normalised. The MLP has the stream, its norm,
    and the hidden layer before and after its activation.
    """
    is_high = layout.accuracy is Accuracy.HIGH
    width = transformer.width
    hidden = _hidden(transformer, layout.precision)
    rounding = min(tokens, CHUNK_TOKENS) * _rounding(transformer.width, transformer.ffn_dim, layout.precision)
    if is_high:
        time = tokens * _time(transformer, is_high) if expand_timesteps else 0
        return time + max(tokens * 24 * width, tokens * (10 * width + hidden) + rounding)
    modulation = (64.8 if expand_timesteps else 22) * width
    return max(tokens * modulation, tokens * (8 * width + hidden) + rounding)


def _in_slices(transformer: TransformerShape, tokens: int, layout: Layout, expand_timesteps: bool) -> float:
    """The peak is in attention: the stream, queries, keys, values, and the input or the output. For fewer tokens than
    a few slices it is in one of the slices: of the keys' norm, or of the MLP with its norm and hidden layer.
    """
    is_high = layout.accuracy is Accuracy.HIGH
    width, stream = transformer.width, FP32 if is_high else BF16
    others = tokens * (stream * width + (_time(transformer, is_high) if expand_timesteps else 0))
    chunk = min(tokens, CHUNK_TOKENS)
    attention = tokens * 4 * BF16 * width + chunk * _rounding(width, width, layout.precision)
    at_once = min(tokens, slice_size(tokens, FEED_FORWARD_SLICES * layout.slice_tokens))
    rounding = chunk * _rounding(width, transformer.ffn_dim, layout.precision)
    mlp = at_once * (BF16 * width + _hidden(transformer, layout.precision)) + rounding
    # beside input and output, the gated output and the sum in fp32, and a bf16 stream's own copy in fp32
    gated = at_once * (2 * BF16 + (2 if is_high else 3) * FP32) * width
    # beside the input and the queries, the keys and a slice of them in fp32, squared, normalised, and rounded
    keys = (tokens * 3 * BF16 + slice_size(tokens, layout.slice_tokens) * (3 * FP32 + BF16)) * width
    return others + max(attention, keys, mlp, gated)


def _time(transformer: TransformerShape, is_high: bool) -> int:
    """Bytes per token of the embedding of a timestep and of the six values of its modulation."""
    return 7 * (FP32 if is_high else BF16) * transformer.width


def _hidden(transformer: TransformerShape, precision: Precision) -> int:
    """Bytes per token of the MLP's hidden layer, before and after its activation."""
    # products in fp8 and int8 need the one before for a chunk of tokens only
    return (1 if precision.multiplies else 2) * BF16 * transformer.ffn_dim


def _rounding(inputs: int, width: int, precision: Precision) -> int:
    """Bytes per token that a product in fp8 or int8 needs for each chunk of tokens.

    For fp8 these are the fp32 values and their fp8 copy, for int8 the int32 products and their scaled copy.
    """
    if not precision.multiplies:
        return 0
    return 2 * FP32 * width + inputs if precision is Precision.INT8_MATMUL else (FP32 + 1) * width

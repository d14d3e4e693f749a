"""How much memory of the GPU and of the host a layout needs. Arithmetic only, no torch."""

from functools import partial

from pipelines.core.geometry import Geometry
from pipelines.core.precision import CHUNK_TOKENS, Precision
from pipelines.planning.layout import GIB, Decoding, Layout, Residence
from pipelines.planning.shapes import BF16, FP32, ModelShape
from pipelines.planning.tiles import OVERLAP, spans

CONTEXT_BYTES = round(0.95 * GIB)
"""What the driver and the libraries' workspaces take of a card beside all tensors, on an H200 (docs/speed.md)."""

CONVOLVING = 0.14
"""What convolutions take to work in, as a share of the memory of decoding: the same at 480p and at 720p, there."""

FRAGMENTATION = 0.05
"""Share of a plan's tensors that the allocator is granted on top, for the holes it leaves."""

HOST_BASE_BYTES = 4 * GIB
"""The worker process with torch and CUDA, before any weights."""

SHARD_BYTES = GIB
"""Weights that are stored anew are collected up to this many bytes before they are written."""

BLOCKS_IN_FLIGHT = 2
"""Of a streamed transformer the block that computes and the next one are on the card; of a text encoder, two layers."""


def stage_peaks(shape: ModelShape, largest: Geometry, layout: Layout) -> dict[str, int]:
    """Bytes of the card in each stage: what rests there, and what the stage itself needs."""
    rests, active = transformer_device_bytes(shape, layout)
    encoder = shape.text_encoder
    encoder_active = (encoder.other_parameters + 2 * encoder.d_model * encoder.d_ff) * BF16
    encoder_rests = encoder.parameters * BF16 if layout.text_encoder is Residence.RESIDENT else 0
    always = shape.vae.parameters * BF16
    stages = {
        "encoding the prompt": rests + (encoder_rests or encoder_active) + encoder.activation_bytes(),
        "denoising": encoder_rests
        + active
        + dequantized_bytes(shape, layout.precision)
        + activation_bytes(shape, shape.tokens(largest) * (1 + layout.batched), layout.precision),
        "decoding": rests + encoder_rests + decode_bytes(shape, largest, layout.decoding) * (1 + CONVOLVING),
    }
    return {name: round((always + tensors) * (1 + FRAGMENTATION)) + CONTEXT_BYTES for name, tensors in stages.items()}


def block_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of one block as stored; four bits, and scales for each row, are for its matrices only."""
    transformer = shape.transformer
    if precision is Precision.Q4 or precision.multiplies:
        others = transformer.block_parameters - transformer.block_matrix_parameters
        scales = transformer.block_matrix_rows * FP32 if precision.multiplies else 0
        return round(transformer.block_matrix_parameters * precision.itemsize) + scales + others * BF16
    return round(transformer.block_parameters * precision.itemsize)


def blocks_bytes(shape: ModelShape, precision: Precision, count: int) -> int:
    """Bytes of so many blocks, of both experts where there are two: of the largest ones where they differ."""
    if precision is Precision.GGUF:
        return sum(_largest(kept.blocks, count) for kept in shape.kept)
    return shape.experts * count * block_bytes(shape, precision)


def _largest(sizes: tuple[int, ...], count: int) -> int:
    return sum(sorted(sizes, reverse=True)[:count])


def transformer_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of the transformer, or of both experts."""
    blocks = blocks_bytes(shape, precision, shape.transformer.num_layers)
    if precision is Precision.GGUF:
        return blocks + sum(kept.others for kept in shape.kept)
    return blocks + shape.experts * shape.transformer.other_parameters * BF16


def transformer_device_bytes(shape: ModelShape, layout: Layout) -> tuple[int, int]:
    """Bytes of the transformer, or of both experts, on the card between uses and while one is used."""
    if layout.transformer is Residence.RESIDENT:
        whole = transformer_bytes(shape, layout.precision)
        return whole, whole
    rests = blocks_bytes(shape, layout.precision, layout.resident_blocks)
    in_flight = min(BLOCKS_IN_FLIGHT, shape.transformer.num_layers - layout.resident_blocks)
    if layout.precision is Precision.GGUF:
        return rests, rests + max(kept.others + _largest(kept.blocks, in_flight) for kept in shape.kept)
    others = shape.transformer.other_parameters * BF16
    return rests, rests + others + in_flight * block_bytes(shape, layout.precision)


def dequantized_bytes(shape: ModelShape, precision: Precision) -> int:
    """What the largest matrix takes when it is brought back to bf16 for its use.

    Four bits become fp16 first, and both copies are alive for a moment.
    """
    if precision is Precision.GGUF:
        return max(kept.restored for kept in shape.kept)
    largest = shape.transformer.width * shape.transformer.ffn_dim
    return largest * {Precision.FP8: BF16, Precision.Q4: 2 * BF16}.get(precision, 0)


def activation_bytes(shape: ModelShape, tokens: int, precision: Precision) -> int:
    """Bytes of denoising so many tokens, with what is rounded for products in fp8 or int8, at its most in the MLP.

    That adds nothing to a large video, whose worst moment is another.
    """
    transformer = shape.transformer
    exact = transformer.activation_bytes(tokens, shape.expand_timesteps)
    if not precision.multiplies:
        return exact
    # the wide layer once, not before and after its activation; and of some tokens a number in fp32 and its rounded one,
    # or a number in int32 and its scaled one
    rounding = (FP32 + 1) * transformer.ffn_dim
    if precision is Precision.INT8_MATMUL:
        rounding = 2 * FP32 * transformer.ffn_dim + transformer.width
    mlp = tokens * (8 * transformer.width + 2 * transformer.ffn_dim + 8 * transformer.attention_head_dim)
    return max(exact, mlp + min(tokens, CHUNK_TOKENS) * rounding)


def decode_bytes(shape: ModelShape, largest: Geometry, decoding: Decoding) -> int:
    """Bytes of decoding a video in bf16, beside the VAE's weights."""
    if decoding.tile is None:
        return shape.vae.decode_bytes(largest.full_width, largest.full_height, BF16)
    return shape.vae.decode_bytes(*_tile(shape, largest, decoding.tile), BF16)


def _tile(shape: ModelShape, largest: Geometry, side: int) -> tuple[int, int]:
    """Width and height of the tiles of a frame, in pixels."""
    scale = shape.vae.scale_factor_spatial
    width, height = (
        spans(length // scale, side // scale, OVERLAP // scale)[0][1] * scale
        for length in (largest.full_width, largest.full_height)
    )
    return width, height


def host_peak(shape: ModelShape, largest: Geometry, layout: Layout) -> int:
    """Bytes of host memory: what is streamed stays there, what comes from disk passes through memory pinned for it.

    Weights are read, cast and brought to their place one tensor at a time; the file itself is mapped, and its pages
    are the system's to drop. When all are there, a video of tiles waits until it is whole.
    """
    encoder = shape.text_encoder
    embedding = encoder.vocab_size * encoder.d_model * BF16
    encoder_there = {
        Residence.RESIDENT: 0,
        Residence.STREAMED: encoder.parameters * BF16,
        # layer by layer, by torch's own pinned memory, which comes in powers of two
        Residence.DISK: 1 << (embedding - 1).bit_length(),
    }[layout.text_encoder]
    passing = max(SHARD_BYTES, embedding, _waiting_bytes(largest, layout.decoding))
    return HOST_BASE_BYTES + passing + _transformer_host_bytes(shape, layout) + encoder_there


def _waiting_bytes(largest: Geometry, decoding: Decoding) -> int:
    """The bytes of a video of tiles, and as much for their strips, which take less."""
    if decoding.tile is None:
        return 0
    return 2 * 3 * largest.full_num_frames * largest.full_width * largest.full_height


def _transformer_host_bytes(shape: ModelShape, layout: Layout) -> int:
    """Of the transformer, or of both experts: what is outside the blocks travels as it is, and is there as well."""
    if layout.transformer is Residence.RESIDENT:
        return 0
    precision, layers = layout.precision, shape.transformer.num_layers
    blocks = partial(blocks_bytes, shape, precision)
    others = transformer_bytes(shape, precision) - blocks(layers)
    if layout.transformer is Residence.STREAMED:
        return others + blocks(layers - layout.resident_blocks)
    # a quantized file is mapped itself, and the little of it that is not kept as written lies in memory
    converted = sum(kept.converted for kept in shape.kept) if precision is Precision.GGUF else 0
    return others + converted + blocks(BLOCKS_IN_FLIGHT)

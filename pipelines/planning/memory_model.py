"""How much GPU and host memory a layout needs."""

from functools import partial

from pipelines.core.geometry import Geometry
from pipelines.core.precision import Precision
from pipelines.planning.activations import activation_bytes
from pipelines.planning.layout import GIB, Decoding, Layout, Residence
from pipelines.planning.shapes import BF16, FP32, ModelShape
from pipelines.planning.tiles import OVERLAP, spans

CONTEXT_BYTES = round(0.95 * GIB)
"""GPU memory of the driver and of libraries' workspaces, measured on an H200 (docs/speed.md)."""

CONVOLUTION_WORKSPACE = 0.14
"""Workspace of convolutions as a share of the memory of decoding: the same at 480p and 720p on an H200."""

FRAGMENTATION = 0.05
"""Memory that the allocator wastes, as a share of all tensors."""

HOST_BASE_BYTES = 4 * GIB
"""Host memory of a worker process with torch and CUDA, without any weights."""

SHARD_BYTES = GIB
"""Converted weights are collected up to this many bytes and then written to a file."""

BLOCKS_IN_FLIGHT = 2
"""Streamed blocks in GPU memory at a time: the one that computes and the next. Of a text encoder, two layers."""

SOUND_BYTES = 2 * GIB
"""GPU memory of making a sound besides the weights. It has not been measured, but estimated by the widest layer of an
autoencoder for 47 seconds in stereo: 128 channels of 16 bits, four at a time.
"""

TILED_STAGES = ("encoding the image", "encoding the video", "decoding")
"""The stages that need less memory with smaller tiles."""


def stage_peaks(shape: ModelShape, largest: Geometry, layout: Layout) -> dict[str, int]:
    """Peak bytes of GPU memory by stage: weights that stay there, and what the stage itself needs."""
    idle, active = transformer_device_bytes(shape, layout)
    encoder = shape.text_encoder
    encoder_active = (encoder.other_parameters + 2 * encoder.d_model * encoder.d_ff) * BF16
    encoder_idle = shape.encoder_parameters * BF16 if layout.text_encoder is Residence.RESIDENT else 0
    vae_itemsize = FP32 if layout.fp32_decoding else BF16
    always = shape.vae.parameters * vae_itemsize
    decoding = decode_bytes(shape, largest, layout.decoding, vae_itemsize)
    image = _image_bytes(shape, largest, layout, vae_itemsize)
    video = encode_bytes(shape, largest, layout.decoding, shape.video_frames, vae_itemsize)
    sound = shape.sound_parameters * BF16
    stages = {
        "encoding the prompt": idle + (encoder_idle or encoder_active) + encoder.activation_bytes(),
        **({"encoding the image": idle + encoder_idle + image} if image else {}),
        **({"encoding the video": idle + encoder_idle + video * (1 + CONVOLUTION_WORKSPACE)} if video else {}),
        "denoising": encoder_idle
        + active
        + dequantized_bytes(shape, layout.precision)
        + activation_bytes(shape, shape.tokens(largest) * (1 + layout.batched), layout),
        "decoding": idle + encoder_idle + decoding * (1 + CONVOLUTION_WORKSPACE),
        **({"making the sound": idle + encoder_idle + sound + SOUND_BYTES} if sound else {}),
    }
    return {name: round((always + tensors) * (1 + FRAGMENTATION)) + CONTEXT_BYTES for name, tensors in stages.items()}


def _image_bytes(shape: ModelShape, largest: Geometry, layout: Layout, itemsize: int) -> float:
    """Bytes that encoding images takes beside weights that stay: in the VAE, or in the image encoder before it."""
    encoding = encode_bytes(shape, largest, layout.decoding, shape.encoded_frames, itemsize)
    in_vae = encoding * (1 + CONVOLUTION_WORKSPACE)
    encoder = shape.image_encoder
    if encoder is None:
        return in_vae
    streamed = encoder.other_parameters + 2 * encoder.hidden_size * encoder.intermediate_size
    weights = 0 if layout.text_encoder is Residence.RESIDENT else streamed * BF16
    return max(in_vae, weights + encoder.activation_bytes(images=2))


def block_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of one stored block. Only its matrices are in 4 bits or have a scale per row; the rest is in bf16."""
    transformer = shape.transformer
    if precision is Precision.Q4 or precision.multiplies:
        others = transformer.block_parameters - transformer.block_matrix_parameters
        scales = transformer.block_matrix_rows * FP32 if precision.multiplies else 0
        return round(transformer.block_matrix_parameters * precision.itemsize) + scales + others * BF16
    return round(transformer.block_parameters * precision.itemsize)


def blocks_bytes(shape: ModelShape, precision: Precision, count: int) -> int:
    """Bytes of `count` blocks, of each expert if there are two. If blocks differ in size, the largest count."""
    if precision is Precision.GGUF:
        return sum(_largest(stored.blocks, count) for stored in shape.quantized)
    return shape.experts * count * block_bytes(shape, precision)


def _largest(sizes: tuple[int, ...], count: int) -> int:
    return sum(sorted(sizes, reverse=True)[:count])


def transformer_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of the transformer's weights, or of both experts'."""
    blocks = blocks_bytes(shape, precision, shape.transformer.num_layers)
    if precision is Precision.GGUF:
        return blocks + sum(stored.others for stored in shape.quantized)
    return blocks + shape.experts * shape.transformer.other_parameters * BF16


def transformer_device_bytes(shape: ModelShape, layout: Layout) -> tuple[int, int]:
    """Bytes of the transformer, or of both experts, in GPU memory between uses and while one of them runs."""
    if layout.transformer is Residence.RESIDENT:
        whole = transformer_bytes(shape, layout.precision)
        return whole, whole
    idle = blocks_bytes(shape, layout.precision, layout.resident_blocks)
    in_flight = min(BLOCKS_IN_FLIGHT, shape.transformer.num_layers - layout.resident_blocks)
    if layout.precision is Precision.GGUF:
        return idle, idle + max(stored.others + _largest(stored.blocks, in_flight) for stored in shape.quantized)
    others = shape.transformer.other_parameters * BF16
    return idle, idle + others + in_flight * block_bytes(shape, layout.precision)


def dequantized_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of the largest matrix while it is dequantized to bf16.

    4-bit weights become fp16 first; for a moment both copies exist.
    """
    if precision is Precision.GGUF:
        return max(stored.dequantized for stored in shape.quantized)
    largest = shape.transformer.width * shape.transformer.ffn_dim
    return largest * {Precision.FP8: BF16, Precision.Q4: 2 * BF16}.get(precision, 0)


def decode_bytes(shape: ModelShape, largest: Geometry, decoding: Decoding, itemsize: int = BF16) -> int:
    """Bytes of decoding a video by a VAE whose numbers have so many bytes, without its weights."""
    return shape.vae.decode_bytes(*_tile(shape, largest, decoding), itemsize)


def encode_bytes(shape: ModelShape, largest: Geometry, decoding: Decoding, group: int, itemsize: int = BF16) -> int:
    """The same of encoding a video in groups of so many frames, in the tiles in which it is decoded."""
    return shape.vae.encode_bytes(*_tile(shape, largest, decoding), group, itemsize)


def _tile(shape: ModelShape, largest: Geometry, decoding: Decoding) -> tuple[int, int]:
    """Width and height of a frame's tiles in pixels, or of the frame."""
    if decoding.tile is None:
        return largest.full_width, largest.full_height
    scale = shape.vae.scale_factor_spatial
    width, height = (
        spans(length // scale, decoding.tile // scale, OVERLAP // scale)[0][1] * scale
        for length in (largest.full_width, largest.full_height)
    )
    return width, height


def host_peak(shape: ModelShape, largest: Geometry, layout: Layout) -> int:
    """Peak bytes of host memory: streamed weights and those for sounds stay there, weights on disk pass through pinned
    buffers.

    While loading, weights are read, converted and copied one tensor at a time; files are memory-mapped, so the system
    can drop their pages. Later a video that is decoded in tiles is collected in host memory.
    """
    encoder = shape.text_encoder
    embedding = encoder.vocab_size * encoder.d_model * BF16
    encoder_bytes = {
        Residence.RESIDENT: 0,
        Residence.STREAMED: shape.encoder_parameters * BF16,
        # one layer at a time through torch's pinned memory, whose blocks are powers of two
        Residence.DISK: 1 << (embedding - 1).bit_length(),
    }[layout.text_encoder]
    transient = max(SHARD_BYTES, embedding, _tiled_video_bytes(largest, layout.decoding))
    sound = shape.sound_parameters * BF16
    return HOST_BASE_BYTES + transient + _transformer_host_bytes(shape, layout) + encoder_bytes + sound


def converted_bytes(shape: ModelShape, layout: Layout) -> int:
    """Bytes on disk of the weights that are converted once, at most: those on disk may be there in bf16 already."""
    transformer, encoder = 0, 0
    if layout.precision not in (Precision.BF16, Precision.GGUF) or (
        layout.transformer is Residence.DISK and layout.precision is not Precision.GGUF
    ):
        transformer = transformer_bytes(shape, layout.precision)
    if layout.text_encoder is Residence.DISK:
        encoder = shape.encoder_parameters * BF16
    return transformer + encoder


def _tiled_video_bytes(largest: Geometry, decoding: Decoding) -> int:
    """Bytes of a video that is collected from tiles, twice: strips of tiles take at most as much as the video."""
    if decoding.tile is None:
        return 0
    return 2 * 3 * largest.full_num_frames * largest.full_width * largest.full_height


def _transformer_host_bytes(shape: ModelShape, layout: Layout) -> int:
    """Host memory of a streamed transformer, or of both experts. The weights outside the blocks are streamed, too."""
    if layout.transformer is Residence.RESIDENT:
        return 0
    precision, layers = layout.precision, shape.transformer.num_layers
    blocks = partial(blocks_bytes, shape, precision)
    others = transformer_bytes(shape, precision) - blocks(layers)
    if layout.transformer is Residence.STREAMED:
        return others + blocks(layers - layout.resident_blocks)
    # a quantized file is memory-mapped; the few tensors that had to be converted are in memory
    converted = sum(stored.converted for stored in shape.quantized) if precision is Precision.GGUF else 0
    return others + converted + blocks(BLOCKS_IN_FLIGHT)

"""A model's shapes, the largest video and a machine → a MemoryPlan: what stays on the card, what is streamed, as what.

Pure arithmetic: it runs anywhere, for any card. `placement` carries a plan out; what it can choose is:

- the transformer's blocks on the card, as many as fit; the others streamed, the next one copied while one computes,
  from host memory or, where the host is short of it, from disk;
- its weights in bf16; or multiplied in fp8 or int8; or stored in fp8, or in 4 bits, and computed with in bf16; a
  quantized file's as they are there;
- the two passes of guidance one by one, or, of streamed blocks, as one batch: then these come once for both;
- the text encoder resident, or streamed layer by layer, from host memory or from disk;
- the VAE always resident, decoding whole frames, or tiles of them.

The text encoder keeps its bf16: it leaves the card between prompts, so that its size costs nothing there. There is no
8-bit integer storage without its arithmetic: fp8 takes the same room and needs no scales.

Of all plans that fit the fastest is taken, then the most exact, then the simplest. Unless the owner has chosen a
precision, what is about as fast as all of it resident in bf16 is fast enough: weights are rounded, which makes another
video, only where the exact ones would have to be waited for. More memory is then never slower but for being more exact,
and with a precision chosen never slower at all.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from itertools import product

from pipelines.core.geometry import Geometry
from pipelines.core.precision import CHUNK_TOKENS, Precision, PrecisionSetting
from pipelines.planning import cost_model as speed
from pipelines.planning.shapes import BF16, FP32, ModelShape
from pipelines.planning.tiles import OVERLAP, spans

GIB = 2**30

CONTEXT_BYTES = round(0.95 * GIB)
"""What the driver and the libraries' workspaces take of a card beside all tensors, on an H200 (docs/speed.md)."""

CONVOLVING = 0.14
"""What convolutions take to work in, as a share of the memory of decoding: the same at 480p and at 720p, there."""

FRAGMENTATION = 0.05
"""Share of a plan's tensors that the allocator is granted on top, for the holes it leaves."""

HOST_BASE_BYTES = 4 * GIB
"""The worker process with torch and CUDA, before any weights."""

HOST_SHARE = 0.9
"""Share of the host's free memory that a plan may use; the rest is the system's."""

SHARD_BYTES = GIB
"""Weights that are stored anew are collected up to this many bytes before they are written."""

BLOCKS_IN_FLIGHT = 2
"""Of a streamed transformer the block that computes and the next one are on the card; of a text encoder, two layers."""

CLEARLY = 0.9
"""Share of a plan's peak below which another needs clearly less: a step down costs loading the model again."""

FAST_ENOUGH = 1.02
"""A step of this many times all-resident bf16's is not worth rounding weights for: nobody notices the time."""


class Residence(StrEnum):
    """Where a part's weights are between uses: on the card, in host memory, or on disk."""

    RESIDENT = "resident"
    STREAMED = "streamed"
    DISK = "streamed from disk"


class Decoding(StrEnum):
    """How the VAE goes over a frame: at once, or by tiles. Smaller ones overlap more, so more is decoded twice."""

    WHOLE = "whole frames"
    TILES_512 = "tiles of 512 pixels"
    TILES_384 = "tiles of 384 pixels"
    TILES_256 = "tiles of 256 pixels"

    @property
    def tile(self) -> int | None:
        """Pixels of a tile's side, at most; None for whole frames."""
        return None if self is Decoding.WHOLE else int(self.split()[2])


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan may use: bytes free on the card and in host memory, the card's compute capability.

    And what the weights may be kept in.
    """

    device_memory: int
    host_memory: int
    capability: tuple[int, int]
    precision: PrecisionSetting = PrecisionSetting.AUTO


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a part, and why."""

    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class Layout:
    """What `load` carries out. `resident_blocks` of the transformer stay on the card even where it is streamed.

    `batched` has both passes of guidance computed as one.
    """

    precision: Precision = Precision.BF16
    transformer: Residence = Residence.RESIDENT
    text_encoder: Residence = Residence.RESIDENT
    decoding: Decoding = Decoding.WHOLE
    resident_blocks: int = 0
    batched: bool = False

    @property
    def name(self) -> str:
        """The layout in a few words: what of it decides a video's bytes, and what it keeps where."""
        partly = "partly " if self.resident_blocks and self.transformer is not Residence.RESIDENT else ""
        batched = ", guidance batched" if self.batched else ""
        return (
            f"{self.precision} {partly}{self.transformer}{batched}, text encoder {self.text_encoder}, {self.decoding}"
        )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A layout, its peaks in bytes, and its speed relative to all of it resident in bf16 (1.0; more is slower)."""

    layout: Layout
    stage_peaks: dict[str, int]
    host_peak: int
    relative_seconds_per_step: float

    @property
    def name(self) -> str:
        """The layout in a few words."""
        return self.layout.name

    @property
    def device_peak(self) -> int:
        """Bytes of the card at the worst moment, driver and fragmentation included."""
        return max(self.stage_peaks.values())

    def fits(self, machine: Machine) -> bool:
        """Whether card and host have room for it."""
        return self.device_peak <= machine.device_memory and self.host_peak <= machine.host_memory

    def shortfall(self, machine: Machine) -> str:
        """A sentence of what is missing; empty when it fits."""
        lacks = []
        if self.device_peak > machine.device_memory:
            stage = max(self.stage_peaks, key=lambda name: self.stage_peaks[name])
            lacks.append(
                f"{_gib(self.device_peak)} of the card for {stage}, where {_gib(machine.device_memory)} is free"
            )
        if self.host_peak > machine.host_memory:
            lacks.append(f"{_gib(self.host_peak)} of host memory, where {_gib(machine.host_memory)} is free")
        return f"It would need {' and '.join(lacks)}." if lacks else ""


def plan(shape: ModelShape, largest: Geometry, machine: Machine) -> MemoryPlan:
    """The best plan that fits the largest video to be made; if none fits, the one that lacks the least of the card.

    Of those that do not fit, one that the host has room for comes first.
    """
    candidates = list(_candidates(shape, largest, machine))
    fitting = [candidate for candidate in candidates if candidate.fits(machine)]
    if fitting:
        return min(fitting, key=partial(_preference, machine.precision))
    return min(candidates, key=lambda c: (c.host_peak > machine.host_memory, c.device_peak, c.host_peak))


def next_plan(shape: ModelShape, largest: Geometry, machine: Machine, than: MemoryPlan) -> MemoryPlan | None:
    """The next plan down from one that ran out of memory: the best that needs clearly less of the card.

    Where none does, any that needs less; None where there is none. The host must have room for it.
    """
    # the plan may have been made for a video of another size: what counts is what its layout needs for this one
    peak = priced(shape, largest, machine, than.layout).device_peak
    # what is known not to fit the card is not worth loading
    for limit in (min(round(CLEARLY * peak), machine.device_memory), min(peak - 1, machine.device_memory)):
        lower = plan(shape, largest, replace(machine, device_memory=limit))
        if lower.fits(replace(machine, device_memory=limit)):
            return lower
    return None


def _preference(setting: PrecisionSetting, candidate: MemoryPlan) -> tuple[float, ...]:
    layout = candidate.layout
    enough = FAST_ENOUGH if setting is PrecisionSetting.AUTO else 0.0
    return (
        max(enough, candidate.relative_seconds_per_step),
        layout.precision.exactness,
        layout.batched,
        candidate.relative_seconds_per_step,
        list(Decoding).index(layout.decoding),
        list(Residence).index(layout.text_encoder),
        list(Residence).index(layout.transformer),
        candidate.host_peak,
    )


def _candidates(shape: ModelShape, largest: Geometry, machine: Machine) -> Iterator[MemoryPlan]:
    precisions = (Precision.GGUF,) if shape.kept else machine.precision.allowed(machine.capability)
    for precision, transformer, text_encoder, decoding, batched in product(
        precisions, Residence, Residence, Decoding, (False, True)
    ):
        if batched and (transformer is Residence.RESIDENT or not shape.guidance):
            # a batch of two computes for as long as two passes: it is only for what has to come twice otherwise
            continue
        layout = Layout(precision, transformer, text_encoder, decoding, batched=batched)
        candidate = priced(shape, largest, machine, layout)
        yield candidate
        if transformer is not Residence.RESIDENT and candidate.device_peak < machine.device_memory:
            block = _blocks_bytes(shape, precision, 1) * (1 + FRAGMENTATION)
            # rounding may cost a byte a stage
            free = machine.device_memory - candidate.device_peak - len(candidate.stage_peaks)
            blocks = min(shape.transformer.num_layers - 1, int(free / block))
            if blocks > 0:
                yield priced(shape, largest, machine, replace(layout, resident_blocks=blocks))


def priced(shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout) -> MemoryPlan:
    """A layout with what it needs and how fast it is."""
    return MemoryPlan(
        layout=layout,
        stage_peaks=_stage_peaks(shape, largest, layout),
        host_peak=_host_peak(shape, largest, layout),
        relative_seconds_per_step=_relative_speed(shape, largest, machine, layout),
    )


def _stage_peaks(shape: ModelShape, largest: Geometry, layout: Layout) -> dict[str, int]:
    """Bytes of the card in each stage: what rests there, and what the stage itself needs."""
    rests, active = _transformer_bytes(shape, layout)
    encoder = shape.text_encoder
    encoder_active = (encoder.other_parameters + 2 * encoder.d_model * encoder.d_ff) * BF16
    encoder_rests = encoder.parameters * BF16 if layout.text_encoder is Residence.RESIDENT else 0
    always = shape.vae.parameters * BF16
    stages = {
        "encoding the prompt": rests + (encoder_rests or encoder_active) + encoder.activation_bytes(),
        "denoising": encoder_rests
        + active
        + _restored_bytes(shape, layout.precision)
        + _activation_bytes(shape, shape.tokens(largest) * (1 + layout.batched), layout.precision),
        "decoding": rests + encoder_rests + decode_bytes(shape, largest, layout.decoding) * (1 + CONVOLVING),
    }
    return {name: round((always + tensors) * (1 + FRAGMENTATION)) + CONTEXT_BYTES for name, tensors in stages.items()}


def _block_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of one block as stored; four bits, and scales for each row, are for its matrices only."""
    transformer = shape.transformer
    if precision is Precision.Q4 or precision.multiplies:
        others = transformer.block_parameters - transformer.block_matrix_parameters
        scales = transformer.block_matrix_rows * FP32 if precision.multiplies else 0
        return round(transformer.block_matrix_parameters * precision.itemsize) + scales + others * BF16
    return round(transformer.block_parameters * precision.itemsize)


def _blocks_bytes(shape: ModelShape, precision: Precision, count: int) -> int:
    """Bytes of so many blocks, of both experts where there are two: of the largest ones where they differ."""
    if precision is Precision.GGUF:
        return sum(_largest(kept.blocks, count) for kept in shape.kept)
    return shape.experts * count * _block_bytes(shape, precision)


def _largest(sizes: tuple[int, ...], count: int) -> int:
    return sum(sorted(sizes, reverse=True)[:count])


def _whole_bytes(shape: ModelShape, precision: Precision) -> int:
    """Bytes of the transformer, or of both experts."""
    blocks = _blocks_bytes(shape, precision, shape.transformer.num_layers)
    if precision is Precision.GGUF:
        return blocks + sum(kept.others for kept in shape.kept)
    return blocks + shape.experts * shape.transformer.other_parameters * BF16


def _transformer_bytes(shape: ModelShape, layout: Layout) -> tuple[int, int]:
    """Bytes of the transformer, or of both experts, on the card between uses and while one is used."""
    if layout.transformer is Residence.RESIDENT:
        whole = _whole_bytes(shape, layout.precision)
        return whole, whole
    rests = _blocks_bytes(shape, layout.precision, layout.resident_blocks)
    in_flight = min(BLOCKS_IN_FLIGHT, shape.transformer.num_layers - layout.resident_blocks)
    if layout.precision is Precision.GGUF:
        return rests, rests + max(kept.others + _largest(kept.blocks, in_flight) for kept in shape.kept)
    others = shape.transformer.other_parameters * BF16
    return rests, rests + others + in_flight * _block_bytes(shape, layout.precision)


def _restored_bytes(shape: ModelShape, precision: Precision) -> int:
    """What the largest matrix takes when it is brought back to bf16 for its use.

    Four bits become fp16 first, and both copies are alive for a moment.
    """
    if precision is Precision.GGUF:
        return max(kept.restored for kept in shape.kept)
    largest = shape.transformer.width * shape.transformer.ffn_dim
    return largest * {Precision.FP8: BF16, Precision.Q4: 2 * BF16}.get(precision, 0)


def _activation_bytes(shape: ModelShape, tokens: int, precision: Precision) -> int:
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


def _host_peak(shape: ModelShape, largest: Geometry, layout: Layout) -> int:
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
    blocks = partial(_blocks_bytes, shape, precision)
    others = _whole_bytes(shape, precision) - blocks(layers)
    if layout.transformer is Residence.STREAMED:
        return others + blocks(layers - layout.resident_blocks)
    # a quantized file is mapped itself, and the little of it that is not kept as written lies in memory
    converted = sum(kept.converted for kept in shape.kept) if precision is Precision.GGUF else 0
    return others + converted + blocks(BLOCKS_IN_FLIGHT)


def _relative_speed(shape: ModelShape, largest: Geometry, machine: Machine, layout: Layout) -> float:
    """Seconds of a step over those with everything resident in bf16, by the passes that come one after another."""
    transformer, tokens, together = shape.transformer, shape.tokens(largest), 1 + layout.batched
    compute = together * speed.seconds_in_bf16(transformer, tokens, machine.capability)
    taken = together * speed.seconds(transformer, tokens, machine.capability, layout.precision)
    if layout.transformer is not Residence.RESIDENT:
        copied = _blocks_bytes(shape, layout.precision, 1) / shape.experts
        streamed = transformer.num_layers - layout.resident_blocks
        # the first block of a pass is waited for; the others arrive while their predecessors compute. That a batch
        # waits for its first only once is left out: it is not worth a batch's memory
        taken = together * copied / speed.HOST_TO_DEVICE + max(taken, streamed * copied / speed.HOST_TO_DEVICE)
        if layout.transformer is Residence.DISK:
            # it hides behind computing as well, but nobody knows how slow a disk is: the last resort
            taken += streamed * copied / speed.DISK_TO_HOST
    return taken / compute


def choices(chosen: MemoryPlan, shape: ModelShape, machine: Machine) -> dict[str, Choice]:
    """Each part's choice with its reason, for people."""
    guidance = Choice(
        "one batch" if chosen.layout.batched else "one pass after another",
        "the blocks that come and go do so once for both passes"
        if chosen.layout.batched
        else "a batch of two takes as long, and more memory, unless what comes and goes is waited for",
    )
    return {
        "transformer": _transformer_choice(chosen.layout, shape),
        "transformer weights": _precision_choice(chosen.layout, shape, machine),
        "guidance": guidance,
        "text encoder": _text_encoder_choice(chosen.layout, shape, machine),
        "VAE": Choice(
            f"bf16, {chosen.layout.decoding}",
            "a group of frames at a time fits whole"
            if chosen.layout.decoding is Decoding.WHOLE
            else "whole frames would need more of the card than the rest leaves",
        ),
    }


def _precision_choice(layout: Layout, shape: ModelShape, machine: Machine) -> Choice:
    sources = " and ".join(f"{file.name} ({', '.join(file.forms)})" for file in shape.files)
    if layout.precision is Precision.GGUF:
        beside = "; the other transformer in bf16" if len(shape.kept) > sum(bool(f.kept) for f in shape.files) else ""
        return Choice(layout.precision, f"{sources}: quantized already, and kept as it is{beside}")
    if layout.precision is Precision.BF16:
        reason = "as published, and exact"
    elif machine.precision is not PrecisionSetting.AUTO:
        reason = f"as chosen: {machine.precision}"
    else:
        reason = (
            f"with more exact ones a step takes longer, or they do not fit: the card has "
            f"{_gib(machine.device_memory)} free, the host {_gib(machine.host_memory)}"
        )
    return Choice(layout.precision, f"from {sources}; {reason}" if sources else reason)


def _transformer_choice(layout: Layout, shape: ModelShape) -> Choice:
    layers, whole = shape.transformer.num_layers, _gib(_whole_bytes(shape, layout.precision))
    if layout.transformer is Residence.RESIDENT:
        return Choice(layout.transformer, f"its {whole} stay on the card beside the activations")
    words = layout.transformer if not layout.resident_blocks else f"partly {layout.transformer}"
    kept = f"{layout.resident_blocks} of its {layers} blocks stay there" if layout.resident_blocks else "none stays"
    hidden = (
        "copying hides behind computing"
        if layout.transformer is Residence.STREAMED
        else "the host has no room for them, and reading them adds to each step"
    )
    return Choice(words, f"its {whole} do not fit beside the activations; {kept}, the others come and go, and {hidden}")


def _text_encoder_choice(layout: Layout, shape: ModelShape, machine: Machine) -> Choice:
    size = _gib(shape.text_encoder.parameters * BF16)
    reason = {
        Residence.RESIDENT: f"its {size} fit beside the rest",
        Residence.STREAMED: f"its {size} are needed for a moment per prompt, and kept off the card otherwise",
        Residence.DISK: f"its {size} fit neither the card nor the {_gib(machine.host_memory)} of host memory beside "
        f"the rest; they are needed for a moment per prompt",
    }[layout.text_encoder]
    return Choice(layout.text_encoder, reason)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"

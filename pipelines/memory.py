"""A model's shapes, the largest video and a machine → a MemoryPlan: what stays on the card, what is streamed, as what.

Pure arithmetic: it runs anywhere, for any card. `load` carries a plan out with diffusers' own hooks; what a plan can
choose is what they can do:

- the transformer's blocks resident, or streamed from host memory, the next one copied while one computes;
- its weights in bf16, or stored in fp8 and computed in bf16 (diffusers' layerwise casting);
- the text encoder resident, or streamed layer by layer;
- the VAE always resident, decoding whole frames, or tiles of them.

Of all plans that fit the fastest is taken, then the most exact, then the simplest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from pipelines.geometry import Geometry
from pipelines.shapes import BF16, ModelShape

GIB = 2**30

CONTEXT_BYTES = round(0.7 * GIB)
"""What the driver and the libraries' workspaces take of a card beside all tensors."""

FRAGMENTATION = 0.05
"""Share of a plan's tensors that the allocator is granted on top, for the holes it leaves."""

HOST_BASE_BYTES = 4 * GIB
"""The worker process with torch and CUDA, before any weights."""

PINNED_FACTOR = 1.5
"""Pinned memory is handed out in powers of two: a Wan block of 670 MiB takes about 1 GiB."""

BLOCKS_IN_FLIGHT = 2
"""Of a streamed transformer the block that computes and the next one are on the card; of a text encoder, two layers."""

TILE_PIXELS = (256, 256)
TILE_OVERLAP = (256 / 192) ** 2
"""Diffusers' tiles, and how many pixels they hold for each of the video's."""

CLEARLY = 0.9
"""Share of a plan's peak below which another needs clearly less: a step down costs loading the model again."""

# assumptions that only weigh plans against each other: what dense bf16 matmuls reach in practice, by capability
_FLOPS = {(7, 5): 30e12, (8, 0): 150e12, (8, 6): 45e12, (8, 9): 90e12, (9, 0): 400e12, (10, 0): 800e12, (12, 0): 110e12}
_HOST_TO_DEVICE = 16e9
_FP8_CAST_COST = 0.04
"""Of a step: every weight is read once more and written as bf16 before its use."""


class Precision(StrEnum):
    """How the weights of the transformer's blocks are stored; they are computed with in bf16."""

    BF16 = "bf16"
    FP8 = "fp8"

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return {Precision.BF16: 2, Precision.FP8: 1}[self]


class Residence(StrEnum):
    """Where a part's weights are between uses."""

    RESIDENT = "resident"
    STREAMED = "streamed"


class Decoding(StrEnum):
    """How the VAE goes over a frame."""

    WHOLE = "whole frames"
    TILED = "tiles"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan may use: bytes free on the card and in host memory, and the card's compute capability."""

    device_memory: int
    host_memory: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for a part, and why."""

    choice: str
    reason: str


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model is laid out; peaks in bytes, speed relative to all of it resident in bf16 (1.0; more is slower)."""

    precision: Precision
    transformer: Residence
    text_encoder: Residence
    decoding: Decoding
    stage_peaks: dict[str, int]
    host_peak: int
    relative_seconds_per_step: float

    @property
    def name(self) -> str:
        """The plan in a few words: what of it decides a video's bytes, and what it keeps where."""
        return f"{self.precision} {self.transformer}, text encoder {self.text_encoder}, {self.decoding}"

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
    """The best plan that fits the largest video to be made; if none fits, the one that lacks the least of the card."""
    candidates = list(_candidates(shape, largest, machine))
    fitting = [candidate for candidate in candidates if candidate.fits(machine)]
    if fitting:
        return min(fitting, key=_preference)
    return min(candidates, key=lambda candidate: (candidate.device_peak, candidate.host_peak))


def leaner(shape: ModelShape, largest: Geometry, machine: Machine, than: MemoryPlan) -> MemoryPlan | None:
    """The next plan down from one that ran out of memory: the best of those that need clearly less of the card.

    Where none does, any that needs less; None where there is none. The host must have room for it.
    """
    candidates = list(_candidates(shape, largest, machine))
    # the plan may have been made for a video of another size: what counts is what its layout needs for this one
    peak = next(candidate.device_peak for candidate in candidates if candidate.name == than.name)
    lower = [
        candidate
        for candidate in candidates
        if candidate.device_peak < peak and candidate.host_peak <= machine.host_memory
    ]
    clearly = [candidate for candidate in lower if candidate.device_peak <= CLEARLY * peak]
    return min(clearly or lower, key=_preference, default=None)


def _preference(candidate: MemoryPlan) -> tuple[float, ...]:
    return (
        candidate.relative_seconds_per_step,
        candidate.precision is not Precision.BF16,
        candidate.decoding is not Decoding.WHOLE,
        candidate.text_encoder is not Residence.RESIDENT,
    )


def _candidates(shape: ModelShape, largest: Geometry, machine: Machine) -> Iterator[MemoryPlan]:
    for precision, transformer, text_encoder, decoding in product(Precision, Residence, Residence, Decoding):
        yield MemoryPlan(
            precision=precision,
            transformer=transformer,
            text_encoder=text_encoder,
            decoding=decoding,
            stage_peaks=_stage_peaks(shape, largest, precision, transformer, text_encoder, decoding),
            host_peak=_host_peak(shape, precision, transformer, text_encoder),
            relative_seconds_per_step=_relative_speed(shape, largest, machine, precision, transformer),
        )


def _stage_peaks(
    shape: ModelShape,
    largest: Geometry,
    precision: Precision,
    transformer: Residence,
    text_encoder: Residence,
    decoding: Decoding,
) -> dict[str, int]:
    """Bytes of the card in each stage: what rests there, and what the stage itself needs."""
    whole, active = _transformer_bytes(shape, precision)
    encoder = shape.text_encoder
    encoder_active = (encoder.other_parameters + 2 * encoder.d_model * encoder.d_ff) * BF16
    transformer_rests = whole if transformer is Residence.RESIDENT else 0
    encoder_rests = encoder.parameters * BF16 if text_encoder is Residence.RESIDENT else 0
    always = shape.vae.parameters * BF16
    stages = {
        "encoding the prompt": transformer_rests + (encoder_rests or encoder_active) + encoder.activation_bytes(),
        "denoising": encoder_rests
        + (transformer_rests or active)
        + _upcast_bytes(shape, precision)
        + shape.transformer.activation_bytes(shape.tokens(largest)),
        "decoding": transformer_rests + encoder_rests + decode_bytes(shape, largest, decoding),
    }
    return {name: round((always + tensors) * (1 + FRAGMENTATION)) + CONTEXT_BYTES for name, tensors in stages.items()}


def _transformer_bytes(shape: ModelShape, precision: Precision) -> tuple[int, int]:
    """Bytes of all its weights, and of those on the card while it is streamed. Only the blocks are stored in fp8."""
    block = shape.transformer.block_parameters * precision.itemsize
    others = shape.transformer.other_parameters * BF16
    return others + shape.transformer.num_layers * block, others + BLOCKS_IN_FLIGHT * block


def _upcast_bytes(shape: ModelShape, precision: Precision) -> int:
    """The bf16 copy of the largest fp8 matrix, made for its use."""
    return 0 if precision is Precision.BF16 else shape.transformer.width * shape.transformer.ffn_dim * BF16


def decode_bytes(shape: ModelShape, largest: Geometry, decoding: Decoding) -> int:
    """Bytes of decoding a video in bf16, beside the VAE's weights."""
    if decoding is Decoding.WHOLE:
        return shape.vae.decode_bytes(largest.full_width, largest.full_height, BF16)
    tile = shape.vae.decode_bytes(
        min(TILE_PIXELS[0], largest.full_width), min(TILE_PIXELS[1], largest.full_height), BF16
    )
    video = 3 * largest.full_num_frames * largest.full_width * largest.full_height * BF16
    # all tiles, which overlap, are kept until the end, when their rows, the joined video and its clamped copy join them
    tiles = round(TILE_OVERLAP * video)
    return max(tile, 3 * video) + tiles


def _host_peak(shape: ModelShape, precision: Precision, transformer: Residence, text_encoder: Residence) -> int:
    """Bytes of host memory: what is streamed stays there pinned, what becomes resident passes through, part by part.

    Every part is read in bf16, and cast or moved tensor by tensor.
    """
    read = shape.transformer.parameters * BF16
    stored, _ = _transformer_bytes(shape, precision)
    encoder = shape.text_encoder.parameters * BF16
    parts = ((read, stored, transformer), (encoder, encoder, text_encoder))
    held = peak = 0
    for passing, staying, residence in parts:
        pinned = round(staying * PINNED_FACTOR) if residence is Residence.STREAMED else 0
        peak = max(peak, held + max(passing, pinned))
        held += pinned
    return HOST_BASE_BYTES + peak


def _relative_speed(
    shape: ModelShape, largest: Geometry, machine: Machine, precision: Precision, transformer: Residence
) -> float:
    """Seconds of a step over those with everything resident in bf16."""
    compute = shape.transformer.forward_flops(shape.tokens(largest)) / _flops(machine.capability)
    taken = compute * (1 + (_FP8_CAST_COST if precision is Precision.FP8 else 0))
    if transformer is Residence.STREAMED:
        block = shape.transformer.block_parameters * precision.itemsize / _HOST_TO_DEVICE
        # the first block of a pass is waited for; the others arrive while their predecessors compute
        taken = block + max(taken, shape.transformer.num_layers * block)
    return taken / compute


def _flops(capability: tuple[int, int]) -> float:
    known = [known for known in _FLOPS if known <= capability]
    return _FLOPS[max(known)] if known else _FLOPS[min(_FLOPS)]


def choices(chosen: MemoryPlan, shape: ModelShape, machine: Machine) -> dict[str, Choice]:
    """Each part's choice with its reason, for people."""
    whole, active = _transformer_bytes(shape, chosen.precision)
    encoder = shape.text_encoder.parameters * BF16
    return {
        "transformer": Choice(
            chosen.transformer,
            f"its {_gib(whole)} stay on the card beside the activations"
            if chosen.transformer is Residence.RESIDENT
            else f"its {_gib(whole)} do not fit beside the activations; streamed, {_gib(active)} are on the card "
            f"at a time, and copying hides behind computing",
        ),
        "transformer weights": Choice(
            chosen.precision,
            "as published, and exact"
            if chosen.precision is Precision.BF16
            else f"in bf16 they would not fit the card or the {_gib(machine.host_memory)} of host memory",
        ),
        "text encoder": Choice(
            chosen.text_encoder,
            f"its {_gib(encoder)} fit beside the rest"
            if chosen.text_encoder is Residence.RESIDENT
            else f"its {_gib(encoder)} are needed for a moment per prompt, and kept off the card otherwise",
        ),
        "VAE": Choice(
            f"bf16, {chosen.decoding}",
            "a group of frames at a time fits whole"
            if chosen.decoding is Decoding.WHOLE
            else "whole frames would need more of the card than the rest leaves",
        ),
    }


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"

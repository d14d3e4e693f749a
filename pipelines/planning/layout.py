"""What a plan chooses between: where weights are kept and how frames are decoded, on which machine."""

from dataclasses import dataclass
from enum import StrEnum

from pipelines.core.precision import Precision, PrecisionSetting

GIB = 2**30

HOST_SHARE = 0.9
"""Share of the host's free memory that a plan may use; the rest is the system's."""


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
            free = format_gib(machine.device_memory)
            lacks.append(f"{format_gib(self.device_peak)} of the card for {stage}, where {free} is free")
        if self.host_peak > machine.host_memory:
            free = format_gib(machine.host_memory)
            lacks.append(f"{format_gib(self.host_peak)} of host memory, where {free} is free")
        return f"It would need {' and '.join(lacks)}." if lacks else ""


def format_gib(size: int) -> str:
    """A number of bytes for people, in GiB."""
    return f"{size / GIB:.1f} GiB"

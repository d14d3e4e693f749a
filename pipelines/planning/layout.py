"""What a plan consists of: where weights are stored, how frames are decoded, and the machine it is made for."""

from dataclasses import dataclass
from enum import StrEnum

from pipelines.core.precision import Accuracy, Precision, PrecisionSetting

GIB = 2**30

HOST_SHARE = 0.9
"""Share of the host's free memory that a plan may use; the rest is left to the system."""


class Residence(StrEnum):
    """Where the weights of a component are between uses: in GPU memory, in host memory or on disk."""

    RESIDENT = "resident"
    STREAMED = "streamed"
    DISK = "streamed from disk"


class Decoding(StrEnum):
    """How the VAE decodes a frame, and encodes one: at once, or in tiles.

    With smaller tiles a larger share is computed twice.
    """

    WHOLE = "whole frames"
    TILES_512 = "tiles of 512 pixels"
    TILES_384 = "tiles of 384 pixels"
    TILES_256 = "tiles of 256 pixels"

    @property
    def tile(self) -> int | None:
        """The longest side of a tile in pixels; None for whole frames."""
        return None if self is Decoding.WHOLE else int(self.split()[2])


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan may use: free bytes of GPU and host memory, and the GPU's compute capability.

    `precision` limits the formats of the weights, `accuracy` the exactness of what is computed with them.
    """

    device_memory: int
    host_memory: int
    capability: tuple[int, int]
    precision: PrecisionSetting = PrecisionSetting.AUTO
    accuracy: Accuracy = Accuracy.HIGH


@dataclass(frozen=True, slots=True)
class Layout:
    """Where a model's weights are stored, in which format, and how it runs.

    `resident_blocks` is how many blocks of a streamed transformer stay in GPU memory. With `batched` both passes of
    guidance run as one batch. The transformer computes `slice_tokens` tokens at a time where it can, 0: all of them.
    With `fp32_decoding` the VAE is in fp32 instead of bf16. An image encoder is placed as the text encoder is.
    """

    precision: Precision = Precision.BF16
    transformer: Residence = Residence.RESIDENT
    text_encoder: Residence = Residence.RESIDENT
    decoding: Decoding = Decoding.WHOLE
    resident_blocks: int = 0
    batched: bool = False
    accuracy: Accuracy = Accuracy.HIGH
    slice_tokens: int = 0
    fp32_decoding: bool = False

    @property
    def name(self) -> str:
        """The layout in a few words. Checkpoints store it, so it changes only if the video's bytes change."""
        partly = "partly " if self.resident_blocks and self.transformer is not Residence.RESIDENT else ""
        batched = ", guidance batched" if self.batched else ""
        stream = ", fp32 residual stream" if self.accuracy is Accuracy.HIGH else ""
        slices = f", slices of {self.slice_tokens} tokens" if self.slice_tokens else ""
        decoding = f"{self.decoding}{' in fp32' if self.fp32_decoding else ''}"
        return (
            f"{self.precision} {partly}{self.transformer}{batched}{stream}{slices}, "
            f"text encoder {self.text_encoder}, {decoding}"
        )


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A layout with its peak memory in bytes, and its time per step relative to all weights resident in bf16."""

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
        """Peak bytes of GPU memory, including the driver and fragmentation."""
        return max(self.stage_peaks.values())

    def fits(self, machine: Machine) -> bool:
        """Whether the plan fits into GPU and host memory."""
        return self.device_peak <= machine.device_memory and self.host_peak <= machine.host_memory

    def shortfall(self, machine: Machine) -> str:
        """A sentence that says which memory is too small; empty if the plan fits."""
        needs = []
        if self.device_peak > machine.device_memory:
            stage = max(self.stage_peaks, key=lambda name: self.stage_peaks[name])
            free = format_gib(machine.device_memory)
            needs.append(f"{format_gib(self.device_peak)} of GPU memory for {stage} ({free} is free)")
        if self.host_peak > machine.host_memory:
            free = format_gib(machine.host_memory)
            needs.append(f"{format_gib(self.host_peak)} of host memory ({free} is free)")
        return f"It needs {' and '.join(needs)}." if needs else ""


def format_gib(size: int) -> str:
    """A number of bytes in GiB, for people."""
    return f"{size / GIB:.1f} GiB"

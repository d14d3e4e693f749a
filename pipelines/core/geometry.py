"""Videos of any size and length, from a pipeline that makes only some of them.

H.264 4:2:0 needs even sides. The pipeline needs sides that are multiples of its VAE scale times its patch size, and
temporal scale * k + 1 frames. So the next larger video is generated, cropped equally on both sides and cut at its end.
"""

from dataclasses import dataclass
from math import ceil, lcm, sqrt
from typing import Literal

Resolution = Literal["480p", "720p"]
"""The sizes that Wan's settings are published for."""

_PIXELS = {"480p": 832 * 480, "720p": 1280 * 720}


def nearest_resolution(width: int, height: int) -> Resolution:
    """Return which of the two a size in pixels is nearer to, by the ratio of pixels."""
    return "480p" if width * height < sqrt(_PIXELS["480p"] * _PIXELS["720p"]) else "720p"


@dataclass(frozen=True, slots=True)
class Grid:
    """The sizes a pipeline can make: sides in multiples of `height` and `width` pixels, `temporal` * k + 1 frames."""

    height: int
    width: int
    temporal: int

    @classmethod
    def of(cls, vae_scale: int, patch: tuple[int, int], temporal: int, side_multiple: int = 1) -> "Grid":
        """The grid for a VAE's spatial scale (pixels per latent), a patch size (latents) and a temporal scale.

        The pipeline itself accepts only sides that are multiples of `side_multiple` pixels.
        """
        height, width = (lcm(vae_scale * side, side_multiple) for side in patch)
        return cls(height, width, temporal)


@dataclass(frozen=True, slots=True)
class Geometry:
    """The video delivered (`width`, `height`, `num_frames`) and the one generated for it (`full_…`)."""

    width: int
    height: int
    num_frames: int
    full_width: int
    full_height: int
    full_num_frames: int

    @classmethod
    def fit(cls, width: int, height: int, num_frames: int, grid: Grid) -> "Geometry":
        """The geometry for a requested size in pixels and length in frames. Odd sides are rounded up to even ones."""
        even_width, even_height = width + width % 2, height + height % 2
        return cls(
            width=even_width,
            height=even_height,
            num_frames=num_frames,
            full_width=ceil(even_width / grid.width) * grid.width,
            full_height=ceil(even_height / grid.height) * grid.height,
            full_num_frames=ceil((num_frames - 1) / grid.temporal) * grid.temporal + 1,
        )

    @property
    def crop(self) -> tuple[slice, slice]:
        """Rows and columns of a generated frame that are delivered: the same amount is cut off both sides."""
        top = (self.full_height - self.height) // 2
        left = (self.full_width - self.width) // 2
        return slice(top, top + self.height), slice(left, left + self.width)

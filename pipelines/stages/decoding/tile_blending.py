"""Blends decoded tiles into whole frames: each tile is faded into those above and left of it, as diffusers does it.

Only the strips of a tile that its lower and right neighbours overlap are kept, in host memory.
"""

import torch

from pipelines.planning.tiles import Span


class TileBlender:
    """Takes the tiles of a video row by row, each as consecutive groups of frames.

    `rows` and `columns` are the tiles' spans, in pixels of the tensors given to `blend`.
    """

    def __init__(self, rows: list[Span], columns: list[Span]) -> None:
        self._rows = rows
        self._columns = columns
        self._lower_strips: dict[tuple[int, int], torch.Tensor] = {}
        self._right_strips: dict[int, torch.Tensor] = {}

    def blend(self, group: torch.Tensor, row: int, column: int, index: int) -> torch.Tensor:
        """Return the `index`-th group (…, h, w) of a tile, without the strips that later tiles overlap."""
        blended = group.float()
        if row > 0:
            blended = _fade(self._lower_strips.pop((column, index)), blended, dim=-2)
        if column > 0:
            blended = _fade(self._right_strips.pop(index), blended, dim=-1)
        height, width = _until_next(self._rows, row), _until_next(self._columns, column)
        # the tiles' own dtype holds all of their precision
        if row + 1 < len(self._rows):
            self._lower_strips[column, index] = blended[..., height:, :].to("cpu", group.dtype, copy=True)
        if column + 1 < len(self._columns):
            self._right_strips[index] = blended[..., width:].to("cpu", group.dtype, copy=True)
        return blended[..., :height, :width]


def _until_next(along: list[Span], index: int) -> int:
    begin, end = along[index]
    return (along[index + 1][0] if index + 1 < len(along) else end) - begin


def _fade(strip: torch.Tensor, tile: torch.Tensor, dim: int) -> torch.Tensor:
    """Return a tile whose first rows (`dim` -2) or columns (-1) are faded from the neighbour's strip."""
    shared = strip.shape[dim]
    weights = torch.arange(shared, device=tile.device, dtype=tile.dtype) / shared
    start, rest = tile.split([shared, tile.shape[dim] - shared], dim)
    faded = torch.lerp(strip.to(start), start, weights.unsqueeze(-1) if dim == -2 else weights)
    return torch.cat([faded, rest], dim)

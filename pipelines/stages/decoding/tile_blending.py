"""Decoded tiles, joined: each is faded into those before it, as diffusers does it.

Of a tile only the strips are kept that its neighbours to the right and below are faded into, in host memory.
"""

import torch

from pipelines.planning.tiles import Span


class Joiner:
    """Takes the tiles of a video row by row, each a group of frames after another, and gives what is new of them.

    `rows` and `columns` are the tiles' spans in the units of what is joined.
    """

    def __init__(self, rows: list[Span], columns: list[Span]) -> None:
        self._rows = rows
        self._columns = columns
        self._below: dict[tuple[int, int], torch.Tensor] = {}
        self._beside: dict[int, torch.Tensor] = {}

    def join(self, group: torch.Tensor, row: int, column: int, index: int) -> torch.Tensor:
        """A tile's group (…, h, w), the `index`-th in time, without what tiles to come will cover as well."""
        joined = group.float()
        if row > 0:
            joined = _fade(self._below.pop((column, index)), joined, dim=-2)
        if column > 0:
            joined = _fade(self._beside.pop(index), joined, dim=-1)
        height, width = _until_next(self._rows, row), _until_next(self._columns, column)
        # in the tiles' own precision, which is all they have
        if row + 1 < len(self._rows):
            self._below[column, index] = joined[..., height:, :].to("cpu", group.dtype, copy=True)
        if column + 1 < len(self._columns):
            self._beside[index] = joined[..., width:].to("cpu", group.dtype, copy=True)
        return joined[..., :height, :width]


def _until_next(along: list[Span], index: int) -> int:
    begin, end = along[index]
    return (along[index + 1][0] if index + 1 < len(along) else end) - begin


def _fade(before: torch.Tensor, tile: torch.Tensor, dim: int) -> torch.Tensor:
    """A tile whose first rows, or columns, come out of the strip of the tile before it."""
    shared = before.shape[dim]
    weights = torch.arange(shared, device=tile.device, dtype=tile.dtype) / shared
    start, rest = tile.split([shared, tile.shape[dim] - shared], dim)
    faded = torch.lerp(before.to(start), start, weights.unsqueeze(-1) if dim == -2 else weights)
    return torch.cat([faded, rest], dim)

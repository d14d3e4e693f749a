"""Tiles are blended into the frame they were cut from."""

import itertools

import torch

from pipelines.planning.tiles import Span, spans
from pipelines.stages.decoding.tile_blending import TileBlender


def join(video: torch.Tensor, rows: list[Span], columns: list[Span]) -> torch.Tensor:
    """A video (channels, t, h, w), cut into tiles and joined again, a frame at a time."""
    blender = TileBlender(rows, columns)
    joined = torch.full_like(video, float("nan"))
    for row, (top, bottom) in enumerate(rows):
        for column, (left, right) in enumerate(columns):
            for index in range(video.shape[1]):
                tile = video[:, index : index + 1, top:bottom, left:right]
                part = blender.blend(tile, row, column, index)
                joined[:, index : index + 1, top : top + part.shape[2], left : left + part.shape[3]] = part
    return joined


def test_tiles_of_one_picture_are_that_picture() -> None:
    video = torch.randn(3, 2, 40, 70, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(join(video, spans(40, 16, 4), spans(70, 32, 8)), video)


def test_a_seam_goes_from_one_tile_to_the_next() -> None:
    blender = TileBlender([(0, 4)], [(0, 6), (2, 8)])

    first = blender.blend(torch.zeros(1, 1, 4, 6), 0, 0, 0)
    second = blender.blend(torch.ones(1, 1, 4, 6), 0, 1, 0)

    assert first.shape[-1] == 2
    torch.testing.assert_close(second[0, 0, 0], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0]))
    torch.testing.assert_close(second, second[..., :1, :].expand_as(second))


def test_what_has_been_joined_is_let_go() -> None:
    blender = TileBlender([(0, 4), (2, 6)], [(0, 4), (2, 6)])
    for row, column, index in itertools.product(range(2), range(2), range(3)):
        blender.blend(torch.zeros(1, 1, 4, 4), row, column, index)

    assert not blender._lower_strips
    assert not blender._right_strips

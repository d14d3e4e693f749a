"""A video of any size and length comes from the next larger one that the pipeline can make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.geometry import Geometry, Grid

WAN21 = Grid.of(vae_scale=8, patch=(2, 2), temporal=4)
WAN22_5B = Grid.of(vae_scale=16, patch=(2, 2), temporal=4)
GRIDS = st.sampled_from([WAN21, WAN22_5B, Grid.of(16, (1, 2), 4)])


def test_the_grids_of_the_published_models() -> None:
    assert Grid(height=16, width=16, temporal=4) == WAN21
    assert Grid(height=32, width=32, temporal=4) == WAN22_5B


@given(width=st.integers(1, 1280), height=st.integers(1, 720), frames=st.integers(1, 120), grid=GRIDS)
def test_the_generated_video_is_the_smallest_that_covers_the_request(
    width: int, height: int, frames: int, grid: Grid
) -> None:
    geometry = Geometry.fit(width, height, frames, grid)

    assert geometry.width % 2 == geometry.height % 2 == 0
    assert geometry.width - width in (0, 1)
    assert geometry.height - height in (0, 1)
    assert geometry.num_frames == frames
    for full, delivered, multiple in (
        (geometry.full_width, geometry.width, grid.width),
        (geometry.full_height, geometry.height, grid.height),
        (geometry.full_num_frames - 1, geometry.num_frames - 1, grid.temporal),
    ):
        assert full % multiple == 0
        assert 0 <= full - delivered < multiple


@given(width=st.integers(1, 1280), height=st.integers(1, 720), grid=GRIDS)
def test_the_crop_is_even_on_both_sides(width: int, height: int, grid: Grid) -> None:
    geometry = Geometry.fit(width, height, 1, grid)

    for kept, full, delivered in zip(
        geometry.crop,
        (geometry.full_height, geometry.full_width),
        (geometry.height, geometry.width),
        strict=True,
    ):
        assert kept.stop - kept.start == delivered
        assert abs(kept.start - (full - kept.stop)) <= 1


@pytest.mark.parametrize(("frames", "full"), [(1, 1), (2, 5), (5, 5), (81, 81), (82, 85), (119, 121), (120, 121)])
def test_a_length_is_rounded_up_never_down(frames: int, full: int) -> None:
    assert Geometry.fit(64, 64, frames, WAN21).full_num_frames == full

"""Frames are encoded group by group to what the library makes of the whole video, and in tiles nearly to that."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.planning.tiles import OVERLAP
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.vae_encoding import encode, encode_frames, in_groups
from pipelines.stages.decoding.decoding import decode_frames
from tests.pipelines.conftest import both_dtypes


def small(layout: str, request: pytest.FixtureRequest) -> Runner:
    return Runner.load(ModelSpec("small", fps=16), request.getfixturevalue(layout), "cpu")


def random_video(width: int, height: int, frames: int) -> torch.Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@both_dtypes
@pytest.mark.parametrize("layout", ["wan21", "ti2v_5b"])
@pytest.mark.parametrize("frames", [1, 5, 13])
@torch.no_grad()
def test_streamed_encoding_equals_the_whole(
    layout: str, frames: int, processor: str, request: pytest.FixtureRequest
) -> None:
    vae = Runner.load(ModelSpec("small", fps=16), request.getfixturevalue(layout), "cpu")._loaded.vae
    video = torch.rand(1, 3, frames, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    whole = vae.encode(video.to(vae.dtype)).latent_dist.mode()
    groups: list[int] = []

    streamed = encode_frames(vae, video.split([1] + [4] * (frames // 4), dim=2), lambda: groups.append(1))

    assert torch.equal(streamed, whole)
    assert len(groups) == 1 + (frames - 1) // 4
    # the cache of frames is empty again
    assert torch.equal(vae.encode(video.to(vae.dtype)).latent_dist.mode(), whole)


@torch.no_grad()
def test_an_interrupted_encoding_leaves_nothing_behind(wan21_runner: Runner) -> None:
    vae: Any = wan21_runner._loaded.vae
    video = torch.rand(1, 3, 9, 64, 96, generator=torch.Generator().manual_seed(1))
    groups = [video[:, :, :1], video[:, :, 1:5], video[:, :, 5:]]
    whole = encode_frames(vae, groups)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_frames(vae, groups, fail)

    assert torch.equal(encode_frames(vae, groups), whole)


def test_groups_have_one_frame_and_then_as_many_as_the_scale() -> None:
    frames = random_video(4, 2, 9)

    groups = list(in_groups(frames.unbind(2), 4))

    assert [group.shape for group in groups] == [(1, 3, 1, 2, 4), (1, 3, 4, 2, 4), (1, 3, 4, 2, 4)]
    assert torch.equal(torch.cat(groups, dim=2), frames)


@both_dtypes
@pytest.mark.parametrize("layout", ["wan21", "ti2v_5b"])
@torch.no_grad()
def test_one_tile_equals_the_whole(layout: str, processor: str, request: pytest.FixtureRequest) -> None:
    runner = small(layout, request)
    geometry, vae, video = Geometry.fit(96, 64, 9, runner._loaded.grid), runner._loaded.vae, random_video(96, 64, 9)

    whole, tiled = (encode(vae, lambda: in_groups(video.unbind(2), 4), geometry, tile) for tile in (None, 256))

    assert torch.equal(whole, tiled)
    assert whole.dtype is torch.float32


@torch.no_grad()
def test_tiles_are_blended_as_diffusers_does_it(wan21_runner: Runner) -> None:
    """With sides that are multiples of diffusers' strides, so that both have the same tiles."""
    vae: Any = wan21_runner._loaded.vae
    side = 2 * 192 + OVERLAP
    geometry, video = Geometry.fit(side, side, 1, wan21_runner._loaded.grid), random_video(side, side, 1)
    vae.enable_tiling()
    try:
        moments = vae.encode(video.to(vae.dtype)).latent_dist.mode().float()
    finally:
        vae.disable_tiling()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )

    tiled = encode(vae, lambda: in_groups(video.unbind(2), 4), geometry, 256)

    assert tiled.shape == moments.shape
    # diffusers adds a third tile that lies inside the second
    own = 2 * 192 // 8
    expected = ((moments - mean) / std)[..., :own, :own]
    torch.testing.assert_close(tiled[..., :own, :own], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("tile", "least"), [(256, 45.0), (384, 45.0)])
@torch.no_grad()
def test_tiles_of_a_trained_vae_show_nearly_what_the_whole_shows(tile: int, least: float) -> None:
    demo = Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")
    frames = demo.frames(VideoParams("an ox by a lake", " ", 320, 448, 5, 4, 5.0, 7)).frames
    vae, geometry = demo._loaded.vae, Geometry.fit(448, 320, 5, demo._loaded.grid)
    pixels = torch.from_numpy(frames / np.float32(127.5) - 1).permute(0, 3, 1, 2)[:, None]

    def shown(tile: int | None) -> Any:
        latents = encode(vae, lambda: in_groups(pixels.unbind(0), 4), geometry, tile)
        return np.concatenate(list(decode_frames(vae, latents))).astype(float)

    whole, tiled = shown(None), shown(tile)

    assert (whole != tiled).any()
    assert psnr_of(tiled, whole) > least
    # both show the frames themselves
    assert abs(psnr_of(tiled, frames) - psnr_of(whole, frames)) < 1
    assert psnr_of(tiled, frames) > 25


def psnr_of(one: Any, other: Any) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2)))


@torch.no_grad()
def test_each_tile_is_encoded_over_the_whole_length_and_may_end_it(wan21_runner: Runner) -> None:
    vae, geometry = wan21_runner._loaded.vae, Geometry.fit(320, 272, 9, wan21_runner._loaded.grid)
    video, begun, ended = random_video(320, 272, 9), 0, 0
    seen: list[int] = []

    def groups() -> Generator[torch.Tensor, None, None]:
        nonlocal begun, ended
        begun += 1
        try:
            yield from in_groups(video.unbind(2), 4)
        finally:
            ended += 1

    def fail() -> None:
        seen.append(begun)
        if len(seen) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(vae, groups, geometry, 256, fail)
    assert (begun, ended) == (2, 2)
    assert seen == [1, 1, 1, 2, 2]

    latents = encode(vae, groups, geometry, 256)

    assert (begun, ended) == (6, 6)
    assert latents.shape == (1, 16, 3, 34, 40)
    assert torch.isfinite(latents).all()

"""Decoding one latent frame at a time, and in tiles, equals the library's decoding."""

import numpy as np
import pytest
import torch

from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.progress import Frames
from pipelines.planning.layout import Decoding
from pipelines.runner.runner import Runner
from pipelines.stages.decoding.decoding import decode_frames


def vae_and_latents(runner: Runner) -> tuple[torch.nn.Module, torch.Tensor]:
    vae = runner._loaded.pipe.vae
    generator = torch.Generator().manual_seed(3)
    return vae, torch.randn(1, vae.config.z_dim, 4, 4, 6, generator=generator)


@torch.no_grad()
def whole(vae: torch.nn.Module, latents: torch.Tensor) -> Frames:
    """The frames that WanPipeline decodes from the same latents in one call."""
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(v).to(vae.dtype).view(shape) for v in (vae.config.latents_mean, vae.config.latents_std))
    decoded = vae.decode(latents.to(vae.dtype) / (1.0 / std) + mean).sample[0].float()
    return ((decoded + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()


@pytest.mark.parametrize("layout", ["demo_runner", "wan21_runner"])
@torch.no_grad()
def test_decoding_in_groups_equals_decoding_at_once(layout: str, request: pytest.FixtureRequest) -> None:
    vae, latents = vae_and_latents(request.getfixturevalue(layout))

    groups = list(decode_frames(vae, latents))

    assert [len(group) for group in groups] == [1, 4, 4, 4]
    np.testing.assert_array_equal(np.concatenate(groups), whole(vae, latents))


@torch.no_grad()
def test_an_interrupted_decoding_does_not_affect_the_next(demo_runner: Runner) -> None:
    vae, latents = vae_and_latents(demo_runner)
    expected = np.concatenate(list(decode_frames(vae, latents)))

    abandoned = decode_frames(vae, torch.randn_like(latents))
    next(abandoned)
    next(abandoned)
    abandoned.close()

    np.testing.assert_array_equal(np.concatenate(list(decode_frames(vae, latents))), expected)


@pytest.mark.parametrize("layout", ["wan21_runner", "demo_runner"])
@torch.no_grad()
def test_tiles_are_blended_as_diffusers_does_it(layout: str, request: pytest.FixtureRequest) -> None:
    """With sides that are multiples of diffusers' strides, so that both have the same tiles."""
    vae, _ = vae_and_latents(request.getfixturevalue(layout))
    scale = vae.config.scale_factor_spatial
    side = (2 * 192 + 64) // scale
    latents = torch.randn(1, vae.config.z_dim, 1, side, side, generator=torch.Generator().manual_seed(1))
    vae.enable_tiling()
    try:
        expected = whole(vae, latents)
    finally:
        vae.disable_tiling()

    tiled = list(decode_frames(vae, latents, Decoding.TILES_256))

    assert [group.shape for group in tiled] == [(1, 2 * 192 + 64, 2 * 192 + 64, 3)]
    # diffusers adds a third tile that lies inside the second
    off = np.concatenate(tiled).astype(int) - expected
    assert abs(off[:, : 2 * 192, : 2 * 192]).max() <= 1


@torch.no_grad()
def test_every_part_of_a_tiled_decoding_is_reported_and_may_end_it(wan21_runner: Runner) -> None:
    vae, _ = vae_and_latents(wan21_runner)
    latents = torch.randn(1, vae.config.z_dim, 2, 33, 34, generator=torch.Generator().manual_seed(1))
    told: list[tuple[int, int]] = []

    groups = list(decode_frames(vae, latents, Decoding.TILES_256, lambda *part: told.append(part)))

    assert [len(group) for group in groups] == [1, 4]
    assert told == [(done, 8) for done in range(1, 9)]
    video = np.concatenate(groups)

    def end(done: int, _parts: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(decode_frames(vae, latents, Decoding.TILES_256, end))
    np.testing.assert_array_equal(np.concatenate(list(decode_frames(vae, latents, Decoding.TILES_256))), video)


@torch.no_grad()
def test_small_frames_are_one_tile(wan21_runner: Runner) -> None:
    vae, latents = vae_and_latents(wan21_runner)

    tiled = np.concatenate(list(decode_frames(vae, latents, Decoding.TILES_384)))

    np.testing.assert_array_equal(tiled, np.concatenate(list(decode_frames(vae, latents))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_nan_and_infinity_are_errors(demo_runner: Runner, value: float) -> None:
    vae, latents = vae_and_latents(demo_runner)
    latents[:, :, 2] = value

    with pytest.raises(NonFiniteOutputError, match="not numbers"):
        list(decode_frames(vae, latents))

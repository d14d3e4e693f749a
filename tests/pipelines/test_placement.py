"""Every mechanism of a plan, carried out on small weights: the same video where the arithmetic is the same."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.decode import decode_frames
from pipelines.errors import GenerationCancelled
from pipelines.geometry import Geometry
from pipelines.load import LoadedPipeline
from pipelines.memory import Decoding, MemoryPlan, Precision, Residence
from pipelines.runner import Runner
from pipelines.spec import ModelSpec, VideoParams
from tests.video import read_video

PARAMS = VideoParams("an ox by a lake", " ", 64, 96, 9, 4, 5.0, 7)


def laid_out(folder: Path, plan: MemoryPlan) -> Runner:
    """The pipeline, placed by a plan on the processor, from which and to which it streams."""
    return Runner.load(ModelSpec("small", fps=16), folder, "cpu", layout=plan)


def planned(precision: Precision, transformer: Residence, text_encoder: Residence, decoding: Decoding) -> MemoryPlan:
    return MemoryPlan(precision, transformer, text_encoder, decoding, {"denoising": 0}, 0, 1.0)


@pytest.mark.parametrize("layout", ["wan21", "weights_folder"])
def test_streaming_gives_the_same_bytes(layout: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(layout)
    videos = []
    for transformer, text_encoder in product(Residence, Residence):
        runner = laid_out(folder, planned(Precision.BF16, transformer, text_encoder, Decoding.WHOLE))
        # the first pass moves everything for the first time
        videos += [runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes() for _ in range(2)]

    assert len(set(videos)) == 1


def test_fp8_storage_stays_close_and_stores_the_blocks_in_a_byte_a_number(
    wan21: Path, wan21_runner: Runner, tmp_path: Path
) -> None:
    runner = laid_out(wan21, planned(Precision.FP8, Residence.RESIDENT, Residence.RESIDENT, Decoding.WHOLE))
    exact = read_video(wan21_runner.run(PARAMS, tmp_path / "exact.mp4").path).astype(float)
    stored = read_video(runner.run(PARAMS, tmp_path / "stored.mp4").path)

    block = runner._loaded.pipe.transformer.blocks[0]
    assert block.ffn.net[2].weight.dtype == block.attn1.to_q.weight.dtype == torch.float8_e4m3fn
    error = np.mean((exact - stored) ** 2)
    assert 10 * np.log10(255**2 / error) > 25


def test_fp8_storage_and_streaming_go_together(wan21: Path, tmp_path: Path) -> None:
    resident, streamed = (
        laid_out(wan21, planned(Precision.FP8, residence, residence, Decoding.WHOLE)) for residence in Residence
    )

    videos = {runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes() for runner in (resident, streamed, streamed)}
    assert len(videos) == 1


@pytest.mark.parametrize("layout", ["wan21_runner", "demo_runner"])
@torch.no_grad()
def test_tiles_are_joined_as_diffusers_joins_them(layout: str, request: pytest.FixtureRequest) -> None:
    loaded: LoadedPipeline = request.getfixturevalue(layout)._loaded
    vae = loaded.pipe.vae
    geometry = Geometry.fit(416, 320, 9, loaded.grid)
    scale = loaded.pipe.vae_scale_factor_spatial
    latents = torch.randn(
        (1, vae.config.z_dim, 3, geometry.full_height // scale, geometry.full_width // scale),
        generator=torch.Generator().manual_seed(1),
    )

    tiled = list(decode_frames(vae, latents, Decoding.TILED))

    assert [len(group) for group in tiled] == [1, 4, 4]
    assert tiled[0].shape[1:] == (geometry.full_height, geometry.full_width, 3)
    whole = list(decode_frames(vae, latents))
    assert [group.shape for group in tiled] == [group.shape for group in whole]
    # random weights see far; away from the seams both are the same picture
    corner = np.abs(tiled[0][:, :64, :64].astype(int) - whole[0][:, :64, :64])
    assert np.median(corner) <= 2


def test_a_cancelled_streamed_run_does_not_harm_the_next(wan21: Path, tmp_path: Path) -> None:
    runner = laid_out(wan21, planned(Precision.BF16, Residence.STREAMED, Residence.STREAMED, Decoding.WHOLE))
    expected = runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes()
    calls = iter([False, True])

    with pytest.raises(GenerationCancelled):
        runner.run(replace(PARAMS, width=64), tmp_path / "cancelled.mp4", cancelled=lambda: next(calls))

    assert runner.run(PARAMS, tmp_path / "video.mp4").path.read_bytes() == expected

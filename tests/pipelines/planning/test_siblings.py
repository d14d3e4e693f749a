"""The other Wan models: plans for their published shapes, and videos from small weights of their layouts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel

from pipelines.core.errors import UnsupportedModelError
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.precision import Precision
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, Decoding, Layout, Machine, Residence
from pipelines.planning.memory_model import stage_peaks, transformer_bytes
from pipelines.planning.planner import evaluate, plan
from tests.support.models.runners import SMALL_VIDEO, small_runner, video_bytes
from tests.support.models.wan22 import WAN22_VAE
from tests.support.video import psnr, read_video

WAN = family_of("WanPipeline")

CATALOGUE = read_catalogue()


@pytest.mark.parametrize(
    ("model", "config", "parameters"),
    [
        (
            "wan-ai-wan2-1-t2v-1-3b-diffusers",
            {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
            1418996800,
        ),
        (
            "wan-ai-wan2-2-ti2v-5b-diffusers",
            {"num_layers": 30, "num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48},
            4999787712,
        ),
        ("wan-ai-wan2-2-t2v-a14b-diffusers", {}, 14288491584),
    ],
)
def test_the_catalogue_states_the_published_shapes(model: str, config: dict[str, int], parameters: int) -> None:
    stated = CATALOGUE[model].model.shape
    assert stated is not None
    shape = WAN.shape(stated)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**config)
        vae = AutoencoderKLWan(**(WAN22_VAE if "5b" in model else {}))

    assert transformer_bytes(shape, Precision.BF16) == 2 * shape.experts * parameters
    assert parameters == sum(p.numel() for p in transformer.parameters())
    assert shape.vae.parameters == sum(p.numel() for p in vae.parameters())
    assert shape.experts == (2 if "a14b" in model else 1)
    assert shape.grid == Grid.of(
        vae.config.scale_factor_spatial, transformer.config.patch_size[1:], vae.config.scale_factor_temporal, 16
    )


@pytest.mark.parametrize("model", CATALOGUE)
@pytest.mark.parametrize(("card", "host"), [(8, 32), (12, 32), (24, 64), (80, 128)])
def test_every_model_has_a_plan_for_its_usual_video(model: str, card: int, host: int) -> None:
    spec = CATALOGUE[model].model
    assert spec.shape is not None
    shape = family_of(spec.pipeline_class).shape(spec.shape)
    machine = Machine((card - 1) * GIB, round(0.9 * host * GIB), (8, 9))

    chosen = plan(shape, Geometry.fit(*spec.sizes[-1], shape.grid), machine)

    # where the VAE encodes and decodes whole frames, it takes 7 to 9 GiB at 720p
    assert chosen.fits(machine), chosen.shortfall(machine)


@pytest.mark.parametrize("decoding", Decoding)
@pytest.mark.parametrize("fp32_decoding", [False, True])
@pytest.mark.parametrize("model", CATALOGUE)
def test_a_plan_never_needs_more_for_the_sake_of_a_video(model: str, decoding: Decoding, fp32_decoding: bool) -> None:
    spec = CATALOGUE[model].model
    assert spec.shape is not None
    family = family_of(spec.pipeline_class)
    shape = family.shape(spec.shape)
    layout = Layout(decoding=decoding, fp32_decoding=fp32_decoding)

    peaks = stage_peaks(shape, Geometry.fit(*spec.sizes[-1], shape.grid), layout)

    assert ("encoding the video" in peaks) is family.takes_video(shape)
    assert peaks.get("encoding the video", 0) < peaks["decoding"]


@pytest.mark.parametrize(
    "model", [name for name, entry in CATALOGUE.items() if entry.model.pipeline_class == "WanImageToVideoPipeline"]
)
def test_images_are_encoded_in_tiles_where_whole_frames_do_not_fit(model: str) -> None:
    spec = CATALOGUE[model].model
    assert spec.shape is not None
    shape = family_of(spec.pipeline_class).shape(spec.shape)
    geometry, machine = Geometry.fit(1280, 720, 81, shape.grid), Machine(7 * GIB, round(0.9 * 32 * GIB), (8, 9))

    chosen = plan(shape, geometry, machine)

    assert chosen.fits(machine), chosen.shortfall(machine)
    assert chosen.layout.decoding is not Decoding.WHOLE
    whole = evaluate(shape, geometry, machine, replace(chosen.layout, decoding=Decoding.WHOLE))
    assert whole.stage_peaks["encoding the image"] > machine.device_memory


# two experts


def test_both_experts_are_used_and_placed_alike(a14b: Path, tmp_path: Path) -> None:
    shape = WAN.read_shape(a14b)
    assert shape.experts == 2
    pipe = WanPipeline.from_pretrained(a14b)
    with torch.no_grad():
        generator = torch.Generator("cpu").manual_seed(7)
        expected = pipe(
            "an ox by a lake",
            " ",
            height=64,
            width=96,
            num_frames=9,
            num_inference_steps=4,
            guidance_scale=5.0,
            generator=generator,
            output_type="latent",
        ).frames
    plain = small_runner(a14b, tmp_path)
    video = video_bytes(plain, tmp_path / "plain.mp4")

    assert plain._loaded.pipe.config.boundary_ratio == 0.875
    assert torch.isfinite(expected).all()
    one = small_runner(a14b, tmp_path)
    one._loaded.pipe.register_to_config(boundary_ratio=None)
    assert video_bytes(one, tmp_path / "one.mp4") != video
    for residence in (Residence.STREAMED, Residence.DISK):
        for blocks in (0, 1):
            layout = Layout(transformer=residence, resident_blocks=blocks)
            # a processor computes on the map itself, which is not aligned: some round otherwise there
            assert psnr(video_bytes(small_runner(a14b, tmp_path, layout), tmp_path / "laid out.mp4"), video) > 40


def test_experts_of_different_shapes_are_an_error(a14b: Path) -> None:
    configs: dict[str, Any] = dict(CATALOGUE["wan-ai-wan2-2-t2v-a14b-diffusers"].model.shape or {})
    configs["transformer_2"] = {**configs["transformer_2"], "num_layers": 30}

    with pytest.raises(UnsupportedModelError, match="differ in shape"):
        WAN.shape(configs)


def test_the_5bs_layout_makes_the_requested_size(ti2v_5b: Path, tmp_path: Path) -> None:
    made_by = small_runner(ti2v_5b, tmp_path)
    assert made_by._loaded.grid == WAN.read_shape(ti2v_5b).grid == Grid(32, 32, 4)

    video = made_by.run(replace(SMALL_VIDEO, width=98, height=70, num_frames=8), tmp_path / "video.mp4")

    assert read_video(video.path).shape == (8, 70, 98, 3)

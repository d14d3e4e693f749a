"""Predicted sizes against the real modules: exact parameters, activations by a trace at real sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from pipelines.core.errors import WeightsNotFoundError
from pipelines.core.geometry import Geometry, Grid
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import Decoding
from pipelines.planning.memory_model import decode_bytes, encode_bytes
from pipelines.planning.shapes import (
    BF16,
    FP32,
    ImageEncoderShape,
    ModelShape,
    TextEncoderShape,
    TransformerShape,
)
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.vae_encoding import encode, encode_frames
from pipelines.stages.decoding.decoding import decode_frames
from tests.support.models.trace import PeakBytes, fake
from tests.support.models.wan22 import WAN22_VAE

WAN = family_of("WanPipeline")

WAN_1_3B = TransformerShape(30, 12, 128, 8960, 4096, 16, 16, (1, 2, 2))


@pytest.fixture(scope="module")
def wan_14b() -> ModelShape:
    """The published model's shapes, from its entry in the catalogue."""
    entry = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
    assert entry.model.shape is not None
    return WAN.shape(entry.model.shape)


def published(model: str) -> ModelShape:
    """The shapes that a model's file states."""
    spec = read_catalogue()[model].model
    assert spec.shape is not None
    return family_of(spec.pipeline_class).shape(spec.shape)


def clip(shape: ImageEncoderShape) -> CLIPVisionModel:
    sizes = {name: getattr(shape, name) for name in ImageEncoderShape.__dataclass_fields__}
    return CLIPVisionModel(CLIPVisionConfig(**sizes, num_attention_heads=16, hidden_act="gelu"))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def parameters_of(shape: TransformerShape) -> int:
    return shape.num_layers * shape.block_parameters + shape.other_parameters


def transformer_config(shape: TransformerShape) -> dict[str, Any]:
    return {name: getattr(shape, name) for name in TransformerShape.__dataclass_fields__}


def encoder_config(shape: TextEncoderShape) -> UMT5Config:
    return UMT5Config(**{name: getattr(shape, name) for name in TextEncoderShape.__dataclass_fields__})


def test_the_real_model_has_exactly_these_parameters(wan_14b: ModelShape) -> None:
    with torch.device("meta"):
        assert parameters_of(wan_14b.transformer) == count(WanTransformer3DModel()) == 14_288_491_584
        assert wan_14b.vae.parameters == count(AutoencoderKLWan()) == 126_892_531
        encoder = UMT5EncoderModel(encoder_config(wan_14b.text_encoder))
        assert wan_14b.text_encoder.parameters == count(encoder) == 5_680_910_336
        assert parameters_of(WAN_1_3B) == count(WanTransformer3DModel(**transformer_config(WAN_1_3B)))


@pytest.mark.parametrize(
    ("model", "parameters", "encoder_parameters"),
    [
        ("wan-ai-wan2-1-i2v-14b-480p-diffusers", 16_394_878_784, 630_766_080),
        ("wan-ai-wan2-1-i2v-14b-720p-diffusers", 16_394_878_784, 630_766_080),
        ("wan-ai-wan2-1-flf2v-14b-720p-diffusers", 16_395_536_704, 630_766_080),
        ("wan-ai-wan2-2-i2v-a14b-diffusers", 14_288_901_184, None),
    ],
)
def test_the_image_models_have_exactly_these_parameters(
    model: str, parameters: int, encoder_parameters: int | None
) -> None:
    shape = published(model)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**transformer_config(shape.transformer))
        assert parameters_of(shape.transformer) == count(transformer) == parameters
    assert count(transformer.blocks[0]) == shape.transformer.block_parameters
    matrices = [layer.weight for layer in transformer.blocks[0].modules() if isinstance(layer, nn.Linear)]
    assert sum(matrix.numel() for matrix in matrices) == shape.transformer.block_matrix_parameters
    assert sum(len(matrix) for matrix in matrices) == shape.transformer.block_matrix_rows
    assert shape.vae.parameters == 126_892_531
    if encoder_parameters is None:
        assert shape.image_encoder is None
        assert shape.experts == 2
    else:
        assert shape.image_encoder is not None
        with torch.device("meta"):
            assert shape.image_encoder.parameters == count(clip(shape.image_encoder)) == encoder_parameters
        assert shape.encoder_parameters == 5_680_910_336 + encoder_parameters


@pytest.mark.parametrize("layout", ["wan21", "weights_folder"])
def test_a_folders_shapes_match_the_loaded_model(layout: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(layout)
    runner: Runner = request.getfixturevalue({"wan21": "wan21_runner", "weights_folder": "demo_runner"}[layout])
    shape, pipe = WAN.read_shape(folder), runner._loaded.pipe

    assert parameters_of(shape.transformer) == count(pipe.transformer)
    assert shape.text_encoder.parameters == count(pipe.text_encoder)
    assert shape.vae.parameters == count(pipe.vae)
    patch = pipe.transformer.config.patch_size[1:]
    assert runner._loaded.grid == shape.grid
    assert shape.grid == Grid.of(pipe.vae_scale_factor_spatial, patch, pipe.vae_scale_factor_temporal, 16)


def test_a_folder_of_another_layout_is_an_error(tmp_path: Path) -> None:
    for part in ("transformer", "text_encoder", "vae"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text("{}")

    with pytest.raises(WeightsNotFoundError, match=r"is not a diffusers folder: it has no model_index\.json"):
        WAN.read_shape(tmp_path)


# activations, by trace: the blocks are alike, so two of them show the worst moment


def test_the_text_encoders_activations(wan_14b: ModelShape) -> None:
    config = encoder_config(wan_14b.text_encoder)
    config.num_layers = 2
    with fake(torch.bfloat16):
        model = UMT5EncoderModel(config).eval()
        torch.set_default_dtype(torch.float32)
        ids, mask = torch.zeros(1, 512, dtype=torch.long), torch.ones(1, 512, dtype=torch.long)
        with PeakBytes([*model.parameters(), *model.buffers(), ids, mask]) as traced:
            model(ids, mask)

    assert wan_14b.text_encoder.activation_bytes() == pytest.approx(traced.peak, rel=0.02)


@pytest.mark.parametrize(
    ("decoding", "video", "dtype"),
    [
        (Decoding.WHOLE, (832, 480, 81), torch.bfloat16),
        (Decoding.WHOLE, (1280, 720, 81), torch.bfloat16),
        (Decoding.WHOLE, (1280, 720, 5), torch.float32),
        (Decoding.WHOLE, (416, 240, 21), torch.bfloat16),
        # every tile of every frame is traced, which takes long
        (Decoding.TILES_256, (416, 240, 21), torch.bfloat16),
        (Decoding.TILES_512, (640, 352, 5), torch.bfloat16),
        (Decoding.TILES_512, (640, 352, 5), torch.float32),
    ],
)
def test_the_decoders_memory(
    decoding: Decoding, video: tuple[int, int, int], dtype: torch.dtype, wan_14b: ModelShape
) -> None:
    width, height, frames = video
    with fake(dtype):
        vae: Any = AutoencoderKLWan().eval()
        latents = torch.empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        with PeakBytes([*vae.parameters(), *vae.buffers(), latents]) as traced:
            run_decoder(vae, latents, decoding)

    predicted = decode_bytes(wan_14b, Geometry.fit(width, height, frames, wan_14b.grid), decoding, dtype.itemsize)
    assert predicted == pytest.approx(traced.peak, rel=0.1)


@pytest.mark.parametrize(("decoding", "size"), [(Decoding.WHOLE, (1280, 704)), (Decoding.TILES_384, (640, 352))])
def test_the_memory_of_wan22s_decoder(decoding: Decoding, size: tuple[int, int]) -> None:
    stated = read_catalogue()["wan-ai-wan2-2-ti2v-5b-diffusers"].model.shape
    assert stated is not None
    shape = WAN.shape(stated)
    with fake(torch.bfloat16):
        vae: Any = AutoencoderKLWan(**WAN22_VAE).eval()
        latents = torch.empty(1, 48, 3, size[1] // 16, size[0] // 16)
        with PeakBytes([*vae.parameters(), *vae.buffers(), latents]) as traced:
            run_decoder(vae, latents, decoding)

    assert decode_bytes(shape, Geometry.fit(*size, 9, shape.grid), decoding) == pytest.approx(traced.peak, rel=0.1)


@pytest.mark.parametrize("images", [1, 2])
def test_the_image_encoders_activations(images: int) -> None:
    shape = published("wan-ai-wan2-1-i2v-14b-480p-diffusers").image_encoder
    assert shape is not None
    with fake(torch.bfloat16):
        model = clip(shape).eval()
        pixels = torch.zeros(images, 3, 224, 224)
        with PeakBytes([*model.parameters(), *model.buffers(), pixels]) as traced:
            model(pixel_values=pixels, output_hidden_states=True)

    assert shape.activation_bytes(images) == pytest.approx(traced.peak, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("model", ["wan-ai-wan2-1-i2v-14b-480p-diffusers", "wan-ai-wan2-2-ti2v-5b-diffusers"])
@pytest.mark.parametrize("frames", [81, 121])
def test_the_memory_of_encoding_an_image(model: str, frames: int, dtype: torch.dtype) -> None:
    shape = published(model)
    width, height = 832, 480
    # a model with a timestep for each token encodes the image alone
    others = (frames - 1) // 4 if shape.encoded_frames == 4 else 0
    with fake(dtype):
        vae: Any = AutoencoderKLWan(**(WAN22_VAE if shape.vae.is_residual else {})).eval()
        first = torch.empty(1, 3, 1, height, width, dtype=torch.float32)
        grey = torch.empty(1, 1, 1, 1, 1, dtype=torch.float32).expand(1, 3, 4, height, width)
        with PeakBytes([*vae.parameters(), *vae.buffers(), first, grey]) as traced:
            encode_frames(vae, [first, *[grey] * others])

    predicted = shape.vae.encode_bytes(width, height, shape.encoded_frames, dtype.itemsize)
    assert predicted == pytest.approx(traced.peak, rel=0.1)


@pytest.mark.parametrize("decoding", [Decoding.WHOLE, Decoding.TILES_384])
@pytest.mark.parametrize("model", ["wan-ai-wan2-1-t2v-14b-diffusers", "wan-ai-wan2-2-ti2v-5b-diffusers"])
@pytest.mark.parametrize("frames", [9, 21])
def test_the_memory_of_encoding_a_video(model: str, frames: int, decoding: Decoding) -> None:
    shape = published(model)
    geometry = Geometry.fit(832, 480, frames, shape.grid)
    with fake(torch.bfloat16):
        vae: Any = AutoencoderKLWan(**(WAN22_VAE if shape.vae.is_residual else {})).eval()
        first, others = (torch.empty(1, 3, count, 480, 832, dtype=torch.float32) for count in (1, 4))
        groups = [first, *[others] * ((frames - 1) // 4)]
        with PeakBytes([*vae.parameters(), *vae.buffers(), first, others]) as traced:
            encode(vae, lambda: (group for group in groups), geometry, decoding.tile)

    assert shape.video_frames == 4
    assert encode_bytes(shape, geometry, decoding, shape.video_frames) == pytest.approx(traced.peak, rel=0.1)


def run_decoder(vae: Any, latents: torch.Tensor, decoding: Decoding) -> None:
    """`decode_frames`, which asks each group for its values at the end: fake tensors have none."""
    frames = decode_frames(vae, latents, decoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.stages.decoding.decoding._check", lambda group: None)
        patch.setattr(torch.Tensor, "numpy", lambda tensor: np.empty(tensor.shape, np.uint8))
        for _ in frames:
            pass


def test_the_bytes_of_numbers() -> None:
    assert (torch.bfloat16.itemsize, torch.float32.itemsize) == (BF16, FP32)

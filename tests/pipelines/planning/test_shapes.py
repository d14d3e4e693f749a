"""Predicted sizes against the real modules: exact parameters, activations by a trace at real sizes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import UMT5Config, UMT5EncoderModel

from pipelines.core.errors import WeightsNotFoundError
from pipelines.core.geometry import Geometry, Grid
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import Decoding
from pipelines.planning.memory_model import decode_bytes
from pipelines.planning.shapes import BF16, FP32, ModelShape, TextEncoderShape, TransformerShape
from pipelines.runner.runner import Runner
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

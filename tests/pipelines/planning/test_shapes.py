"""Predicted sizes against the real modules: exact parameters, activations by a trace at real sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import UMT5Config, UMT5EncoderModel

from pipelines.core.errors import WeightsNotFoundError
from pipelines.core.geometry import Geometry, Grid
from pipelines.core.precision import Precision
from pipelines.loading.modules import _assign
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import Decoding, Layout
from pipelines.planning.memory_model import activation_bytes, decode_bytes, dequantized_bytes, transformer_device_bytes
from pipelines.planning.shapes import BF16, ModelShape, TextEncoderShape, TransformerShape
from pipelines.runner.runner import Runner
from pipelines.stages.decoding.decoding import decode_frames
from tests.support.models.trace import PeakBytes
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


@contextmanager
def fake_bf16() -> Iterator[None]:
    """Modules and tensors without memory; new parameters are bf16."""
    with FakeTensorMode(), torch.no_grad():
        torch.set_default_dtype(torch.bfloat16)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def keep_in_fp32(model: Any) -> None:
    """What `from_pretrained` keeps in fp32 when it loads in bf16."""
    for name, parameter in list(model.named_parameters()):
        if any(kept in name.split(".") for kept in model._keep_in_fp32_modules):
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, nn.Parameter(parameter.float(), requires_grad=False))


@pytest.mark.parametrize("name", ["14B", "1.3B"])
@pytest.mark.parametrize("video", [(832, 480, 81), (832, 480, 41), (1280, 720, 81), (1280, 720, 121)])
def test_the_transformers_activations(name: str, video: tuple[int, int, int], wan_14b: ModelShape) -> None:
    shape = wan_14b.transformer if name == "14B" else WAN_1_3B
    width, height, frames = video
    with fake_bf16():
        model: Any = WanTransformer3DModel(**{**transformer_config(shape), "num_layers": 2})
        keep_in_fp32(model)
        torch.set_default_dtype(torch.float32)
        latents = torch.empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, dtype=torch.bfloat16)
        text, timestep = torch.empty(1, 512, shape.text_dim, dtype=torch.bfloat16), torch.empty(1)
        with PeakBytes([*model.parameters(), *model.buffers(), latents, text, timestep]) as traced:
            model(latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)

    tokens = wan_14b.tokens(Geometry.fit(width, height, frames, wan_14b.grid))
    assert shape.activation_bytes(tokens) == pytest.approx(traced.peak, rel=0.02)


@pytest.mark.parametrize("video", [(1280, 704, 81), (640, 352, 41)])
def test_activations_with_a_timestep_per_token(video: tuple[int, int, int]) -> None:
    stated = read_catalogue()["wan-ai-wan2-2-ti2v-5b-diffusers"].model.shape
    assert stated is not None
    shape, (width, height, frames) = WAN.shape(stated), video
    assert shape.expand_timesteps
    with fake_bf16():
        model: Any = WanTransformer3DModel(**{**transformer_config(shape.transformer), "num_layers": 2})
        keep_in_fp32(model)
        torch.set_default_dtype(torch.float32)
        latents = torch.empty(1, 48, (frames - 1) // 4 + 1, height // 16, width // 16, dtype=torch.bfloat16)
        tokens = shape.tokens(Geometry.fit(width, height, frames, shape.grid))
        text, timestep = torch.empty(1, 512, 4096, dtype=torch.bfloat16), torch.empty(1, tokens)
        with PeakBytes([*model.parameters(), *model.buffers(), latents, text, timestep]) as traced:
            model(latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)

    assert shape.transformer.activation_bytes(tokens, expand_timesteps=True) == pytest.approx(traced.peak, rel=0.02)


# a file's own is in test_single_file
# what is rounded of the text's tokens would be the most of it in the smaller video
@pytest.mark.parametrize(
    ("precision", "video"),
    [
        *product((Precision.BF16, Precision.FP8, Precision.Q4), ((208, 120, 9), (304, 176, 9))),
        *product((Precision.FP8_MATMUL, Precision.INT8_MATMUL), ((304, 176, 9),)),
    ],
)
def test_denoising_with_quantized_weights(
    precision: Precision, video: tuple[int, int, int], wan_14b: ModelShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced with real tensors, of a narrower model: casting on the fly does not work on fake ones."""
    # a processor takes minutes for the numbers, which memory does not depend on
    monkeypatch.setattr(torch, "_int_mm", lambda one, two: torch.zeros(len(one), two.shape[1], dtype=torch.int32))
    narrow = TransformerShape(2, 8, 128, 2816, 256, 16, 16, (1, 2, 2))
    shape, geometry = replace(wan_14b, transformer=narrow), Geometry.fit(*video, wan_14b.grid)
    config = transformer_config(narrow)
    with torch.device("meta"):
        model: Any = WanTransformer3DModel(**config).eval().requires_grad_(False)
    model.rope = WanTransformer3DModel(**{**config, "num_layers": 1, "ffn_dim": 8}).rope
    sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weight_format = WeightFormat(model, precision, torch.bfloat16)
    frames, rows, columns = (geometry.full_num_frames - 1) // 4 + 1, geometry.full_height // 8, geometry.full_width // 8
    latents = torch.zeros(1, 16, frames, rows, columns, dtype=torch.bfloat16)
    text, timestep = torch.zeros(1, 512, narrow.text_dim, dtype=torch.bfloat16), torch.zeros(1)

    with torch.no_grad(), PeakBytes([*model.rope.buffers(), latents, text, timestep]) as traced:
        for name, size in sizes.items():
            for kept_name, kept in weight_format.convert(name, torch.zeros(size)).items():
                _assign(model, kept_name, kept)
        traced.peak = traced.alive
        model(latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)

    _, weights = transformer_device_bytes(shape, Layout(precision))
    activations = activation_bytes(shape, shape.tokens(geometry), precision)
    predicted = weights + dequantized_bytes(shape, precision) + activations
    assert predicted == pytest.approx(traced.peak, rel=0.1)


def test_the_text_encoders_activations(wan_14b: ModelShape) -> None:
    config = encoder_config(wan_14b.text_encoder)
    config.num_layers = 2
    with fake_bf16():
        model = UMT5EncoderModel(config).eval()
        torch.set_default_dtype(torch.float32)
        ids, mask = torch.zeros(1, 512, dtype=torch.long), torch.ones(1, 512, dtype=torch.long)
        with PeakBytes([*model.parameters(), *model.buffers(), ids, mask]) as traced:
            model(ids, mask)

    assert wan_14b.text_encoder.activation_bytes() == pytest.approx(traced.peak, rel=0.02)


@pytest.mark.parametrize(
    ("decoding", "video"),
    [
        (Decoding.WHOLE, (832, 480, 81)),
        (Decoding.WHOLE, (1280, 720, 81)),
        (Decoding.WHOLE, (416, 240, 21)),
        # every tile of every frame is traced, which takes long
        (Decoding.TILES_256, (416, 240, 21)),
        (Decoding.TILES_512, (640, 352, 5)),
    ],
)
def test_the_decoders_memory(decoding: Decoding, video: tuple[int, int, int], wan_14b: ModelShape) -> None:
    width, height, frames = video
    with fake_bf16():
        vae: Any = AutoencoderKLWan().eval()
        latents = torch.empty(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        with PeakBytes([*vae.parameters(), *vae.buffers(), latents]) as traced:
            run_decoder(vae, latents, decoding)

    predicted = decode_bytes(wan_14b, Geometry.fit(width, height, frames, wan_14b.grid), decoding)
    assert predicted == pytest.approx(traced.peak, rel=0.1)


@pytest.mark.parametrize(("decoding", "size"), [(Decoding.WHOLE, (1280, 704)), (Decoding.TILES_384, (640, 352))])
def test_the_memory_of_wan22s_decoder(decoding: Decoding, size: tuple[int, int]) -> None:
    stated = read_catalogue()["wan-ai-wan2-2-ti2v-5b-diffusers"].model.shape
    assert stated is not None
    shape = WAN.shape(stated)
    with fake_bf16():
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


def test_bf16_is_two_bytes() -> None:
    assert torch.finfo(torch.bfloat16).bits == 8 * BF16

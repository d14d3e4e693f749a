"""Predicted activations of transformers against a trace of the real modules, at their real sizes."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from pipelines.core.geometry import Geometry
from pipelines.core.precision import SLICE_TOKENS, Accuracy, Precision
from pipelines.layers.wan.transformer import use_activations
from pipelines.loading.modules import _assign
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.activations import activation_bytes
from pipelines.planning.layout import GIB, Layout
from pipelines.planning.memory_model import dequantized_bytes, transformer_device_bytes
from pipelines.planning.shapes import ModelShape, TransformerShape
from tests.support.models.trace import PeakBytes, fake, keep_in_fp32

MODELS = {
    "14B": "wan-ai-wan2-1-t2v-14b-diffusers",
    "1.3B": "wan-ai-wan2-1-t2v-1-3b-diffusers",
    "5B": "wan-ai-wan2-2-ti2v-5b-diffusers",
    "I2V 14B": "wan-ai-wan2-1-i2v-14b-480p-diffusers",
    "FLF2V 14B": "wan-ai-wan2-1-flf2v-14b-720p-diffusers",
    "I2V A14B": "wan-ai-wan2-2-i2v-a14b-diffusers",
}

WAYS = [Layout(accuracy=accuracy, slice_tokens=tokens) for accuracy, tokens in product(Accuracy, (0, SLICE_TOKENS))]


def published(name: str) -> ModelShape:
    """The shapes that a model's file states."""
    spec = read_catalogue()[MODELS[name]].model
    assert spec.shape is not None
    return family_of(spec.pipeline_class).shape(spec.shape)


def config(transformer: TransformerShape) -> dict[str, Any]:
    return {name: getattr(transformer, name) for name in TransformerShape.__dataclass_fields__}


def traced_peak(shape: ModelShape, geometry: Geometry, layout: Layout, batch: int = 1) -> int:
    """The peak of a forward pass in bf16. The blocks are alike, so two of them show the worst moment."""
    sizes = family_of("WanPipeline").forward_inputs(shape, geometry, text_tokens=512)
    with fake(torch.bfloat16):
        model: Any = WanTransformer3DModel(**{**config(shape.transformer), "num_layers": 2})
        keep_in_fp32(model)
        torch.set_default_dtype(torch.float32)
        inputs = {name: torch.empty(batch * size[0], *size[1:], dtype=torch.bfloat16) for name, size in sizes.items()}
        use_activations(model, layout.accuracy, layout.slice_tokens)
        with PeakBytes([*model.parameters(), *model.buffers(), *inputs.values()]) as traced:
            model(**inputs, return_dict=False)
    return traced.peak


@pytest.mark.parametrize("layout", WAYS, ids=lambda layout: layout.name)
@pytest.mark.parametrize(
    ("name", "video", "batch"),
    [
        ("14B", (832, 480, 41), 1),
        ("14B", (1280, 720, 81), 2),
        ("1.3B", (832, 480, 81), 1),
        ("5B", (640, 352, 41), 1),
        ("5B", (1280, 704, 121), 1),
        ("I2V 14B", (832, 480, 81), 1),
        ("I2V 14B", (1280, 720, 81), 2),
        ("FLF2V 14B", (1280, 720, 81), 1),
        ("I2V A14B", (832, 480, 41), 1),
    ],
)
def test_the_transformers_activations(name: str, video: tuple[int, int, int], batch: int, layout: Layout) -> None:
    shape = published(name)
    geometry = Geometry.fit(*video, shape.grid)

    predicted = activation_bytes(shape, batch * shape.tokens(geometry), layout)

    assert predicted == pytest.approx(traced_peak(shape, geometry, layout, batch), rel=0.02)


@pytest.mark.parametrize(("accuracy", "limit"), [(Accuracy.HIGH, 4.5), (Accuracy.STANDARD, 3.8)])
def test_slices_halve_the_activations_of_a_720p_video(accuracy: Accuracy, limit: float) -> None:
    shape = published("14B")
    geometry = Geometry.fit(1280, 720, 81, shape.grid)
    whole, sliced = (
        traced_peak(shape, geometry, Layout(accuracy=accuracy, slice_tokens=tokens)) for tokens in (0, SLICE_TOKENS)
    )

    assert shape.tokens(geometry) == 75_600
    assert sliced < limit * GIB < 8 * GIB < whole


SMALL, LARGER = (208, 120, 9), (304, 176, 9)


# a file's own is in test_single_file
# what is rounded of the text's tokens, or not in slices, would be the most of it in the smaller video
@pytest.mark.parametrize(
    ("precision", "video", "accuracy", "slice_tokens"),
    [
        *product((Precision.BF16, Precision.FP8, Precision.Q4), (SMALL, LARGER), Accuracy, (0,)),
        *product((Precision.FP8_MATMUL, Precision.INT8_MATMUL), (LARGER,), Accuracy, (0,)),
        *product([each for each in Precision if each is not Precision.GGUF], (LARGER,), (Accuracy.HIGH,), (64,)),
    ],
)
def test_denoising_with_quantized_weights(
    precision: Precision,
    video: tuple[int, int, int],
    accuracy: Accuracy,
    slice_tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced with real tensors, of a narrower model: casting on the fly does not work on fake ones."""
    # a processor takes minutes for the numbers, which memory does not depend on
    monkeypatch.setattr(torch, "_int_mm", lambda one, two: torch.zeros(len(one), two.shape[1], dtype=torch.int32))
    narrow = TransformerShape(2, 8, 128, 2816, 256, 16, 16, (1, 2, 2))
    shape = replace(published("14B"), transformer=narrow)
    geometry = Geometry.fit(*video, shape.grid)
    with torch.device("meta"):
        model: Any = WanTransformer3DModel(**config(narrow)).eval().requires_grad_(False)
    model.rope = WanTransformer3DModel(**{**config(narrow), "num_layers": 1, "ffn_dim": 8}).rope
    sizes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weight_format = WeightFormat(model, precision, torch.bfloat16)
    frames, rows, columns = (geometry.full_num_frames - 1) // 4 + 1, geometry.full_height // 8, geometry.full_width // 8
    latents = torch.zeros(1, 16, frames, rows, columns, dtype=torch.bfloat16)
    text, timestep = torch.zeros(1, 512, narrow.text_dim, dtype=torch.bfloat16), torch.zeros(1)

    with torch.no_grad(), PeakBytes([*model.rope.buffers(), latents, text, timestep]) as traced:
        for name, size in sizes.items():
            for kept_name, kept in weight_format.convert(name, torch.zeros(size)).items():
                _assign(model, kept_name, kept)
        use_activations(model, accuracy, slice_tokens)
        traced.peak = traced.alive
        model(latents, timestep=timestep, encoder_hidden_states=text, return_dict=False)

    layout = Layout(precision, accuracy=accuracy, slice_tokens=slice_tokens)
    _, weights = transformer_device_bytes(shape, layout)
    activations = activation_bytes(shape, shape.tokens(geometry), layout)
    predicted = weights + dequantized_bytes(shape, precision) + activations
    assert predicted == pytest.approx(traced.peak, rel=0.1)

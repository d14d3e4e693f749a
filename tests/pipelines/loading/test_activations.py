"""Accuracy and slices of a loaded pipeline: what they change, what they do not, and what the fingerprint says."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock

from pipelines.core.model import ModelSpec
from pipelines.core.precision import Accuracy, Precision
from pipelines.core.progress import Frames
from pipelines.core.request import VideoParams
from pipelines.layers.wan.block import WanBlock
from pipelines.layers.wan.transformer import WanTransformer
from pipelines.planning.layout import Decoding, Layout, Residence
from pipelines.runner.runner import Runner
from tests.pipelines.conftest import both_dtypes

pytestmark = both_dtypes

SPEC = ModelSpec("small", fps=16)
PARAMS = VideoParams("an ox by a lake", " ", 96, 128, 9, 3, 5.0, 7)
SLICED = 16
STANDARD = Layout(accuracy=Accuracy.STANDARD)

Load = Callable[[Path, Layout | None], Runner]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a pipeline by a layout, with the CPU as both host and device."""

    def loaded(folder: Path, layout: Layout | None) -> Runner:
        return Runner.load(SPEC, folder, "cpu", layout=layout, cache=tmp_path / "cache")

    return loaded


def frames(runner: Runner) -> Frames:
    return runner.frames(PARAMS).frames


def test_standard_accuracy_is_diffusers_own_model(weights_folder: Path, load: Load) -> None:
    standard, high = load(weights_folder, STANDARD), load(weights_folder, None)

    for runner, model, block in (
        (standard, WanTransformer3DModel, WanTransformerBlock),
        (high, WanTransformer, WanBlock),
    ):
        transformer = runner._loaded.pipe.transformer
        assert type(transformer) is model
        assert {type(each) for each in transformer.blocks} == {block}


def test_the_setting_decides_where_there_is_no_plan(weights_folder: Path) -> None:
    for accuracy in Accuracy:
        runner = Runner.load(replace(SPEC, accuracy=accuracy), weights_folder, "cpu")
        assert runner.fingerprint["accuracy"] == accuracy


def test_accuracy_changes_the_video_in_bf16_only(processor: str, weights_folder: Path, load: Load) -> None:
    standard, high = (frames(load(weights_folder, layout)) for layout in (STANDARD, Layout()))

    assert np.array_equal(standard, high) is (processor == "float32")


@pytest.mark.parametrize("weights", ["wan21", "a14b", "ti2v_5b"])
@pytest.mark.parametrize("accuracy", Accuracy)
def test_slices_do_not_change_the_video(
    weights: str, accuracy: Accuracy, load: Load, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(weights)
    whole = Layout(accuracy=accuracy)
    expected = frames(load(folder, whole))

    for layout in (
        replace(whole, slice_tokens=SLICED),
        replace(whole, slice_tokens=SLICED, transformer=Residence.STREAMED, resident_blocks=1),
    ):
        assert np.array_equal(frames(load(folder, layout)), expected)


def test_slices_do_not_change_a_batch_of_both_passes(wan21: Path, load: Load) -> None:
    whole = Layout(transformer=Residence.STREAMED, batched=True)

    expected, sliced = (frames(load(wan21, layout)) for layout in (whole, replace(whole, slice_tokens=SLICED)))

    assert np.array_equal(sliced, expected)


@pytest.mark.parametrize(
    ("precision", "transformer"),
    [
        *product(
            (Precision.FP8, Precision.Q4, Precision.FP8_MATMUL, Precision.INT8_MATMUL),
            (Residence.STREAMED, Residence.DISK),
        )
    ],
)
def test_streamed_quantized_blocks_compute_in_slices(
    precision: Precision, transformer: Residence, wide: Path, load: Load
) -> None:
    expected = frames(load(wide, Layout(precision)))
    sliced = Layout(precision, transformer, slice_tokens=40, resident_blocks=1)

    assert np.array_equal(frames(load(wide, sliced)), expected)


def test_the_vae_decodes_in_fp32_beside_a_transformer_in_bf16(
    processor: str, wan21: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounded, exact, tiled = (
        load(wan21, layout)
        for layout in (Layout(), Layout(fp32_decoding=True), Layout(fp32_decoding=True, decoding=Decoding.TILES_256))
    )
    dtype = getattr(torch, processor)
    pipe = exact._loaded.pipe
    assert (pipe.vae.dtype, pipe.transformer.dtype, pipe.text_encoder.dtype) == (torch.float32, dtype, dtype)

    # the latents are the same
    assert np.array_equal(frames(rounded), frames(exact)) is (processor == "float32")
    assert np.array_equal(frames(tiled), frames(exact))
    assert exact.fingerprint["plan"] != rounded.fingerprint["plan"]
    assert exact._latents_depend_on(PARAMS) == rounded._latents_depend_on(PARAMS)


def test_latents_of_another_accuracy_or_of_slices_are_not_continued(weights_folder: Path, load: Load) -> None:
    layouts = (Layout(), STANDARD, Layout(slice_tokens=SLICED))
    depends: list[Any] = [load(weights_folder, layout)._latents_depend_on(PARAMS) for layout in layouts]

    assert all(one != other for index, one in enumerate(depends) for other in depends[:index])

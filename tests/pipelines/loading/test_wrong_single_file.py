"""Files with other weights than the model's are refused with a sentence."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import save_file

from pipelines.core.errors import PipelineError, UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, WeightFile
from pipelines.loading.device_plan import read_model_shape
from pipelines.loading.load import load_pipeline
from tests.support.models.wan_files import (
    State,
    by_original_names,
    named,
    write_gguf,
    write_safetensors,
)


def spec(*files: WeightFile) -> ModelSpec:
    return ModelSpec("wide", fps=16, files=files)


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda state: without(state, "head.head.bias"), r"wrong\.\w+ has no proj_out\.bias\."),
        (
            lambda state: {k: t for k, t in state.items() if "blocks.1.ffn" not in k},
            r"has no blocks\.1\.ffn\.net\.0\.proj\.bias and 3 other tensors",
        ),
        (
            lambda state: {**state, "blocks.0.cross_attn.k_img.weight": torch.ones(256, 256)},
            r"wrong\.\w+ is for another kind of model: it also has blocks\.0\.attn2\.add_k_proj\.weight",
        ),
        (
            lambda state: {**state, "blocks.0.ffn.0.weight": torch.ones(512, 256)},
            r"blocks\.0\.ffn\.net\.0\.proj\.weight is \[512, 256\], but \[256, 256\] in the configuration",
        ),
        (
            lambda _: {"double_blocks.0.img_attn.qkv.weight": torch.ones(8, 8)},
            r"wrong\.\w+ has no weights of a Wan transformer: it has double_blocks\.0",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_file_of_another_model_is_refused_with_the_difference(
    change: Callable[[State], State], sentence: str, suffix: str, state: State, bare: Path, tmp_path: Path
) -> None:
    wrong = change(by_original_names(state))
    path = tmp_path / f"wrong{suffix}"
    if suffix == ".gguf":
        matrix = "blocks.0.ffn.0.weight"
        write_gguf(path, wrong, {matrix: Type.Q8_0} if matrix in wrong else None)
    else:
        write_safetensors(path, wrong, torch.bfloat16)

    with pytest.raises(UnsupportedModelError, match=sentence):
        load_pipeline(spec(named(path)), bare, "cpu")


@pytest.mark.parametrize(
    ("weight", "scale", "sentence"),
    [
        (torch.float8_e4m3fn, torch.ones(256, 8), "with unsupported scales"),
        (torch.int8, torch.ones(256, 1), "with unsupported scales"),
        (torch.int8, None, r"blocks\.0\.ffn\.net\.0\.proj\.weight as int8, which is not supported"),
    ],
)
def test_other_quantizations_are_refused(
    weight: torch.dtype, scale: torch.Tensor | None, sentence: str, state: State, bare: Path, tmp_path: Path
) -> None:
    tensors = by_original_names(state)
    tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].to(weight)
    if scale is not None:
        tensors["blocks.0.ffn.0.weight_scale"] = scale
    save_file(tensors, tmp_path / "other.safetensors")

    with pytest.raises(UnsupportedModelError, match=sentence):
        load_pipeline(spec(named(tmp_path / "other.safetensors")), bare, "cpu")


@pytest.mark.parametrize("left", [0, 3, 100, 20_000, -1000])
@pytest.mark.parametrize("suffix", [".gguf", ".safetensors"])
def test_a_truncated_file_is_refused(
    left: int, suffix: str, mixed: Path, state: State, bare: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".gguf":
        shutil.copy(mixed, path)
    else:
        write_safetensors(path, state, torch.bfloat16)
    with path.open("r+b") as file:
        file.truncate(left if left >= 0 else path.stat().st_size + left)

    for use in (
        lambda: load_pipeline(spec(named(path)), bare, "cpu"),
        lambda: read_model_shape(spec(named(path)), bare),
    ):
        with pytest.raises(WeightsNotFoundError, match=rf"cut\{suffix} is truncated, damaged or in another format"):
            use()


def test_a_quantization_unknown_to_diffusers_is_refused(state: State, bare: Path, tmp_path: Path) -> None:
    name = "blocks.0.ffn.0.weight"
    path = write_gguf(tmp_path / "new.gguf", by_original_names(state), {name: Type.TQ2_0})

    with pytest.raises(UnsupportedModelError, match=rf"new\.gguf has {name} as TQ2_0, .* Use a file with .*Q4_K"):
        load_pipeline(spec(named(path)), bare, "cpu")


def test_a_wrong_file_is_refused_before_any_weights_are_read(experts: Path, mixed: Path, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "wrong.safetensors", {"blocks.0.weight": torch.ones(8, 8)}, torch.half)

    with pytest.raises(UnsupportedModelError, match="has no weights"):
        load_pipeline(
            spec(named(mixed), replace(named(path), part="transformer_2")),
            experts,
            "cpu",
            lambda *_: pytest.fail("nothing should be read"),
        )


def test_a_file_for_a_missing_part_is_refused(bare: Path, mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="has no transformer_2"):
        load_pipeline(spec(replace(named(mixed), part="transformer_2")), bare, "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PipelineError, match="model_index"):
        load_pipeline(spec(named(mixed)), tmp_path / "empty", "cpu")


def test_the_folder_still_needs_the_configuration(bare: Path, mixed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bare, tmp_path / "folder"))
    (folder / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"transformer/config\.json is missing"):
        load_pipeline(spec(named(mixed)), folder, "cpu")

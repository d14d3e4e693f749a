"""Weights of models that take images: in folders, single files and LoRAs, by every name that they may have."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionModel

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import Lora, ModelSpec, WeightFile
from pipelines.core.precision import Precision
from pipelines.core.request import VideoParams
from pipelines.hub.folder import check, digest
from pipelines.loading.device_plan import read_model_shape
from pipelines.loading.load import load_pipeline
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.registry import family_of
from pipelines.planning.layout import Layout
from pipelines.planning.memory_model import block_bytes
from pipelines.runner.runner import Runner
from tests.pipelines.stages.conditioning.test_images import gradient
from tests.support.models.wan_files import by_original_names, restored, write_gguf
from tests.support.models.wan_image import IMAGE_TOKENS, change, flf2v_folder, i2v_folder, image_transformer

FAMILY = family_of("WanImageToVideoPipeline")
SPEC = ModelSpec("image", fps=16, pipeline_class="WanImageToVideoPipeline")
ENCODER = "image_encoder/model.safetensors"
WIDE: dict[str, Any] = {"attention_head_dim": 128, "ffn_dim": 256, "added_kv_proj_dim": 256}


@pytest.fixture(params=[None, 2 * IMAGE_TOKENS], ids=["I2V", "FLF2V"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A pipeline whose transformer supports every quantization."""
    made = (flf2v_folder if request.param else i2v_folder)(tmp_path / "weights")
    shutil.rmtree(made / "transformer")
    image_transformer(pos_embed_seq_len=request.param, **WIDE).save_pretrained(made / "transformer")
    return made


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def frames(runner: Runner) -> Any:
    images = [gradient(64, 48), gradient(48, 64).resize((64, 48))]
    last = images[1] if runner._loaded.shape.transformer.pos_embed_seq_len else None
    params = VideoParams("an ox by a lake", "blurry", 48, 64, 5, 3, 3.0, 7)
    return runner.frames(params, images[0], last).frames.astype(float)


def decibels(one: Any, other: Any) -> float:
    """Peak signal-to-noise ratio of frames that are not equal."""
    return float(10 * np.log10(255**2 / ((one - other) ** 2).mean()))


def with_file(path: Path) -> ModelSpec:
    return replace(SPEC, files=(WeightFile(str(path.parent), path.name),))


@pytest.mark.parametrize("prefix", ["", "vision_model."])
def test_the_image_encoder_is_read_by_old_and_new_names(prefix: str, folder: Path) -> None:
    expected = CLIPVisionModel.from_pretrained(folder / "image_encoder").state_dict()
    stored = {name.removeprefix("vision_model."): tensor for name, tensor in load_file(folder / ENCODER).items()}
    save_file({f"{prefix}{name}": tensor for name, tensor in stored.items()}, folder / ENCODER)

    check(folder, SPEC.pipeline_class)
    found = load_pipeline(SPEC, folder, "cpu").pipe.image_encoder.state_dict()

    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_image_encoder_that_lacks_a_tensor_is_refused(folder: Path) -> None:
    stored = load_file(folder / ENCODER)
    del stored[max(stored)]
    save_file(stored, folder / ENCODER)

    with pytest.raises(WeightsNotFoundError, match=r"weights are incomplete: .*image_encoder has no"):
        load_pipeline(SPEC, folder, "cpu")


def test_parts_that_do_not_fit_together_are_refused(folder: Path) -> None:
    change(folder / "image_encoder" / "config.json", hidden_size=48)
    with pytest.raises(UnsupportedModelError, match="embeddings of width 32, and the image encoder makes 48"):
        FAMILY.read_shape(folder)
    for absent in ("image_encoder", "image_processor"):
        change(folder / "model_index.json", **{absent: [None, None]})
        with pytest.raises(UnsupportedModelError, match="must list both an image_encoder and an image_processor"):
            FAMILY.read_index(folder)
        change(folder / "model_index.json", **{absent: ["transformers", "CLIPVisionModel"]})


def test_positions_for_another_number_of_tokens_are_refused(tmp_path: Path) -> None:
    folder = flf2v_folder(tmp_path / "weights")
    change(folder / "image_encoder" / "config.json", image_size=42)

    with pytest.raises(UnsupportedModelError, match="positions for 10 image tokens, and two images have 20"):
        FAMILY.read_shape(folder)


def test_the_image_encoder_and_its_settings_are_facts_of_a_video(folder: Path) -> None:
    before = digest(folder, SPEC.pipeline_class)
    change(folder / "image_processor" / "preprocessor_config.json", image_mean=[0.5, 0.5, 0.5])
    settings = digest(folder, SPEC.pipeline_class)
    change(folder / "image_encoder" / "config.json", layer_norm_eps=1e-6)

    assert len({before, settings, digest(folder, SPEC.pipeline_class)}) == 3


def test_a_single_file_by_original_names_gives_the_same_transformer(folder: Path, tmp_path: Path) -> None:
    state = weights_of(folder)
    path = tmp_path / "tuned.safetensors"
    names = by_original_names(state, "model.diffusion_model.")
    assert {"k_img", "v_img", "norm_k_img"} <= {name.split(".")[-2] for name in names}
    save_file(names, path)

    transformer = load_pipeline(with_file(path), folder, "cpu").pipe.transformer

    found = transformer.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def test_a_quantized_file_keeps_the_image_matrices_as_they_are(folder: Path, tmp_path: Path) -> None:
    state = weights_of(folder)
    quantized = {
        name: Type.Q8_0
        for name, tensor in state.items()
        if name.endswith(".weight") and tensor.ndim == 2 and ("add_" in name or "image_embedder.ff" in name)
    }
    assert len(quantized) == 2 * 2 + 2
    path = write_gguf(
        tmp_path / "mixed.gguf", by_original_names(state), by_original_names(dict.fromkeys(quantized, Type.Q8_0))
    )

    runner = Runner.load(with_file(path), folder, "cpu")
    transformer = runner._loaded.pipe.transformer

    for name in quantized:
        weight = transformer.get_parameter(name)
        assert isinstance(weight, GGUFParameter)
        # diffusers multiplies in fp16
        torch.testing.assert_close(
            dequantize_gguf_tensor(weight).float(), restored(state[name], Type.Q8_0), atol=1e-4, rtol=1e-3
        )
    assert decibels(frames(runner), frames(Runner.load(SPEC, folder, "cpu"))) > 30
    shape = read_model_shape(with_file(path), folder)
    (stored,) = shape.quantized
    kept = dict(transformer.named_parameters())
    in_bf16 = sum(
        weight.nbytes if isinstance(weight, GGUFParameter) else weight.numel() * 2
        for name, weight in kept.items()
        if name.startswith("blocks.0.")
    )
    assert stored.blocks[0] == pytest.approx(in_bf16, rel=0.01)


def test_a_lora_of_image_layers_is_merged(folder: Path, tmp_path: Path) -> None:
    state = weights_of(folder)
    layers = {
        "blocks.1.cross_attn.k_img": "blocks.1.attn2.add_k_proj.weight",
        "blocks.0.cross_attn.v_img": "blocks.0.attn2.add_v_proj.weight",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj.weight",
    }
    tensors = {}
    for layer, name in layers.items():
        outside, inside = state[name].shape
        tensors[f"diffusion_model.{layer}.lora_down.weight"] = torch.ones(1, inside)
        tensors[f"diffusion_model.{layer}.lora_up.weight"] = torch.full((outside, 1), 0.5)
    save_file(tensors, tmp_path / "lora.safetensors")

    loras = (Lora(str(tmp_path), "lora.safetensors"),)
    merged = load_pipeline(replace(SPEC, loras=loras), folder, "cpu").pipe.transformer.state_dict()

    changed = {name for name, tensor in state.items() if not torch.equal(merged[name], tensor)}
    assert changed == set(layers.values())
    for name in changed:
        torch.testing.assert_close(merged[name], state[name] + 0.5)


@pytest.mark.parametrize("precision", [Precision.FP8, Precision.Q4, Precision.FP8_MATMUL, Precision.INT8_MATMUL])
def test_quantized_weights_make_nearly_the_same_video(precision: Precision, folder: Path, tmp_path: Path) -> None:
    plain = frames(Runner.load(SPEC, folder, "cpu"))
    quantized = Runner.load(SPEC, folder, "cpu", layout=Layout(precision), cache=tmp_path / "cache")

    assert quantized._loaded.pipe.transformer.blocks[0].attn2.add_k_proj.weight.dtype != torch.float32
    assert 20 < decibels(frames(quantized), plain) < 80


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.Q4, Precision.FP8_MATMUL, Precision.INT8_MATMUL])
def test_a_block_takes_the_bytes_that_plans_count(precision: Precision, folder: Path) -> None:
    config = json.loads((folder / "transformer" / "config.json").read_text())
    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(config).eval().requires_grad_(False)
    state = {name: parameter for name, parameter in model.named_parameters() if name.startswith("blocks.0.")}
    weight_format = WeightFormat(model, precision, torch.bfloat16)
    stored = sum(weight_format.size(name, tensor) for name, tensor in state.items())

    # norms and modulation are in fp32
    assert block_bytes(FAMILY.read_shape(folder), precision) == pytest.approx(stored, rel=0.03)

"""A part loaded tensor by tensor equals what the libraries' own loading returns."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.precision import Precision
from pipelines.loading.modules import WeightSource, assign_tensors, load_weights, skeleton
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.registry import family_of

WAN = family_of("WanPipeline")

PARTS = {"transformer": WanTransformer3DModel, "text_encoder": UMT5EncoderModel, "vae": AutoencoderKLWan}


def read(part: str, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    module = skeleton(PARTS[part], folder / part)
    source = WeightSource(folder / part, WAN.part(part))
    load_weights(module, source, WeightFormat(module, Precision.BF16, dtype).convert)
    return module


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("weights", ["wan21", "weights_folder"])
def test_a_loaded_part_equals_from_pretrained(
    part: str, dtype: torch.dtype, weights: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(weights)
    expected = PARTS[part].from_pretrained(folder, subfolder=part, dtype=dtype).state_dict()

    read_one = read(part, folder, dtype).state_dict()

    assert read_one.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read_one[name].dtype == tensor.dtype, name
        assert torch.equal(read_one[name], tensor), name


@pytest.mark.parametrize("left_out", ["shared.weight", "encoder.embed_tokens.weight"])
def test_the_text_encoders_embedding_is_tied_under_either_name(left_out: str, wan21: Path, tmp_path: Path) -> None:
    part = tmp_path / "text_encoder"
    part.mkdir()
    (part / "config.json").write_text((wan21 / "text_encoder" / "config.json").read_text())
    tensors = load_file(wan21 / "text_encoder" / "model.safetensors")
    tensors["shared.weight"] = tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file({n: t.clone() for n, t in tensors.items() if n != left_out}, part / "model.safetensors")

    module = read("text_encoder", tmp_path, torch.float32)

    assert module.get_parameter("shared.weight") is module.get_parameter("encoder.embed_tokens.weight")
    assert torch.equal(module.get_parameter("shared.weight"), tensors["shared.weight"])


def test_a_missing_tensor_is_named(wan21: Path, tmp_path: Path) -> None:
    part = tmp_path / "vae"
    part.mkdir()
    (part / "config.json").write_text(json.dumps(json.loads((wan21 / "vae" / "config.json").read_text())))
    tensors = load_file(wan21 / "vae" / "diffusion_pytorch_model.safetensors")
    del tensors["post_quant_conv.weight"]
    save_file(tensors, part / "diffusion_pytorch_model.safetensors")

    with pytest.raises(WeightsNotFoundError, match=r"vae has no post_quant_conv\.weight"):
        read("vae", tmp_path, torch.float32)


def test_tensors_can_be_assigned_without_files(wan21: Path) -> None:
    expected = read("text_encoder", wan21, torch.float32)
    module = skeleton(UMT5EncoderModel, wan21 / "text_encoder")
    named = {**expected.state_dict(), "unknown.weight": torch.ones(1)}
    # one of the two names of a tied matrix is enough
    del named["encoder.embed_tokens.weight"]
    told: list[int] = []

    assign_tensors(module, named.items(), lambda name, tensor: {name: tensor * 2}, told.append)

    assert module.state_dict().keys() == expected.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, expected.state_dict()[name] * 2), name
    assert sum(told) == sum(tensor.nbytes for tensor in named.values())


def test_weights_of_another_size_are_refused(wan21: Path, tmp_path: Path) -> None:
    part = tmp_path / "vae"
    part.mkdir()
    config = json.loads((wan21 / "vae" / "config.json").read_text())
    (part / "config.json").write_text(json.dumps({**config, "base_dim": 8}))
    (part / "diffusion_pytorch_model.safetensors").symlink_to(wan21 / "vae" / "diffusion_pytorch_model.safetensors")

    with pytest.raises(UnsupportedModelError, match=r" is .* in the files, .* in the configuration"):
        read("vae", tmp_path, torch.float32)

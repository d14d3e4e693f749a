"""The check of published folders passes on what they should be, and names each assumption that does not hold."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from pipelines.core.model import LatentRgb, ModelSpec
from pipelines.hub.local import locate
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.tools import check_published as tool
from pipelines.tools.check_published import Finding, check_published, main, model_of
from tests.support.models.published import published_folder

SINGLE = "diffusion_pytorch_model.safetensors"
TEXTS = ("an ox by a lake", "湖边的一头牛。", "🌉", "</s>", "a " * 200)


def stated(folder: Path) -> ModelSpec:
    """The entry of a small model, as the catalogue has those of the published ones."""
    parameters = family_of("WanPipeline").read_shape(folder).vae.parameters
    shape: dict[str, dict[str, Any]] = {
        "transformer": {
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "ffn_dim": 32,
            "text_dim": 32,
            "freq_dim": 32,
            "in_channels": 16,
            "out_channels": 16,
            "patch_size": [1, 2, 2],
        },
        "text_encoder": {"vocab_size": 30, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4},
        "vae": {"base_dim": 4, "num_res_blocks": 1, "parameters": parameters},
    }
    if (folder / "transformer_2").is_dir():
        shape |= {"transformer_2": shape["transformer"], "pipeline": {"boundary_ratio": 0.875}}
    rgb = LatentRgb(((0.0, 0.0, 0.0),) * 16, (0.0, 0.0, 0.0))
    return ModelSpec("Some/Small", fps=16, shape=shape, flow_shift={"480p": 3.0, "720p": 5.0}, latent_rgb=rgb)


@pytest.fixture
def ids(wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ids of the small model's tokenizer in place of UMT5's."""
    tokenizer = Tokenizer.from_file(str(wan21 / "tokenizer" / "tokenizer.json"))
    path = tmp_path / "ids.json"
    path.write_text(json.dumps([{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]))
    monkeypatch.setattr(tool, "TOKEN_IDS", path)
    return path


@pytest.fixture
def folder(wan21: Path, tmp_path: Path, ids: Path) -> Path:
    return Path(shutil.copytree(wan21, tmp_path / "weights"))


def failed(folder: Path, spec: ModelSpec) -> list[Finding]:
    return [finding for finding in check_published(folder, spec) if not finding.is_ok]


def test_a_folder_as_assumed_passes(folder: Path, a14b: Path, ids: Path) -> None:
    spec = stated(folder)

    findings = list(check_published(folder, spec))

    assert [str(finding) for finding in findings if not finding.is_ok] == []
    lines = [str(finding) for finding in findings]
    assert "OK    transformer/config.json num_layers: 2" in lines
    assert "OK    model_index.json boundary_ratio: null" in lines
    assert sum(line.startswith("OK    token ids of") for line in lines) == len(TEXTS)
    assert [str(finding) for finding in failed(a14b, stated(a14b))] == []


def changed(path: str, **fields: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        file = folder / path
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def retyped(dtype: torch.dtype) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / "vae" / SINGLE
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)

    return change


def without_a_tensor(folder: Path) -> None:
    path = folder / "vae" / SINGLE
    save_file(dict(list(load_file(path).items())[1:]), path)


def other_ids(folder: Path) -> None:
    path = folder / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    vocab[4], vocab[5] = vocab[5], vocab[4]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (changed("model_index.json", boundary_ratio=0.9), "complete and readable"),
        (changed("model_index.json", expand_timesteps=True), "model_index.json expand_timesteps"),
        (changed("model_index.json", vae=["diffusers", "AutoencoderKL"]), "model_index.json vae"),
        (changed("scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler"), "scheduler _class_name"),
        (changed("scheduler/scheduler_config.json", prediction_type="epsilon"), "scheduler prediction_type"),
        (changed("scheduler/scheduler_config.json", use_flow_sigmas=False), "noise levels"),
        (changed("scheduler/scheduler_config.json", num_train_timesteps=500), "scheduler num_train_timesteps"),
        (changed("scheduler/scheduler_config.json", flow_shift=0), "scheduler flow_shift"),
        (changed("scheduler/scheduler_config.json", use_dynamic_shifting=True), "scheduler use_dynamic_shifting"),
        (changed("transformer/config.json", num_layers=3), "transformer/config.json num_layers"),
        (changed("transformer/config.json", ffn_dim=64), "transformer: names and shapes of all tensors"),
        (changed("transformer/config.json", qk_norm="layer_norm"), "transformer/config.json qk_norm"),
        (changed("transformer/config.json", eps=1e-5), "transformer/config.json eps"),
        (changed("text_encoder/config.json", num_layers=2), "text_encoder/config.json num_layers"),
        (changed("text_encoder/config.json", feed_forward_proj="relu"), "text_encoder/config.json feed_forward_proj"),
        (changed("text_encoder/config.json", eos_token_id=7), "text_encoder/config.json eos_token_id"),
        (changed("text_encoder/config.json", eos_token_id=7), "tokenizer"),
        (changed("vae/config.json", latents_mean=[0.0] * 16), "vae/config.json latents_mean"),
        (changed("vae/config.json", latents_std=[1.0] * 15), "vae/config.json latents_std, count"),
        (changed("vae/config.json", latents_std=[-1.0] * 16), "vae/config.json latents_std, all positive"),
        (changed("vae/config.json", z_dim=8), "vae/config.json z_dim, as the map for previews has it"),
        (retyped(torch.float64), "vae: dtypes"),
        (without_a_tensor, "vae: parameters"),
        (without_a_tensor, "vae: names and shapes of all tensors"),
        (other_ids, "token ids of 'an ox by a lake'"),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "vae" / SINGLE).unlink(), "complete and readable"),
    ],
)
def test_each_assumption_that_does_not_hold_is_named(change: Callable[[Path], Any], about: str, folder: Path) -> None:
    spec = stated(folder)
    change(folder)

    found = {finding.about: finding for finding in failed(folder, spec)}

    assert about in found
    assert str(found[about]).startswith(f"FAIL  {about}: expected ")


def test_experts_and_their_boundary_are_expected_where_the_models_file_has_them(a14b: Path, folder: Path) -> None:
    spec = stated(a14b)

    found = {finding.about: str(finding) for finding in failed(folder, spec)}

    assert found["model_index.json transformer_2"].endswith("expected diffusers:WanTransformer3DModel, found not used")
    assert found["model_index.json boundary_ratio"].endswith("expected 0.875, found null")


def test_the_image_encoder_is_compared_with_the_models_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_catalogue()["wan-ai-wan2-1-i2v-14b-480p-diffusers"].model
    monkeypatch.setattr(tool, "check_token_ids", lambda _: [])
    folder = published_folder(tmp_path / "weights", spec)

    for fields in ({"num_hidden_layers": 31}, {"hidden_act": "quick_gelu"}, {"patch_size": 16}):
        config = folder / "image_encoder" / "config.json"
        before = config.read_text()
        changed("image_encoder/config.json", **fields)(folder)
        found = {finding.about for finding in failed(folder, spec)}
        assert f"image_encoder/config.json {next(iter(fields))}" in found
        config.write_text(before)
    changed("model_index.json", image_processor=[None, None])(folder)
    assert any("must list both an image_encoder and an image_processor" in str(each) for each in failed(folder, spec))


def test_a_long_value_is_shown_where_it_differs() -> None:
    expected, found = [0] * 300 + [1], [0] * 300 + [2]

    line = str(Finding("ids", json.dumps(expected), json.dumps(found)))

    assert len(line) < 400
    assert "1]," in line
    assert line.endswith("2]")


def test_the_command_prints_a_line_for_each_check_and_fails_for_any(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "wan-ai-wan2-1-t2v-1-3b-diffusers"
    entry = read_catalogue()[model]
    monkeypatch.setattr(tool, "read_catalogue", lambda _: {model: entry.model_copy(update={"model": stated(folder)})})

    assert main([str(folder)]) == 2
    assert capsys.readouterr().err == f"Say which model it is: --model {model}\n"
    for unknown in ("nobody", ""):
        assert main([str(folder), "--model", unknown]) == 2
        assert capsys.readouterr().err == (f"There is no model {unknown!r}. Say which model it is: --model {model}\n")
    assert main([str(folder), "--model", model]) == 0
    assert capsys.readouterr().out.endswith("0 failed\n")
    changed("transformer/config.json", eps=1e-5)(folder)
    assert main([str(folder), "--model", model]) == 1
    out = capsys.readouterr().out
    assert "FAIL  transformer/config.json eps: expected 1e-06, found 1e-05\n" in out
    assert out.endswith("1 failed\n")


def test_the_folders_name_says_which_model_it_is(tmp_path: Path) -> None:
    specs = [entry.model for entry in read_catalogue().values()]
    names = {
        "Wan2.1-T2V-14B-Diffusers": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
        "models--Wan-AI--Wan2.2-TI2V-5B-Diffusers/snapshots/0123": "Wan-AI/Wan2.2-TI2V-5B-Diffusers",
    }

    for name, repo in names.items():
        (tmp_path / name).mkdir(parents=True)
        spec = model_of(tmp_path / name, specs)
        assert spec is not None
        assert spec.repo == repo
    assert model_of(tmp_path, specs) is None


def test_what_the_check_accepts_can_be_located(folder: Path) -> None:
    assert not failed(folder, stated(folder))
    assert locate(ModelSpec(str(folder), fps=16)) == folder


@pytest.mark.parametrize("model", list(read_catalogue()))
def test_folders_of_the_published_sizes_pass(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = read_catalogue()[model].model
    folder = published_folder(tmp_path / "weights", spec)
    # the published tokenizer is too large for a test
    monkeypatch.setattr(tool, "check_token_ids", lambda _: [])

    findings = list(check_published(folder, spec))

    assert [str(finding) for finding in findings if not finding.is_ok] == []
    assert len(findings) > 60
    assert locate(replace(spec, repo=str(folder))) == folder

"""Finding a model's weights in a folder or in the hub cache; errors name what is missing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, WeightFile
from pipelines.hub import local as weights
from pipelines.hub.folder import digest
from pipelines.loading.load import load_pipeline


@pytest.fixture
def copy(wan21: Path, tmp_path: Path) -> Path:
    """A copy of the small Wan2.1 to damage."""
    return Path(shutil.copytree(wan21, tmp_path / "copy"))


@pytest.fixture
def hub_cache(wan21: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache as `paddock pull` leaves it, with one repository in it."""
    repository = tmp_path / "hub" / "models--Some--Model"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "refs" / "v1").write_text(commit)
    shutil.copytree(wan21, repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository / "snapshots" / commit


def test_a_local_folder_is_used_as_it_is(wan21: Path) -> None:
    assert weights.locate(ModelSpec(repo=str(wan21), fps=16)) == wan21


def test_the_hub_cache_is_read_without_a_network(hub_cache: Path) -> None:
    assert weights.locate(ModelSpec(repo="Some/Model", fps=16)) == hub_cache
    assert weights.locate(ModelSpec(repo="Some/Model", fps=16, revision="v1")) == hub_cache
    assert load_pipeline(ModelSpec("wan21", fps=16), hub_cache, "cpu").grid.height == 16


@pytest.mark.parametrize(("repo", "revision"), [("Some/Other", None), ("Some/Model", "v2"), ("no such/folder/x", None)])
def test_missing_weights_name_the_pull_command(hub_cache: Path, repo: str, revision: str | None) -> None:
    with pytest.raises(WeightsNotFoundError, match="paddock pull --model some-model"):
        weights.locate(ModelSpec(repo=repo, fps=16, revision=revision, id="some-model"))


def test_a_missing_shard_is_named(copy: Path) -> None:
    index = json.loads((copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shard = sorted(set(index["weight_map"].values()))[1]
    (copy / "transformer" / shard).unlink()

    with pytest.raises(WeightsNotFoundError, match=shard):
        weights.locate(ModelSpec(repo=str(copy), fps=16))


@pytest.mark.parametrize("component", ["vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_component_is_named(copy: Path, component: str) -> None:
    shutil.rmtree(copy / component)

    with pytest.raises(WeightsNotFoundError, match=component):
        weights.locate(ModelSpec(repo=str(copy), fps=16))


def test_a_folder_of_another_pipeline_is_an_error(copy: Path) -> None:
    index = copy / "model_index.json"
    index.write_text(index.read_text().replace("WanPipeline", "FluxPipeline"))
    with pytest.raises(UnsupportedModelError, match="FluxPipeline"):
        weights.locate(ModelSpec(repo=str(copy), fps=16))

    index.write_text("{")
    with pytest.raises(WeightsNotFoundError, match="is not valid JSON"):
        weights.locate(ModelSpec(repo=str(copy), fps=16))

    index.unlink()
    with pytest.raises(WeightsNotFoundError, match=r"no model_index\.json"):
        weights.locate(ModelSpec(repo=str(copy), fps=16))


def test_weights_that_a_single_file_replaces_are_not_needed(copy: Path, tmp_path: Path) -> None:
    file = WeightFile(str(tmp_path), "tuned.gguf")
    spec = ModelSpec(repo=str(copy), fps=16, files=(file,), id="some-model")
    with pytest.raises(WeightsNotFoundError, match=r"No tuned\.gguf of .*`paddock pull --model some-model`"):
        weights.locate(spec)

    (tmp_path / "tuned.gguf").touch()
    before = digest(copy, spec.pipeline_class, spec.replaced)
    for shard in (copy / "transformer").glob("*.safetensors*"):
        shard.unlink()
    assert weights.locate(spec) == copy
    assert digest(copy, spec.pipeline_class, spec.replaced) == before
    with pytest.raises(WeightsNotFoundError, match="incomplete"):
        weights.locate(replace(spec, files=()))

    with pytest.raises(UnsupportedModelError, match="has no transformer_2"):
        weights.locate(replace(spec, files=(replace(file, part="transformer_2"),)))
    (copy / "transformer" / "config.json").unlink()
    with pytest.raises(WeightsNotFoundError, match=r"transformer/config\.json is missing"):
        weights.locate(spec)

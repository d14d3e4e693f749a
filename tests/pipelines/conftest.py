"""Weights in folders and files, and loaded pipelines, shared by the tests that do not change them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.core.model import ModelSpec
from pipelines.runner.runner import Runner
from tests.support.models.wan21 import wan21_folder
from tests.support.models.wan22 import a14b_folder, ti2v_5b_folder
from tests.support.models.wan_files import (
    PARTS,
    State,
    by_original_names,
    mixed_types,
    wide_folder,
    wide_transformer,
    write_gguf,
)

both_dtypes = pytest.mark.parametrize("processor", ["float32", "bfloat16"], indirect=True, scope="session")
"""Runs a test as on a CPU without bf16 units, and as on one with them."""


def compute_in(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pipelines compute in a dtype on any CPU."""
    found, has_bf16 = torch.cpu.get_capabilities(), dtype == "bfloat16"
    faked = {**found, "avx512_bf16": has_bf16, "amx_bf16": has_bf16}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: faked)


@pytest.fixture(scope="session", autouse=True)
def processor(request: pytest.FixtureRequest) -> Iterator[str]:
    """The dtype in which pipelines compute on the CPU: float32 on every machine, unless a test sets another."""
    dtype = str(getattr(request, "param", "float32"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        compute_in(dtype, monkeypatch)
        yield dtype


@pytest.fixture(scope="session")
def wan21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of Wan2.1 itself: 8x VAE, patches of 2x2, several weight files."""
    return wan21_folder(tmp_path_factory.mktemp("wan21") / "weights")


@pytest.fixture(scope="session")
def demo_runner(processor: str, weights_folder: Path) -> Runner:
    """The demo weights on the CPU."""
    return Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu")


@pytest.fixture(scope="session")
def wan21_runner(processor: str, wan21: Path) -> Runner:
    """The small Wan2.1 on the CPU."""
    return Runner.load(ModelSpec("wan21", fps=16), wan21, "cpu")


@pytest.fixture(scope="session")
def a14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of Wan2.2 A14B: two experts."""
    return a14b_folder(tmp_path_factory.mktemp("a14b") / "weights")


@pytest.fixture(scope="session")
def ti2v_5b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of Wan2.2 TI2V 5B: a VAE of 16x, and a timestep for each token."""
    return ti2v_5b_folder(tmp_path_factory.mktemp("5b") / "weights")


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Wan2.1 whose transformer supports every quantization."""
    return wide_folder(tmp_path_factory.mktemp("wide") / "weights")


@pytest.fixture(scope="session")
def state(wide: Path) -> State:
    """The wide transformer's weights by diffusers' names."""
    return load_file(wide / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="session")
def bare(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wide folder without the transformer's weights."""
    folder = Path(shutil.copytree(wide, tmp_path_factory.mktemp("bare") / "weights"))
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


@pytest.fixture(scope="session")
def mixed(state: State, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with several quantizations, like those of larger models."""
    return write_gguf(
        tmp_path_factory.mktemp("mixed") / "mixed.gguf",
        by_original_names(state),
        by_original_names(mixed_types(state)),
    )


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two wide transformers in one pipeline."""
    folder = a14b_folder(tmp_path_factory.mktemp("experts") / "weights")
    for seed, part in enumerate(PARTS):
        for file in (folder / part).iterdir():
            file.unlink()
        wide_transformer(seed).save_pretrained(folder / part)
    return folder

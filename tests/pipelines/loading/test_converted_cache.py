"""Weights in a plan's own form: made once from their own files, and made again if those or the copy have changed."""

import gc
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.core.model import Lora, ModelSpec
from pipelines.core.precision import Precision
from pipelines.loading import converted_cache
from pipelines.loading.load import LoadedPipeline, load_pipeline
from pipelines.planning.layout import Layout, Residence

LAYOUT = Layout(Precision.INT8_MATMUL, text_encoder=Residence.DISK)


@pytest.fixture
def folder(wide: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wide, tmp_path / "weights"))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts whose weights were converted to disk."""
    write, parts = converted_cache._write, []

    def noting(source: Any, *args: Any) -> None:
        parts.append(source.part.name)
        write(source, *args)

    monkeypatch.setattr(converted_cache, "_write", noting)
    return parts


def load(folder: Path, **spec: Any) -> LoadedPipeline:
    # pipelines have reference cycles: one of an earlier load would still use its copy
    gc.collect()
    return load_pipeline(ModelSpec("wide", fps=16, **spec), folder, "cpu", layout=LAYOUT, cache=folder.parent / "cache")


def weights_of(loaded: LoadedPipeline) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.pipe.transformer.state_dict().items()}


def entries(folder: Path) -> list[Path]:
    return sorted((folder.parent / "cache" / "weights").iterdir())


def change_file(part: str, name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part / name
        save_file({key: tensor + 1 for key, tensor in load_file(path).items()}, path)

    return change


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda folder: (folder / "README.md").write_text("new"), False),
        (lambda folder: os.utime(folder / "model_index.json", (1, 1)), False),
        (lambda folder: (folder / "transformer" / "README.md").write_text("new"), False),
        (lambda folder: os.utime(folder / "scheduler" / "scheduler_config.json", (1, 1)), False),
        (change_file("vae", "diffusion_pytorch_model.safetensors"), False),
        (change_file("transformer", "diffusion_pytorch_model.safetensors"), True),
        (lambda folder: append(folder / "transformer" / "config.json", "\n"), True),
    ],
    ids=["README", "list", "its README", "scheduler", "other part", "weights", "config"],
)
def test_only_a_change_of_a_parts_own_files_converts_it_again(
    change: Callable[[Path], Any], again: bool, folder: Path, written: list[str]
) -> None:
    load(folder)
    assert written == ["transformer"]

    change(folder)
    load(folder)
    load(folder)

    assert written == ["transformer"] * (2 if again else 1)
    # what was made from the old files is an orphan
    assert len(entries(folder)) == 1


def rewrite(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    return lambda path: save_file(change(load_file(path)), path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(b""),
        Path.unlink,
        flip,
        rewrite(lambda state: {name: tensor.flatten() for name, tensor in state.items()}),
        rewrite(lambda state: {name: tensor.float() for name, tensor in state.items()}),
        rewrite(lambda state: dict(list(state.items())[1:])),
    ],
    ids=["cut off", "empty", "missing", "a flipped bit", "wrong shapes", "wrong dtypes", "a tensor less"],
)
def test_a_damaged_copy_is_made_again_once(
    damage: Callable[[Path], Any], folder: Path, written: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = weights_of(load(folder))
    (entry,) = entries(folder)
    damage(next(entry.glob("*.safetensors")))

    again = weights_of(load(folder))
    load(folder)

    assert written == ["transformer"] * 2
    assert len([line for line in caplog.messages if f"{entry} is damaged and will be made again" in line]) == 1
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())


def test_a_lora_makes_a_copy_of_its_own_that_goes_with_its_file(folder: Path, written: list[str]) -> None:
    layer = "transformer.blocks.0.attn1.to_v"
    factors = {f"{layer}.lora_A.weight": torch.ones(1, 256), f"{layer}.lora_B.weight": torch.ones(256, 1)}
    save_file(factors, folder.parent / "lora.safetensors")
    lora = Lora(str(folder.parent), "lora.safetensors")

    load(folder)
    load(folder, loras=(lora,))
    load(folder, loras=(lora,))
    assert len(written) == len(entries(folder)) == 2

    (folder.parent / "lora.safetensors").unlink()
    load(folder)
    assert len(written) == 2
    assert len(entries(folder)) == 1


def test_the_same_files_in_another_folder_are_not_converted_again(folder: Path, written: list[str]) -> None:
    """As after a download of a revision that differs in its README.md: the files are links to the same content."""
    load(folder)
    newer = folder.with_name("newer")
    shutil.copytree(folder, newer)

    load(newer)
    shutil.rmtree(folder)
    load(newer)

    assert len(written) == len(entries(newer)) == 1
    shutil.rmtree(newer)
    gc.collect()
    converted_cache.converted_weights(folder.parent / "cache").clean()
    assert not entries(newer)


def test_a_copy_is_in_use_as_long_as_its_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(folder)
    monkeypatch.setattr(converted_cache, "MAX_CONVERTED_BYTES", 0)

    load(folder)
    assert len(entries(folder)) == 1
    del loaded
    gc.collect()
    converted_cache.converted_weights(folder.parent / "cache").clean()
    assert not entries(folder)


def test_another_version_of_a_library_converts_again(
    folder: Path, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    monkeypatch.setattr(converted_cache, "FORMAT", 99)

    load(folder)

    assert len(written) == 2
    assert len(entries(folder)) == 1

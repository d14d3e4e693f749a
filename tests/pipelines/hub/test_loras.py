"""Requests name LoRAs; only files in the folder and those of the model are found."""

import os
from pathlib import Path

import pytest

from pipelines.core.errors import LoraError, VideoParamsError
from pipelines.core.model import ModelSpec, OptionalLora
from pipelines.core.request import RequestLora, is_lora_name
from pipelines.hub import loras
from pipelines.hub.loras import expert_of, list_files, locate_loras

ONE, TWO = ("transformer",), ("transformer", "transformer_2")
HOSTILE = (
    *("", ".", "..", "../secret", "sub/inner", "sub\\inner", "/etc/passwd", "secret\0", "-x", " x", "x\n", "x:1", "~x"),
    "a" * 129,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One LoRA, named mine, and all kinds of things that are none."""
    folder = tmp_path / "loras"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "secret", folder / "sub/inner", folder / "mine", folder / ".hidden", folder / "x:1"):
        path.with_name(f"{path.name}.safetensors").write_bytes(b"content")
    (folder / "notes.txt").write_bytes(b"notes")
    (folder / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "directory.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    return folder


def locate(name: str, folder: Path | None, *optional: OptionalLora, parts: tuple[str, ...] = ONE) -> list[Path]:
    spec = ModelSpec("model", fps=16, optional_loras=optional)
    return [lora.path for lora in locate_loras([RequestLora(name)], spec, folder, parts)]


def test_a_file_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    spec, file = ModelSpec("small", fps=16), tmp_path / "film.safetensors"
    file.write_bytes(b"one")
    (before,) = locate_loras([RequestLora("film")], spec, tmp_path, ["transformer"])
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    file.write_bytes(b"two")
    os.utime(file, ns=times)

    (after,) = locate_loras([RequestLora("film")], spec, tmp_path, ["transformer"])
    assert after.identity != before.identity
    with pytest.raises(LoraError, match="has changed"):
        before.check_unchanged()


def test_a_folder_has_its_regular_files(folder: Path) -> None:
    assert [(file.name, file.path, file.size) for file in list_files(folder)] == [
        ("mine", folder / "mine.safetensors", 7)
    ]
    assert locate("mine", folder) == [folder / "mine.safetensors"]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_the_folder(name: str, folder: Path) -> None:
    with pytest.raises(VideoParamsError):
        RequestLora(name)
    assert loras._file(folder, name) is None


@pytest.mark.parametrize("name", ["link", "pipe", "directory", "mine.safetensors", "Mine", "inner", "secret"])
def test_what_is_no_regular_file_of_the_folder_is_not_found(name: str, folder: Path) -> None:
    with pytest.raises(LoraError, match=f"The LoRA {name} is not on this machine"):
        locate(name, folder)


def test_without_a_folder_only_the_models_own_are_found(folder: Path) -> None:
    with pytest.raises(LoraError, match="The LoRA mine is not on this machine"):
        locate("mine", None)
    own = OptionalLora("mine", str(folder / "sub"), "inner.safetensors")
    assert locate("mine", None, own) == locate("mine", folder, own) == [folder / "sub" / "inner.safetensors"]


def test_a_missing_file_of_the_model_is_named() -> None:
    with pytest.raises(LoraError, match=r"The LoRA mine cannot be used: No gone.safetensors of /nowhere"):
        locate("mine", None, OptionalLora("mine", "/nowhere", "gone.safetensors"))


def test_a_lora_may_have_a_file_for_each_part(folder: Path) -> None:
    entries = [OptionalLora("two", str(folder / "sub"), "inner.safetensors", part=part) for part in TWO]
    assert len(locate("two", folder, *entries, parts=TWO)) == 2
    with pytest.raises(LoraError, match="The LoRA two is for transformer_2, which this model does not have"):
        locate("two", folder, *entries)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="none cannot be read: No such file or directory"):
        list_files(tmp_path / "none")


def test_a_folder_is_listed_within_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loras, "MAX_FILES", 3)
    for name in "edcba":
        (tmp_path / f"{name}.safetensors").touch()
    assert [file.name for file in list_files(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("wan2.2_high_noise_style", 0),
        ("style-HighNoise", 0),
        ("Wan2.2-Lightning-HIGH_fp16", 0),
        ("style_low-noise", 1),
        ("style LOW", 1),
        ("low_poly", None),
        ("highway at night", None),
        ("HIGH and LOW", None),
        ("GLOWING", None),
        ("style", None),
    ],
)
def test_a_files_name_may_say_its_expert(name: str, part: int | None) -> None:
    assert is_lora_name(name)
    assert expert_of(name, TWO) == (None if part is None else TWO[part])
    assert expert_of(name, ONE) is None

"""The fingerprint of a folder follows what is read, and nothing else. Checks: tests/pipelines/loading."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.hub.folder import digest, part_digest

SINGLE = "diffusion_pytorch_model.safetensors"


def append(path: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / path).write_bytes((folder / path).read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("change", "changes"),
    [
        (lambda folder: (folder / "README.md").write_text("new"), False),
        (lambda folder: (folder / "vae" / "README.md").write_text("new"), False),
        (lambda folder: (folder / "vae" / "latent_rgb.json").write_text("{}"), False),
        (lambda folder: (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").touch(), False),
        (lambda folder: shutil.copytree(folder / "transformer", folder / "transformer_2"), False),
        (lambda folder: os.utime(folder / "vae" / "config.json", (1, 1)), False),
        (lambda folder: os.utime(folder / "scheduler" / "scheduler_config.json", (1, 1)), False),
        (lambda folder: os.utime(folder / "vae" / SINGLE, (1, 1)), True),
        (append("vae/config.json"), True),
        (append("model_index.json"), True),
        (append("tokenizer/tokenizer_config.json"), True),
        (append("scheduler/scheduler_config.json"), True),
    ],
    ids=[
        "README",
        "its README",
        "map",
        "variant",
        "expert",
        "touched",
        "schedule touched",
        "weights",
        "config",
        "list",
        "token",
        "schedule",
    ],
)
def test_the_digest_follows_only_what_is_read(
    change: Callable[[Path], Any], changes: bool, wan21: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    before = digest(folder, "WanPipeline")

    change(folder)

    assert (digest(folder, "WanPipeline") != before) is changes


def test_a_parts_digest_follows_its_own_files(wan21: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(wan21, tmp_path / "weights"))
    before = [part_digest(folder / part, "diffusers") for part in ("vae", "transformer")]

    append("vae/config.json")(folder)

    after = [part_digest(folder / part, "diffusers") for part in ("vae", "transformer")]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]

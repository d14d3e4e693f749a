"""Headers are read as the library reads them; a damaged one never raises anything but a sentence."""

import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.core.errors import PipelineError, WeightsNotFoundError
from pipelines.models.safetensors_header import StoredTensor, read_header

TENSORS = {
    "scalar": torch.tensor(1.0),
    "none": torch.ones(0, 3),
    "matrix": torch.ones(2, 3, dtype=torch.bfloat16),
    "fp8": torch.ones(5, dtype=torch.float8_e4m3fn),
    "whole": torch.ones(4, dtype=torch.int64),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "weights.safetensors", {"format": "pt"})
    return tmp_path / "weights.safetensors"


def test_names_dtypes_and_shapes_are_those_of_the_library(path: Path) -> None:
    assert read_header(path) == {
        "scalar": StoredTensor("F32", ()),
        "none": StoredTensor("F32", (0, 3)),
        "matrix": StoredTensor("BF16", (2, 3)),
        "fp8": StoredTensor("F8_E4M3", (5,)),
        "whole": StoredTensor("I64", (4,)),
    }
    assert sum(stored.numel for stored in read_header(path).values()) == sum(t.numel() for t in TENSORS.values())


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")

    assert read_header(tmp_path / "empty.safetensors") == {}


@pytest.mark.parametrize("seed", range(60))
def test_what_passes_is_accepted_by_the_library_and_all_else_names_the_file(seed: int, path: Path) -> None:
    draw = random.Random(seed)
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.randint(1, 3)):
        content[draw.randrange(header)] = draw.choice([draw.randrange(256), *b'0123456789[]{},:"'])
    path.write_bytes(content[: draw.choice([len(content), draw.randrange(len(content))])])

    try:
        found = read_header(path)
    except PipelineError as error:
        assert str(path) in str(error)
        return
    with safe_open(path, "pt") as file:
        assert {name: tuple(file.get_tensor(name).shape) for name in file.keys()} == {  # noqa: SIM118
            name: stored.shape for name, stored in found.items()
        }


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsNotFoundError, match=r"gone\.safetensors is missing"):
        read_header(tmp_path / "gone.safetensors")

"""The scales that some fp8 weights have in tensors beside them: in single files and in folders alike.

A matrix `x.weight` is multiplied by `x.scale_weight` or `x.weight_scale`, which has one number or one for each row.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch

from pipelines.core.errors import UnsupportedModelError
from pipelines.models.weight_files import SCALES, UNUSED

_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


def is_beside_weights(name: str) -> bool:
    """Return whether a tensor is a scale or a marker rather than a weight."""
    return name.rpartition(".")[2] in (*SCALES, *UNUSED)


def scale_of(name: str, names: Collection[str]) -> str | None:
    """Return the name, among `names`, of the scales of a weight; None if it has none."""
    owner, _, leaf = name.rpartition(".")
    return next((f"{owner}.{s}" for s in SCALES if leaf == "weight" and f"{owner}.{s}" in names), None)


def apply_scale(path: Path, name: str, tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return an fp8 weight of a file times its scales, in fp32. Raises UnsupportedModelError for other scales."""
    rows = len(tensor) if tensor.ndim else 1
    shapes = ((), (1,), (1, 1), (rows,), (rows, 1))
    if tensor.dtype not in _FP8 or not scale.is_floating_point() or tuple(scale.shape) not in shapes:
        raise UnsupportedModelError(
            f"{path} has {name} with unsupported scales: only fp8 with one scale for a matrix or a row is read."
        )
    return tensor.float() * scale.float().reshape(-1, *(1,) * (tensor.ndim - 1))


def with_scales(path: Path, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of a file's tensors, multiplied by their scales. Raises UnsupportedModelError."""
    check_owners(path, state)
    for name, tensor in state.items():
        if not is_beside_weights(name):
            scale = scale_of(name, state)
            yield name, tensor if scale is None else apply_scale(path, name, tensor, state[scale])


def check_owners(path: Path, names: Collection[str]) -> None:
    """Raise UnsupportedModelError for scales without the weight that they belong to."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        if leaf in SCALES and f"{owner}.weight" not in names:
            raise UnsupportedModelError(f"{path} has {name}, but no {owner}.weight.")

"""The changes that a LoRA file makes to one parameter: products of two factors, and plain additions."""

from dataclasses import dataclass
from typing import Protocol

import torch

from pipelines.core.errors import UnsupportedModelError


class Change(Protocol):
    """A change of one parameter. `key` is its name in the file, for messages."""

    @property
    def key(self) -> str: ...

    def check(self, shape: torch.Size) -> None:
        """Raise UnsupportedModelError if it does not fit a parameter of that shape. Its values are not read."""
        ...

    def changes_anything(self) -> bool:
        """Return whether any value of a parameter would change. Raises UnsupportedModelError for NaN or infinity."""
        ...

    def added_to(self, tensor: torch.Tensor, strength: float) -> torch.Tensor:
        """Return an fp32 tensor with the change added `strength` times."""
        ...

    @property
    def rank(self) -> int:
        """The rank of its factors."""
        ...

    def factors(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return fp32 factors (rank, in) and (out, rank) whose product, second by first, is `strength` changes."""
        ...


@dataclass(frozen=True, slots=True)
class LowRank:
    """Adds scale · up · down: `up` (out, rank), `down` (rank, in).

    Those of a convolution have its kernel's sizes behind `down`'s, and ones behind `up`'s.
    """

    key: str
    down: torch.Tensor
    up: torch.Tensor
    scale: float

    def check(self, shape: torch.Size) -> None:
        down, up = self._matrices()
        sides = (shape[0], shape[1:].numel())
        if len(shape) < 2 or (len(up), down.shape[1]) != sides or up.shape[1] != len(down):
            raise UnsupportedModelError(
                f"is for a model of another size: the factors of {self.key} are {list(self.down.shape)} and "
                f"{list(self.up.shape)}, and its parameter is {list(shape)}"
            )
        # trainers give all layers one rank, which may be above the smaller side of the output layer
        if not 0 < len(down) <= max(sides):
            raise UnsupportedModelError(
                f"has rank {len(down)} for {self.key}, which must be from 1 to {max(sides)}, the matrix's larger side"
            )

    def changes_anything(self) -> bool:
        # both are read: each has to be finite
        has_down, has_up = _has_values(self.down, self.key), _has_values(self.up, self.key)
        return has_down and has_up and self.scale != 0

    def added_to(self, tensor: torch.Tensor, strength: float) -> torch.Tensor:
        down, up = self._matrices()
        matrix = tensor.float().flatten(1)
        return torch.addmm(matrix, up.float(), down.float(), alpha=strength * self.scale).reshape(tensor.shape)

    @property
    def rank(self) -> int:
        return self.down.shape[0] if self.down.ndim else 0

    def factors(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        down, up = self._matrices()
        return down.float(), up.float() * (strength * self.scale)

    def _matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.down.flatten(1), self.up.flatten(1)


@dataclass(frozen=True, slots=True)
class Addition:
    """Adds scale · value, of the parameter's own shape."""

    key: str
    value: torch.Tensor
    scale: float = 1.0

    def check(self, shape: torch.Size) -> None:
        if self.value.shape != shape:
            raise UnsupportedModelError(
                f"is for a model of another size: {self.key} is {list(self.value.shape)}, and its parameter is "
                f"{list(shape)}"
            )

    def changes_anything(self) -> bool:
        return _has_values(self.value, self.key) and self.scale != 0

    def added_to(self, tensor: torch.Tensor, strength: float) -> torch.Tensor:
        return torch.add(tensor.float(), self.value.float(), alpha=strength * self.scale)

    @property
    def rank(self) -> int:
        return min(self.value.shape, default=0)

    def factors(self, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
        value = self.value.float() * (strength * self.scale)
        rows, columns = value.shape
        # a full matrix is its own factor; the other is the identity of the smaller side
        return (value, torch.eye(rows)) if rows <= columns else (torch.eye(columns), value)


def _has_values(tensor: torch.Tensor, key: str) -> bool:
    """Return whether a tensor has anything but zeros. Raises UnsupportedModelError for NaN or infinity."""
    # in one pass, without a copy: NaN is both the least and the greatest value
    least, greatest = (tensor.float() if tensor.itemsize == 1 else tensor).aminmax()
    if not (least.isfinite() and greatest.isfinite()):
        raise UnsupportedModelError(f"has NaN or infinity in {key}")
    return bool(least) or bool(greatest)

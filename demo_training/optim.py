"""Muon for matrices and convolutions, Adam for the rest.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/; its step is scaled to the size of an Adam step as
in Liu et al. 2025 (https://arxiv.org/abs/2502.16982), so that both share one learning rate.
"""

from collections.abc import Iterable
from typing import Any

import torch


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum; a weight with more than two dimensions is flattened to (first, all others)."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step on every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(state["momentum"], group["momentum"])
                update = _orthogonal(ahead.flatten(1))
                size = 0.2 * max(update.shape) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * size)


def _orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The nearest matrix with singular values of about one, by Newton-Schulz iteration."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = (wide / (wide.norm() + 1e-7)).bfloat16()
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    x = x.to(matrix.dtype)
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


class Optimizers:
    """Both optimizers of a model as one; Adam also takes the matrices in `plain`."""

    def __init__(self, model: torch.nn.Module, lr: float, plain: Iterable[torch.nn.Parameter] = ()) -> None:
        left_out = {id(parameter) for parameter in plain}
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for parameter in model.parameters():
            if parameter.requires_grad:
                is_matrix = parameter.flatten(1).shape[1] > 1 if parameter.ndim >= 2 else False
                (matrices if is_matrix and id(parameter) not in left_out else others).append(parameter)
        self.peak = lr
        self._all = [Muon(matrices, lr), torch.optim.Adam(others, lr, betas=(0.9, 0.98))]

    def step(self, share: float) -> None:
        """Step with `share` (0 … 1) of the peak learning rate, then clear the gradients."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = self.peak * share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """The state for a resumed run."""
        return [optimizer.state_dict() for optimizer in self._all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restore a state from `state_dict`."""
        for optimizer, state in zip(self._all, states, strict=True):
            optimizer.load_state_dict(state)

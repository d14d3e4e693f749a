"""Outputs of the transformer that are foretold instead of computed, where foretelling them has proved right.

From step to step the transformer's output moves along a smooth path. At every step that is computed, what would have
been foretold is held against what came out; while the two differ little, every other step or so is foretold. So it
follows the prompt, the number of steps and the weights by itself: of four steps none is foretold, of fifty many are.

diffusers' caches for Wan (first block, MagCache, SeaCache) keep what the blocks add. What is kept here is what comes
out in the end, moved half as far on as it moved last: it asks nothing of the blocks, however these are laid out,
compiled or quantized. `python -m benchmarks.quality.speed` has both beside each other.
"""

from typing import Any

import torch

HALFWAY = 0.5
"""How much of its last movement an output is moved on. All of it overshoots, none lags."""

IN_A_ROW = 2
"""At most so many steps are foretold one after another: each guess leans on older outputs than the last."""


class StepCache:
    """What one denoising remembers of its passes, by their names ("cond", "uncond").

    `tolerance` bounds how wrong a foretold step may be: the expected error of the velocity, relative to its norm, times
    the step's share of the way from noise (1) to video (0).
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._outputs: dict[str, list[tuple[float, torch.Tensor]]] = {}
        self._misses: dict[str, torch.Tensor] = {}
        self._error: float | None = None
        self._over = 0.0
        self._in_a_row = 0

    def is_near(self, names: tuple[str, ...], sigma: float, next_sigma: float) -> bool:
        """Whether the passes of the step from `sigma` to `next_sigma` may be foretold; to 0 none may."""
        if self._error is None or next_sigma == 0 or self._in_a_row == IN_A_ROW:
            return False
        if any(len(self._outputs.get(name, ())) < 2 for name in names):
            return False
        away = self._outputs[names[0]][-1][0] - sigma
        return self._error * away / self._over * (sigma - next_sigma) <= self._tolerance

    def foretell(self, name: str, sigma: float) -> torch.Tensor:
        """The output of a pass that is not computed."""
        (before, older), (last, newer) = self._outputs[name]
        further = HALFWAY * (sigma - last) / (last - before)
        return (newer.float() + further * (newer.float() - older.float())).to(newer.dtype)

    def note(self, name: str, sigma: float, output: torch.Tensor) -> None:
        """Remember the output of a pass that was computed."""
        outputs = self._outputs.setdefault(name, [])
        if len(outputs) == 2:
            self._misses[name] = self.foretell(name, sigma).float() - output.float()
        if outputs:
            self._over = outputs[-1][0] - sigma
        self._outputs[name] = [*outputs, (sigma, output)][-2:]

    def end_computed(self, guidance_scale: float | None) -> None:
        """The step's passes were computed: find how wrong foretelling would have been. None: without guidance."""
        self._in_a_row = 0
        missed, came = self._misses, {name: outputs[-1][1].float() for name, outputs in self._outputs.items()}
        self._error = None
        if "cond" in missed and (guidance_scale is None or "uncond" in missed):
            wrong, right = _guided(missed, guidance_scale), _guided(came, guidance_scale)
            self._error = float(wrong.norm() / right.norm())
        self._misses = {}

    def end_skipped(self) -> None:
        """The step's passes were foretold."""
        self._in_a_row += 1

    def forget(self) -> None:
        """Begin anew: what comes next is another transformer's."""
        self._outputs, self._misses, self._error, self._in_a_row = {}, {}, None, 0

    def state(self) -> dict[str, Any]:
        """Everything it remembers between two steps."""
        return {"outputs": self._outputs, "error": self._error, "over": self._over, "in_a_row": self._in_a_row}

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what `state` told."""
        self._outputs, self._error = state["outputs"], state["error"]
        self._over, self._in_a_row = state["over"], state["in_a_row"]


def _guided(passes: dict[str, torch.Tensor], guidance_scale: float | None) -> torch.Tensor:
    if guidance_scale is None:
        return passes["cond"]
    return passes["uncond"] + guidance_scale * (passes["cond"] - passes["uncond"])

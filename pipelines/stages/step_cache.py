"""Skips denoising steps: the transformer's output is extrapolated where extrapolation has proved accurate.

The transformer's output follows a smooth path from step to step. At each computed step, the value that would have been
extrapolated is compared with the computed one. While the two differ little, about every other step is skipped. The
cache therefore adapts to the prompt, the number of steps and the weights: of four steps it skips none, of fifty many.

The caches that diffusers has for Wan (first block, MagCache, SeaCache) store what the blocks add. This one stores the
transformer's final output and moves it on by half of its last movement. It needs nothing from the blocks, so it works
with every placement, compilation and quantization of them. `python -m benchmarks.quality.speed` compares them.
"""

from typing import Any

import torch

EXTRAPOLATION = 0.5
"""Share of the last movement by which an output is moved on. The whole movement overshoots, none lags behind."""

MAX_CONSECUTIVE_SKIPS = 2
"""Limit of consecutive skipped steps: each extrapolation relies on older outputs than the one before."""


class StepCache:
    """The last outputs of the passes of one denoising loop, by the passes' names ("cond", "uncond").

    `tolerance` limits the error of a skipped step: the expected error of the velocity, relative to its norm, times the
    step's share of the way from noise (sigma 1) to video (sigma 0).
    """

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._outputs: dict[str, list[tuple[float, torch.Tensor]]] = {}
        self._differences: dict[str, torch.Tensor] = {}
        self._error: float | None = None
        self._error_distance = 0.0
        self._consecutive_skips = 0

    def can_skip(self, names: tuple[str, ...], sigma: float, next_sigma: float) -> bool:
        """Return whether the step from `sigma` to `next_sigma` may be skipped. A step to sigma 0 never is."""
        if self._error is None or next_sigma == 0 or self._consecutive_skips == MAX_CONSECUTIVE_SKIPS:
            return False
        if any(len(self._outputs.get(name, ())) < 2 for name in names):
            return False
        distance = self._outputs[names[0]][-1][0] - sigma
        return self._error * distance / self._error_distance * (sigma - next_sigma) <= self._tolerance

    def extrapolate(self, name: str, sigma: float) -> torch.Tensor:
        """Return the estimated output of a pass at `sigma`, shaped like its computed outputs."""
        (before, older), (last, newer) = self._outputs[name]
        factor = EXTRAPOLATION * (sigma - last) / (last - before)
        return (newer.float() + factor * (newer.float() - older.float())).to(newer.dtype)

    def record(self, name: str, sigma: float, output: torch.Tensor) -> None:
        """Store the computed output of a pass."""
        outputs = self._outputs.setdefault(name, [])
        if len(outputs) == 2:
            self._differences[name] = self.extrapolate(name, sigma).float() - output.float()
        if outputs:
            self._error_distance = outputs[-1][0] - sigma
        self._outputs[name] = [*outputs, (sigma, output)][-2:]

    def end_computed_step(self, guidance_scale: float | None) -> None:
        """Measure the error that extrapolating this step would have had. `guidance_scale` is None without guidance."""
        self._consecutive_skips = 0
        outputs = {name: outputs[-1][1].float() for name, outputs in self._outputs.items()}
        self._error = None
        if "cond" in self._differences and (guidance_scale is None or "uncond" in self._differences):
            difference, velocity = (_guided(each, guidance_scale) for each in (self._differences, outputs))
            self._error = float(difference.norm() / velocity.norm())
        self._differences = {}

    def end_skipped_step(self) -> None:
        """Count a step whose passes were extrapolated."""
        self._consecutive_skips += 1

    def reset(self) -> None:
        """Drop everything: the next outputs come from another transformer."""
        self._outputs, self._differences, self._error, self._consecutive_skips = {}, {}, None, 0

    def state(self) -> dict[str, Any]:
        """Return everything that is kept between two steps. The keys are part of the checkpoint format."""
        return {
            "outputs": self._outputs,
            "error": self._error,
            "over": self._error_distance,
            "in_a_row": self._consecutive_skips,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self._outputs, self._error = state["outputs"], state["error"]
        self._error_distance, self._consecutive_skips = state["over"], state["in_a_row"]


def _guided(passes: dict[str, torch.Tensor], guidance_scale: float | None) -> torch.Tensor:
    if guidance_scale is None:
        return passes["cond"]
    return passes["uncond"] + guidance_scale * (passes["cond"] - passes["uncond"])

"""Which passes of the transformer a denoising step computes: both of guidance, one, a batch of two, or none.

diffusers' loop asks for a pass with the prompt and, under guidance, for one without; a hook on the transformer answers,
and the loop stays diffusers' own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import CacheContext, StateManager

from pipelines.core.model import TRANSFORMERS
from pipelines.stages.step_cache import StepCache

_NAME = "paddock_passes"

Compute = Callable[..., tuple[torch.Tensor, ...]]
"""A transformer's forward pass, as WanPipeline calls it."""


class Passes:
    """The passes of one denoising.

    `negative` are the embeddings for the pass without the prompt, None where there is no guidance. There is guidance
    at noise levels within `interval` only; `batched` has both its passes computed together, by a batch of two.
    `tolerance` is the step cache's; 0 computes every step. `meanwhile` is called after each pass: a card, which is
    given work faster than it does it, still computes then.
    """

    def __init__(
        self,
        guidance_scale: float = 1.0,
        negative: torch.Tensor | None = None,
        *,
        interval: tuple[float, float] = (0.0, 1.0),
        batched: bool = False,
        tolerance: float = 0.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        self._meanwhile = meanwhile
        self._guidance_scale = guidance_scale
        self._negative = negative
        self._interval = interval
        self._batched = batched
        self._cache = StepCache(tolerance) if tolerance > 0 else None
        self._part = ""
        self._step: int | None = None
        self._is_skipped = False
        self._cond: torch.Tensor = torch.empty(0)
        self._uncond: torch.Tensor | None = None
        self.computed = 0
        self.steps_computed = 0
        self.steps_skipped = 0

    @contextmanager
    def of(self, pipe: Any) -> Iterator[None]:
        """Answer for the transformers of a pipeline while it denoises."""
        parts = {part: model for part in TRANSFORMERS if (model := getattr(pipe, part, None)) is not None}
        for part, model in parts.items():
            registry = HookRegistry.check_if_exists_or_initialize(model)
            registry.register_hook(_Hook(self, part, pipe.scheduler), _NAME)
        try:
            yield
        finally:
            for model in parts.values():
                HookRegistry.check_if_exists_or_initialize(model).remove_hook(_NAME, recurse=False)

    def state(self) -> dict[str, Any]:
        """What the steps to come depend on, for a checkpoint; the tensors are where they were computed."""
        return {} if self._cache is None else {"part": self._part, "cache": self._cache.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state, its tensors on the device."""
        if self._cache is not None:
            self._part = state["part"]
            self._cache.restore(state["cache"])

    def answer(self, part: str, at: CacheContext, scheduler: Any, compute: Compute, inputs: dict[str, Any]) -> Any:
        """The output of one pass, as the transformer would return it."""
        assert at.step_index is not None
        assert at.sigma is not None
        if at.step_index != self._step:
            self._begin(part, at.step_index, scheduler.sigmas)
            self.steps_skipped += self._is_skipped
            self.steps_computed += not self._is_skipped
        is_guided = self._is_guided(at.sigma)
        if at.name == "cond":
            self._cond = self._pass("cond", at.sigma, compute, inputs, is_guided)
            if not is_guided:
                self._end(None)
            return (self._cond,)
        if not is_guided:
            # without a difference between the two, guidance changes nothing
            return (self._cond,)
        uncond = self._pass("uncond", at.sigma, compute, inputs, is_guided)
        self._end(self._guidance_scale)
        return (uncond,)

    def _is_guided(self, sigma: float) -> bool:
        return self._negative is not None and self._interval[0] <= sigma <= self._interval[1]

    def _begin(self, part: str, step: int, sigmas: torch.Tensor) -> None:
        self._step, self._uncond = step, None
        if self._cache is None:
            return
        if part != self._part:
            self._part = part
            self._cache.forget()
        sigma, next_sigma = float(sigmas[step]), float(sigmas[step + 1])
        self._is_skipped = self._cache.is_near(
            ("cond", "uncond") if self._is_guided(sigma) else ("cond",), sigma, next_sigma
        )

    def _pass(self, name: str, sigma: float, compute: Compute, inputs: dict[str, Any], is_guided: bool) -> torch.Tensor:
        if self._cache is not None and self._is_skipped:
            return self._cache.foretell(name, sigma)
        if name == "uncond" and self._uncond is not None:
            output = self._uncond
        elif is_guided and self._batched:
            output, self._uncond = self._both(compute, inputs)
        else:
            output = compute(**inputs)[0]
            self.computed += 1
            self._meanwhile()
        if self._cache is not None:
            self._cache.note(name, sigma, output)
        return output

    def _both(self, compute: Compute, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        doubled = {name: torch.cat([inputs[name]] * 2) for name in ("hidden_states", "timestep")}
        negative = self._negative
        assert negative is not None
        texts = torch.cat([inputs["encoder_hidden_states"], negative.to(inputs["encoder_hidden_states"])])
        cond, uncond = compute(**{**inputs, **doubled, "encoder_hidden_states": texts})[0].chunk(2)
        self.computed += 2
        self._meanwhile()
        return cond, uncond

    def _end(self, guidance_scale: float | None) -> None:
        if self._cache is None:
            return
        if self._is_skipped:
            self._cache.end_skipped()
        else:
            self._cache.end_computed(guidance_scale)


class _Hook(ModelHook):
    """What a transformer is asked, it asks of `passes`."""

    _is_stateful = True

    def __init__(self, passes: Passes, part: str, scheduler: Any) -> None:
        super().__init__()
        self._passes = passes
        self._part = part
        self._scheduler = scheduler
        # diffusers tells every state manager of a hook where the loop is; there is no state by pass here
        self._where = StateManager(None)

    def new_forward(self, module: Any, **inputs: Any) -> Any:
        compute = self.fn_ref.original_forward
        return self._passes.answer(self._part, self._where.context, self._scheduler, compute, inputs)

    def reset_state(self, module: Any) -> Any:
        return module

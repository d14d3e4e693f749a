"""Classifier-free guidance: which of the transformer's two passes a denoising step computes, and how.

diffusers' denoising loop calls the transformer with the prompt and, under guidance, once more with the negative prompt.
A hook on the transformer intercepts these calls: it computes both passes one by one or as one batch of two, leaves out
the second one, or takes both from the step cache. The loop itself remains the library's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import CacheContext, StateManager

from pipelines.models.family import ModelFamily
from pipelines.stages.step_cache import StepCache

_HOOK_NAME = "paddock_guidance"

Forward = Callable[..., tuple[torch.Tensor, ...]]
"""A transformer's forward pass, as the pipeline calls it."""


class Guidance:
    """The guidance of one denoising loop of a family's pipeline, and the counts of what was computed for it.

    `negative` are the embeddings (1, tokens, dim) of the negative prompt, None without guidance. Guidance applies at
    noise levels within `interval` only. With `batched`, both passes are computed as one batch of two. `tolerance` is
    the step cache's; 0 computes every step. `after_pass` is called after each pass: a GPU still computes then, because
    the host queues work faster than the GPU does it.
    """

    def __init__(
        self,
        family: ModelFamily,
        guidance_scale: float = 1.0,
        negative: torch.Tensor | None = None,
        *,
        interval: tuple[float, float] = (0.0, 1.0),
        batched: bool = False,
        tolerance: float = 0.0,
        after_pass: Callable[[], None] = lambda: None,
    ) -> None:
        self._family = family
        self._after_pass = after_pass
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
        self.passes_computed = 0
        self.steps_computed = 0
        self.steps_skipped = 0

    @contextmanager
    def attached_to(self, pipe: Any) -> Iterator[None]:
        """Intercept the transformers of a pipeline while it denoises."""
        found = ((part.name, getattr(pipe, part.name, None)) for part in self._family.denoisers)
        parts = {name: model for name, model in found if model is not None}
        for part, model in parts.items():
            registry = HookRegistry.check_if_exists_or_initialize(model)
            registry.register_hook(_GuidanceHook(self, part, pipe.scheduler), _HOOK_NAME)
        try:
            yield
        finally:
            for model in parts.values():
                HookRegistry.check_if_exists_or_initialize(model).remove_hook(_HOOK_NAME, recurse=False)

    def state(self) -> dict[str, Any]:
        """Return what later steps depend on, for a checkpoint. Tensors stay on the device they were computed on."""
        return {} if self._cache is None else {"part": self._part, "cache": self._cache.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state, whose tensors are on the device."""
        if self._cache is not None:
            self._part = state["part"]
            self._cache.restore(state["cache"])

    def forward(self, part: str, at: CacheContext, scheduler: Any, compute: Forward, inputs: dict[str, Any]) -> Any:
        """Return the output of one pass of the transformer `part`, in the form in which the transformer returns it."""
        # only diffusers' text-to-video loop tells its position
        step = (scheduler.step_index or 0) if at.step_index is None else at.step_index
        sigma = float(scheduler.sigmas[step])
        if step != self._step:
            self._begin_step(part, step, scheduler.sigmas)
            self.steps_skipped += self._is_skipped
            self.steps_computed += not self._is_skipped
        is_guided = self._is_guided(sigma)
        if at.name == "cond":
            self._cond = self._output("cond", sigma, compute, inputs, is_guided)
            if not is_guided:
                self._end_step(None)
            return (self._cond,)
        if not is_guided:
            # with two equal passes the loop's guidance formula changes nothing
            return (self._cond,)
        uncond = self._output("uncond", sigma, compute, inputs, is_guided)
        self._end_step(self._guidance_scale)
        return (uncond,)

    def _is_guided(self, sigma: float) -> bool:
        return self._negative is not None and self._interval[0] <= sigma <= self._interval[1]

    def _begin_step(self, part: str, step: int, sigmas: torch.Tensor) -> None:
        self._step, self._uncond = step, None
        if self._cache is None:
            return
        if part != self._part:
            self._part = part
            self._cache.reset()
        sigma, next_sigma = float(sigmas[step]), float(sigmas[step + 1])
        self._is_skipped = self._cache.can_skip(
            ("cond", "uncond") if self._is_guided(sigma) else ("cond",), sigma, next_sigma
        )

    def _output(
        self, name: str, sigma: float, compute: Forward, inputs: dict[str, Any], is_guided: bool
    ) -> torch.Tensor:
        if self._cache is not None and self._is_skipped:
            return self._cache.extrapolate(name, sigma)
        if name == "uncond" and self._uncond is not None:
            output = self._uncond
        elif is_guided and self._batched:
            output, self._uncond = self._both_passes(compute, inputs)
        else:
            output = compute(**inputs)[0]
            self.passes_computed += 1
            self._after_pass()
        if self._cache is not None:
            self._cache.record(name, sigma, output)
        return output

    def _both_passes(self, compute: Forward, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        given = (name for name in self._family.repeated_inputs if inputs.get(name) is not None)
        doubled = {name: torch.cat([inputs[name]] * 2) for name in given}
        name, negative = self._family.text_input, self._negative
        assert negative is not None
        texts = torch.cat([inputs[name], negative.to(inputs[name])])
        cond, uncond = compute(**{**inputs, **doubled, name: texts})[0].chunk(2)
        self.passes_computed += 2
        self._after_pass()
        return cond, uncond

    def _end_step(self, guidance_scale: float | None) -> None:
        if self._cache is None:
            return
        if self._is_skipped:
            self._cache.end_skipped_step()
        else:
            self._cache.end_computed_step(guidance_scale)


class _GuidanceHook(ModelHook):
    """Hands a transformer's calls to `guidance`."""

    _is_stateful = True

    def __init__(self, guidance: Guidance, part: str, scheduler: Any) -> None:
        super().__init__()
        self._guidance = guidance
        self._part = part
        self._scheduler = scheduler
        # diffusers sets the loop's position on every state manager of a hook; this hook keeps no state by pass
        self._position = StateManager(None)

    def new_forward(self, module: Any, **inputs: Any) -> Any:
        compute = self.fn_ref.original_forward
        return self._guidance.forward(self._part, self._position.context, self._scheduler, compute, inputs)

    def reset_state(self, module: Any) -> Any:
        return module

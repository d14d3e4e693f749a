"""Embeddings → latents: the denoising loop of diffusers, looked after step by step, from its start or its middle."""

import gc
from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import torch

from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention
from pipelines.core.request import VideoParams
from pipelines.layers.attention.backends import attending
from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.guidance import Passes

# public from torch 2.12 on only
_empty_host_cache = getattr(torch.accelerator, "empty_host_cache", None) or torch._C._host_emptyCache

Capture = Callable[[float], DenoisingState]
"""Copies the state of a denoising on which so many seconds of work were spent."""

Predict = Callable[[], torch.Tensor | None]
"""The normalised latents (1, channels, t, h, w) that a step takes for the finished ones; None if that is unknown."""

_PIXELS = {"480p": 832 * 480, "720p": 1280 * 720}


def denoise(
    pipe: Any,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None,
    params: VideoParams,
    geometry: Geometry,
    passes: Passes,
    *,
    flow_shift: float | None,
    attention: Attention = Attention.NATIVE,
    denoising_state: DenoisingState | None = None,
    on_step: Callable[[int, Capture, Predict], None] = lambda *_: None,
) -> torch.Tensor:
    """Run the denoising steps, all or those after `denoising_state`. Returns normalised latents
    (1, channels, t, h, w).

    `passes` say which of the transformer's passes are computed, `attention` by which kernel. `flow_shift` replaces the
    scheduler's own, if given. `on_step` is called after each step with the number of steps done, and may raise to end
    it there. The noise is drawn on the CPU, so that a seed means the same on every device. Raises NonFiniteOutputError
    when the latents are no longer numbers.
    """
    generator = torch.Generator("cpu").manual_seed(params.seed)
    before: torch.Tensor | None = None

    def after_step(pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        def capture(seconds: float) -> DenoisingState:
            return DenoisingState.capture(pipe.scheduler, index + 1, tensors["latents"], generator, passes, seconds)

        def predict() -> torch.Tensor | None:
            return clean_latents(pipe.scheduler, tensors["latents"], before)

        nonlocal before
        on_step(index + 1, capture, predict)
        before = tensors["latents"]
        return tensors

    if flow_shift is not None:
        pipe.scheduler.register_to_config(flow_shift=flow_shift)
    if denoising_state is not None and denoising_state.step == params.num_inference_steps:
        return _finite(denoising_state.latents.to(prompt_embeds.device))
    if denoising_state is not None:
        generator.set_state(denoising_state.generator)
        pipe.begin_after(denoising_state, passes)
    with passes.of(pipe), attending(attention, prompt_embeds.device, prompt_embeds.dtype):
        latents = pipe(
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            height=geometry.full_height,
            width=geometry.full_width,
            num_frames=geometry.full_num_frames,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=generator,
            latents=None if denoising_state is None else denoising_state.latents,
            output_type="latent",
            callback_on_step_end=after_step,
        ).frames
    return _finite(latents)


def _finite(latents: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(latents).all():
        raise NonFiniteOutputError(
            "Denoising ended in values that are not numbers (NaN or infinity), so no video was made. "
            "Another seed or a lower guidance_scale may avoid it."
        )
    return latents


def flow_shift_at(geometry: Geometry, known: Mapping[str, float] | None) -> float | None:
    """The shift for a video's size: that of 480p or 720p, whichever has the nearer number of pixels by ratio."""
    if known is None:
        return None
    between = sqrt(_PIXELS["480p"] * _PIXELS["720p"])
    return known["480p" if geometry.width * geometry.height < between else "720p"]


def recover(pipe: Any) -> None:
    """Bring a pipeline back to rest after a generation that was cut short, so that it cannot colour the next."""
    pipe.maybe_free_model_hooks()
    pipe.forget()
    pipe.scheduler.set_timesteps(1)
    release_memory()


def release_memory() -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        # pinned memory is kept for later as well, and the host may need it for the next plan
        _empty_host_cache()


def clean_latents(scheduler: Any, latents: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor | None:
    """What the step just done takes the finished latents to be; None if that cannot be told.

    `latents` are those after the step, `before` those it was given, if they are known. Schedulers that predict the
    clean sample keep it (UniPC). Of the others (Euler) the step itself tells: along a flow latents are
    (1 - sigma) * clean + sigma * noise, so the line through both latents meets the clean ones at sigma 0.
    """
    if getattr(scheduler, "predict_x0", False):
        predicted: torch.Tensor = scheduler.model_outputs[-1]
        return predicted
    step, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    if before is None or sigmas is None or not step:
        return None
    here, there = float(sigmas[step]), float(sigmas[step - 1])
    if here == there:
        return None
    return latents - here / (here - there) * (latents - before)

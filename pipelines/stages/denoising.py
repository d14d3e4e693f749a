"""The denoising stage: embeddings → latents, by diffusers' own loop, from its first step or from a checkpoint."""

import gc
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from pipelines.core.errors import NonFiniteOutputError
from pipelines.core.geometry import Geometry, nearest_resolution
from pipelines.core.model import Attention
from pipelines.core.request import VideoParams
from pipelines.layers.attention.backends import attention_context
from pipelines.models.family import ModelFamily
from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.conditioning.image_encoding import ImageCondition
from pipelines.stages.conditioning.known_latents import KnownLatents
from pipelines.stages.guidance import Guidance

# public only since torch 2.12
_empty_host_cache = getattr(torch.accelerator, "empty_host_cache", None) or torch._C._host_emptyCache

Capture = Callable[[float], DenoisingState]
"""Copies the state of the loop; its argument is the working time of the generation so far, in seconds."""

Predict = Callable[[], torch.Tensor | None]
"""Returns a step's prediction of the finished latents, normalised, (1, channels, t, h, w); None if there is none."""


def denoise(
    family: ModelFamily,
    pipe: Any,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None,
    params: VideoParams,
    geometry: Geometry,
    guidance: Guidance,
    *,
    scheduler: Any,
    attention: Attention = Attention.NATIVE,
    condition: ImageCondition | None = None,
    known: KnownLatents | None = None,
    denoising_state: DenoisingState | None = None,
    on_step: Callable[[int, Capture, Predict], None] = lambda *_: None,
) -> torch.Tensor:
    """Run all denoising steps of a family's pipeline, or those after `denoising_state`, or those from `known` on.

    Return normalised latents (1, channels, t, h, w).

    The embeddings are (1, tokens, dim). `scheduler` has the sampler and the noise levels, and is used for this loop
    only. `attention` selects the kernel. `condition` is what images were encoded to, for an image pipeline. `known` is
    what the video is made from; with `denoising_state` a `KnownVideo` is not needed. `on_step` is called after each
    step with the number of finished steps; it may raise to end the loop. The noise is drawn on the CPU, so that a seed
    gives the same noise on every device. Raises NonFiniteOutputError if the latents contain NaN or infinity.
    """
    generator = torch.Generator("cpu").manual_seed(params.seed)
    before: torch.Tensor | None = None

    def after_step(pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if known is not None:
            tensors = {**tensors, "latents": known.after_step(tensors["latents"], pipe.scheduler.sigmas[index + 1])}

        def capture(seconds: float) -> DenoisingState:
            return DenoisingState.capture(pipe.scheduler, index + 1, tensors, generator, guidance, seconds)

        def predict() -> torch.Tensor | None:
            return clean_latents(pipe.scheduler, tensors["latents"], before)

        nonlocal before
        on_step(index + 1, capture, predict)
        before = tensors["latents"]
        return tensors

    pipe.scheduler = scheduler
    if denoising_state is not None and denoising_state.step == params.num_inference_steps and condition is None:
        return _finite(denoising_state.latents.to(prompt_embeds.device))
    if denoising_state is not None:
        generator.set_state(denoising_state.generator)
        pipe.resume_from(denoising_state, guidance)
    elif known is not None:
        pipe.begin_with(known)
    arguments: dict[str, Any] = {
        "prompt_embeds": prompt_embeds,
        "negative_prompt_embeds": negative_prompt_embeds,
        "height": geometry.full_height,
        "width": geometry.full_width,
        "num_frames": geometry.full_num_frames,
        "num_inference_steps": params.num_inference_steps,
        "guidance_scale": params.guidance_scale,
        "generator": generator,
        "output_type": "latent",
        "callback_on_step_end": after_step,
        "callback_on_step_end_tensor_inputs": list(family.loop_tensors),
    }
    if condition is not None:
        pipe.condition_on(condition)
        arguments |= {"image": condition.images.first, "last_image": condition.images.last}
    if denoising_state is not None:
        carried = {name: tensor.to(prompt_embeds.device) for name, tensor in denoising_state.tensors.items()}
        arguments |= {"latents": denoising_state.latents, **carried}
    with guidance.attached_to(pipe), attention_context(attention, prompt_embeds.device, prompt_embeds.dtype):
        latents = pipe(**arguments).frames
    if denoising_state is not None or condition is not None or known is not None:
        # it is still to be resumed if no step was left, and keeps what it was conditioned on
        pipe.reset()
    return _finite(latents)


def _finite(latents: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(latents).all():
        raise NonFiniteOutputError(
            "Denoising ended in values that are not numbers (NaN or infinity), so no video was made."
        )
    return latents


def flow_shift_at(geometry: Geometry, known: Mapping[str, float] | None) -> float | None:
    """Return the flow shift for a video's size: that of 480p or 720p, whichever is nearer."""
    return None if known is None else known[nearest_resolution(geometry.width, geometry.height)]


def clean_latents(scheduler: Any, latents: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor | None:
    """Return the last step's prediction of the finished latents; None if it is unknown.

    `latents` are those after the step, `before` those before it, if known. Schedulers that predict the clean sample
    store it (UniPC, DPM-Solver++). With the others (Euler) it follows from the step: along a flow, latents are
    (1 - sigma) * clean + sigma * noise, so the line through both latents meets the clean ones at sigma 0.
    """
    if getattr(scheduler, "predict_x0", False) or scheduler.config.get("algorithm_type") == "dpmsolver++":
        predicted: torch.Tensor = scheduler.model_outputs[-1]
        return predicted
    step, sigmas = getattr(scheduler, "step_index", None), getattr(scheduler, "sigmas", None)
    if before is None or sigmas is None or not step:
        return None
    sigma, previous_sigma = float(sigmas[step]), float(sigmas[step - 1])
    if sigma == previous_sigma:
        return None
    return latents - sigma / (sigma - previous_sigma) * (latents - before)


def reset(pipes: Iterable[Any]) -> None:
    """Clear what an interrupted generation left in pipelines, so that it cannot influence the next one."""
    for pipe in pipes:
        pipe.maybe_free_model_hooks()
        pipe.reset()
        pipe.scheduler.set_timesteps(1)
    release_memory()


def release_memory() -> None:
    """Return unreferenced memory to the device and the host."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        # torch also caches pinned host memory, which the next plan may need
        _empty_host_cache()

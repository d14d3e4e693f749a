"""Embeddings → latents: the denoising loop of diffusers, with progress, and an end when it is asked to stop."""

import gc
from collections.abc import Mapping
from math import sqrt
from typing import Any

import torch

from pipelines.attention import fast_attention
from pipelines.errors import GenerationCancelled, NonFiniteOutputError
from pipelines.geometry import Geometry
from pipelines.spec import CancelCheck, VideoParams

_PIXELS = {"480p": 832 * 480, "720p": 1280 * 720}


def denoise(
    pipe: Any,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor | None,
    params: VideoParams,
    geometry: Geometry,
    *,
    flow_shift: float | None,
    on_step: Any,
    cancelled: CancelCheck,
) -> torch.Tensor:
    """Run all denoising steps and return normalised latents (1, channels, t, h, w).

    `flow_shift` replaces the scheduler's own, if given. `on_step` is called with the number of steps done after each.
    The noise is drawn on the CPU, so that a seed means the same on every device. Raises GenerationCancelled after the
    step during which `cancelled()` became true, and NonFiniteOutputError when the latents are no longer numbers.
    """

    def after_step(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if cancelled():
            raise GenerationCancelled
        on_step(index + 1)
        return tensors

    if flow_shift is not None:
        pipe.scheduler.register_to_config(flow_shift=flow_shift)
    with fast_attention(prompt_embeds.device, prompt_embeds.dtype):
        latents = pipe(
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            height=geometry.full_height,
            width=geometry.full_width,
            num_frames=geometry.full_num_frames,
            num_inference_steps=params.num_inference_steps,
            guidance_scale=params.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(params.seed),
            output_type="latent",
            callback_on_step_end=after_step,
        ).frames
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


def uses_guidance(params: VideoParams) -> bool:
    """Whether a negative pass runs: diffusers leaves it out at a guidance scale of 1 or below."""
    return params.guidance_scale > 1


def recover(pipe: Any) -> None:
    """Bring a pipeline back to rest after a generation that was cut short, so that it cannot colour the next."""
    pipe.maybe_free_model_hooks()
    pipe.scheduler.set_timesteps(1)
    release_memory()


def release_memory() -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

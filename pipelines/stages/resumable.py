"""diffusers' pipelines, able to continue in the middle of their loop, and with images that are encoded already."""

from functools import cache
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.conditioning.image_encoding import ImageCondition
from pipelines.stages.guidance import Guidance


class _Resumable:
    """Skips the steps that a checkpoint holds, in the way diffusers skips those of an interrupted call."""

    _interrupt: bool
    _execution_device: Any
    scheduler: Any
    _resume_from: tuple[DenoisingState, Guidance] | None = None
    _steps_seen = 0

    def resume_from(self, state: DenoisingState, guidance: Guidance) -> None:
        """Let the next call continue from `state`. It must get the same arguments, and `state.latents`."""
        self._resume_from, self._steps_seen = (state, guidance), 0

    def reset(self) -> None:
        """Let the next call start at the first step, without images."""
        self._resume_from = None

    @property
    def interrupt(self) -> bool:
        """Whether to skip the step that begins. The loop reads it once a step, after it has set the timesteps."""
        if self._resume_from is None:
            return self._interrupt
        state, guidance = self._resume_from
        if self._steps_seen < state.step:
            self._steps_seen += 1
            return True
        state.restore(self.scheduler, guidance, self._execution_device)
        self._resume_from = None
        return self._interrupt


class _Conditioned(_Resumable):
    """Takes what its images were encoded to, instead of encoding them."""

    _condition: ImageCondition | None = None

    def condition_on(self, condition: ImageCondition) -> None:
        """Let the next call have this condition. It must get its images."""
        self._condition = condition

    def reset(self) -> None:
        super().reset()
        self._condition = None

    def encode_image(self, *_: Any) -> torch.Tensor:
        """Return the embeddings of the images."""
        assert self._condition is not None
        assert self._condition.embeds is not None
        return self._condition.embeds

    def prepare_latents(
        self,
        image: torch.Tensor,
        batch_size: int,
        num_channels_latents: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype,
        device: torch.device,
        generator: torch.Generator,
        latents: torch.Tensor | None,
        last_image: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        """Return the noise (1, channels, t, h, w), or `latents`, followed by what is joined to it."""
        assert self._condition is not None
        tensors = tuple(tensor.to(device, dtype) for tensor in self._condition.tensors)
        if latents is not None:
            return latents.to(device, dtype), *tensors
        # the last of them has all latent frames
        shape = (batch_size, num_channels_latents, *tensors[-1].shape[2:])
        return randn_tensor(shape, generator=generator, device=device, dtype=dtype), *tensors


@cache
def resumable(pipeline_class: Any) -> Any:
    """Return a subclass of a diffusers pipeline that has `resume_from` and `reset`, and for images `condition_on`."""
    mixin = _Conditioned if hasattr(pipeline_class, "encode_image") else _Resumable
    return type(f"Resumable{pipeline_class.__name__}", (mixin, pipeline_class), {})

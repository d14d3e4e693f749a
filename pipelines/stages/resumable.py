"""diffusers' pipelines, able to begin in the middle of their loop, and with images that are encoded already."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from pipelines.stages.checkpoint import DenoisingState
from pipelines.stages.conditioning.image_encoding import ImageCondition
from pipelines.stages.conditioning.known_latents import KnownLatents
from pipelines.stages.guidance import Guidance


class _Resumable:
    """Skips the first steps, in the way diffusers skips those of an interrupted call.

    These are the steps that a checkpoint holds, or those before the one at which known latents begin.
    """

    _interrupt: bool
    _execution_device: Any
    scheduler: Any
    _begin: Callable[[], None] | None = None
    _steps_to_skip = 0
    _known: KnownLatents | None = None

    def resume_from(self, state: DenoisingState, guidance: Guidance) -> None:
        """Let the next call continue from `state`. It must get the same arguments, and `state.latents`."""
        self._steps_to_skip = state.step
        self._begin = lambda: state.restore(self.scheduler, guidance, self._execution_device)

    def begin_with(self, known: KnownLatents) -> None:
        """Let the next call begin with known latents, at their step. It must get no latents."""
        self._known, self._steps_to_skip = known, known.first_step
        self._begin = lambda: self.scheduler.set_begin_index(known.first_step)

    def reset(self) -> None:
        """Let the next call start at the first step, without known latents or images."""
        self._begin, self._known = None, None

    @property
    def interrupt(self) -> bool:
        """Whether to skip the step that begins. The loop reads it once a step, after it has set the timesteps."""
        if self._begin is None:
            return self._interrupt
        if self._steps_to_skip > 0:
            self._steps_to_skip -= 1
            return True
        self._begin()
        self._begin = None
        return self._interrupt

    def prepare_latents(self, *arguments: Any) -> Any:
        """Return the latents that the loop begins with, (1, channels, t, h, w)."""
        # the loop has set the timesteps, and passes the latents that it was given, or draws noise
        latents = super().prepare_latents(*arguments)  # type: ignore[misc]
        return latents if self._known is None else self._known.begin(latents, self.scheduler.sigmas)


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
    """Return a subclass of a diffusers pipeline that has the methods above, for images also `condition_on`."""
    mixin = _Conditioned if hasattr(pipeline_class, "encode_image") else _Resumable
    return type(f"Resumable{pipeline_class.__name__}", (mixin, pipeline_class), {})

"""A model that makes sounds from text: loaded once, kept in host memory, on the device only while it works."""

import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

from pipelines.core.errors import PipelineError, SoundError
from pipelines.core.model import SoundSpec
from pipelines.hub.folder import digest
from pipelines.hub.local import locate
from pipelines.models.sound.families import sound_family_of
from pipelines.stages.audio.levelling import levelled
from pipelines.stages.writing.wave_file import Samples

log = logging.getLogger("paddock.sound")

_PACKAGES = {"CosineDPMSolverMultistepScheduler": "torchsde"}
"""What schedulers need besides diffusers' own packages."""

AfterStep = Callable[[int, int], None]
"""Called with the finished and all steps; what it raises ends the work."""


class SoundModel:
    """The model that `spec` names, for one device, a torch device name. Weights are read when they are first used."""

    def __init__(self, spec: SoundSpec, device: str, folder: Path | None = None) -> None:
        self.spec = spec
        self._device = torch.device(device)
        self._folder = folder
        self._family = sound_family_of(spec.pipeline_class)
        self._pipe: Any = None

    @property
    def name(self) -> str:
        """What decides the bytes of its sounds besides the request: the model, its weights and its numbers' format."""
        # looked up each time: the weights may have come after the start
        folder = self._located()
        return f"{self.spec.id or self.spec.repo} {digest(folder, self.spec.pipeline_class)} {self._dtype}"

    @property
    def _dtype(self) -> torch.dtype:
        # a CPU computes 16 bits in software
        return torch.float32 if self._device.type == "cpu" else torch.float16

    def make(
        self, prompt: str, seconds: float, seed: int, after_step: AfterStep = lambda *_: None
    ) -> tuple[Samples, int]:
        """Return a sound, (channels, samples), of exactly so many seconds or of the longest that the model makes.

        The second value is its samples a second. The same seed gives the same sound. Raises SoundError, and whatever
        `after_step` raises.
        """
        raised: list[BaseException] = []

        def noting(step: int, steps: int) -> None:
            try:
                after_step(step, steps)
            except BaseException as error:
                raised.append(error)
                raise

        try:
            pipe = self._loaded()
            return self._made(pipe, prompt, min(seconds, self.spec.max_seconds), seed, noting)
        except Exception as error:
            if raised and raised[0] is error:
                raise
            if isinstance(error, PipelineError):
                raise SoundError(str(error)) from error
            log.exception("making a sound failed")
            why = str(error).partition("\n")[0]
            raise SoundError(f"The sound could not be made: {type(error).__name__}: {why}") from error
        finally:
            if self._pipe is not None and self._device.type != "cpu":
                self._pipe.to("cpu")
                torch.cuda.empty_cache()

    def _made(self, pipe: Any, prompt: str, seconds: float, seed: int, after_step: AfterStep) -> tuple[Samples, int]:
        if self._device.type != "cpu":
            pipe.to(self._device)
        rate = self._family.rate(pipe)
        # numbers of a CPU's generator are the same on every device
        generator = torch.Generator("cpu").manual_seed(seed)
        arguments = self._family.arguments(self.spec, pipe, seconds) | self._family.callback(after_step, self.spec)
        sound = pipe(prompt, generator=generator, output_type="pt", **arguments).audios[0]
        wanted = round(seconds * rate)
        samples = sound.float().cpu().numpy().reshape(-1, sound.shape[-1])[:, :wanted]
        if samples.shape[1] < wanted:
            samples = np.pad(samples, ((0, 0), (0, wanted - samples.shape[1])))
        return levelled(np.ascontiguousarray(samples, np.float32)), rate

    def _located(self) -> Path:
        return locate(self.spec) if self._folder is None else self._folder

    def _loaded(self) -> Any:
        if self._pipe is None:
            folder = self._located()
            scheduler = self._family.read_index(folder).components.get("scheduler", ("", ""))
            package = _PACKAGES.get(scheduler[1])
            if package is not None and find_spec(package) is None:
                raise SoundError(f"{self.spec.id or self.spec.repo} needs a package: pip install {package}.")
            with warnings.catch_warnings():
                # diffusers' classes use what torch will drop
                warnings.simplefilter("ignore", FutureWarning)
                # the weights of whoever made the folder are data, never code
                pipe = getattr(diffusers, self._family.pipeline_class).from_pretrained(
                    folder, torch_dtype=self._dtype, local_files_only=True, use_safetensors=True
                )
            pipe.set_progress_bar_config(disable=True)
            self._pipe = pipe
        return self._pipe

    def close(self) -> None:
        """Free the weights."""
        self._pipe = None

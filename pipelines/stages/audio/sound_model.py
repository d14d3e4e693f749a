"""A model that makes sounds from text: loaded once, kept in host memory, on the device only while it works."""

import hashlib
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import diffusers
import numpy as np
import torch

from pipelines.core.errors import PipelineError, SoundError
from pipelines.core.model import SoundSpec
from pipelines.hub.folder import digest
from pipelines.hub.local import locate
from pipelines.models.sound.families import sound_family_of
from pipelines.stages.audio import levelling
from pipelines.stages.denoising import release_memory
from pipelines.stages.writing.wave_file import Samples

log = logging.getLogger("paddock.sound")

_PACKAGES = {"CosineDPMSolverMultistepScheduler": "torchsde"}
"""What schedulers need besides diffusers' own packages."""

_REASON_CHARS = 300

AfterStep = Callable[[int, int], None]
"""Called with the finished and all steps, with 0 while the weights are brought; what it raises ends the work."""


class SoundModel:
    """The model that `spec` names, for one device, a torch device name. Weights are read when they are first used."""

    def __init__(self, spec: SoundSpec, device: str, folder: Path | None = None) -> None:
        self.spec = spec
        self._device = torch.device(device)
        self._folder = folder
        self._family = sound_family_of(spec.pipeline_class)
        self._pipe: Any = None
        self._name = ""
        self.portable_name = ""
        """The name without the times of files: that of the same weights on any machine."""

    @property
    def name(self) -> str:
        """What decides the bytes of its sounds besides the request; empty before weights were read."""
        return self._name

    @property
    def _dtype(self) -> torch.dtype:
        # a CPU computes 16 bits in software
        name = "float32" if self._device.type == "cpu" else self._family.device_dtype
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def make(
        self, prompt: str, seconds: float, seed: int, after_step: AfterStep = lambda *_: None
    ) -> tuple[Samples, int]:
        """Return a sound, (channels, samples), of exactly so many seconds or of the longest that the model makes.

        The second value is its samples a second. The same seed gives the same sound. Raises SoundError, and whatever
        `after_step` raises.
        """
        raised: list[BaseException] = []

        def noting(step: int) -> None:
            try:
                after_step(step, self.spec.num_inference_steps)
            except BaseException as error:
                raised.append(error)
                raise

        try:
            noting(0)
            self.load()
            noting(0)
            return self._made(prompt, min(seconds, self.spec.max_seconds), seed, noting)
        except Exception as error:
            if raised and raised[0] is error:
                raise
            if not isinstance(error, PipelineError):
                log.exception("making a sound failed")
            why = _reason(error)
        finally:
            self._leave_device()
        # after the except block, because the exception's frames keep the tensors alive
        release_memory()
        raise SoundError(why)

    def warnings(self, prompt: str, seconds: float) -> tuple[str, ...]:
        """Sentences about what of a request the model could not follow, after a sound was made."""
        said = []
        if seconds > (longest := self.spec.max_seconds):
            said.append(f"The model for sounds makes at most {longest:g} seconds: silence follows in the video.")
        tokens, limit = len(self._pipe.tokenizer(prompt).input_ids), self._family.max_tokens(self._pipe)
        if tokens > limit:
            said.append(
                f"The prompt of the sound has {tokens} tokens, and its model reads only the first {limit}: the rest "
                "was ignored."
            )
        return tuple(said)

    def load(self) -> None:
        """Read the weights into host memory, unless they are there. Raises PipelineError, and others of diffusers."""
        if self._pipe is not None:
            return
        folder = locate(self.spec) if self._folder is None else self._folder
        scheduler = self._family.read_index(folder).components.get("scheduler", ("", ""))
        package = _PACKAGES.get(scheduler[1])
        if package is not None and find_spec(package) is None:
            raise SoundError(f"{self.spec.id or self.spec.repo} needs a package: pip install {package}.")
        named = self.spec.id or self.spec.repo.rpartition("/")[2]
        timed, portable = (digest(folder, self.spec.pipeline_class, is_timed=timed) for timed in (True, False))
        with warnings.catch_warnings():
            # diffusers' classes use what torch will drop
            warnings.simplefilter("ignore", FutureWarning)
            pipe = self._read(folder)
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._name = f"{self.spec.id or self.spec.repo} {timed} {self._settings}"
        self.portable_name = f"{named} {portable} {self._settings}"

    def _read(self, folder: Path) -> Any:
        # the weights of whoever made the folder are data, never code
        safe = {"local_files_only": True, "use_safetensors": True}
        # 16 bits of an autoencoder are heard
        dtypes = {"vae": torch.float32, "default": self._dtype}
        own = {
            part.name: resolve_name(part.model_class).from_pretrained(
                folder / part.name, torch_dtype=dtypes.get(part.name, self._dtype), **safe
            )
            for part in self._family.parts
            if part.model_class.startswith("pipelines.")
        }
        made = getattr(diffusers, self._family.pipeline_class)
        return made.from_pretrained(folder, torch_dtype=dtypes, **own, **safe)

    @property
    def _settings(self) -> str:
        """What decides the bytes besides the weights."""
        spec = self.spec
        facts = (spec.num_inference_steps, spec.guidance_scale, spec.negative_prompt, spec.max_seconds, levelling.FACTS)
        return f"{self._dtype} {hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def _made(self, prompt: str, seconds: float, seed: int, noting: Callable[[int], None]) -> tuple[Samples, int]:
        pipe = self._pipe
        if self._device.type != "cpu":
            pipe.to(self._device)
            noting(0)
        rate = self._family.rate(pipe)
        generator = torch.Generator("cpu").manual_seed(seed)
        arguments = self._family.arguments(self.spec, pipe, seconds) | self._family.callback(noting)
        # some ways of cuDNN to compute a transposed convolution add in any order
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            latents = pipe(prompt, generator=generator, output_type="latent", **arguments).audios
            with torch.no_grad():
                sound = self._family.decode(pipe, latents)[0]
        wanted = round(seconds * rate)
        samples = sound.float().cpu().numpy().reshape(-1, sound.shape[-1])[:, :wanted]
        if samples.shape[1] < wanted:
            samples = np.pad(samples, ((0, 0), (0, wanted - samples.shape[1])))
        return levelling.levelled(np.ascontiguousarray(samples, np.float32)), rate

    def _leave_device(self) -> None:
        if self._pipe is None or self._device.type == "cpu":
            return
        try:
            self._pipe.to("cpu")
            torch.cuda.empty_cache()
        except RuntimeError:
            # the sound is made, or the reason why it is not is known already
            log.exception("the model for sounds could not leave %s", self._device)
            self._pipe = None

    def close(self) -> None:
        """Free the weights."""
        self._pipe = None


def _reason(error: Exception) -> str:
    """A sentence of one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "The device has not enough memory left for the model that makes sounds."
    said = " ".join(str(error).split())
    sentence = (
        said if isinstance(error, PipelineError) else f"The sound could not be made: {type(error).__name__}: {said}"
    )
    return sentence if len(sentence) <= _REASON_CHARS else f"{sentence[:_REASON_CHARS]}…"

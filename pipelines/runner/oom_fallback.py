"""A model on one device that is laid out leaner each time it runs out of memory, until the video is made or cannot be.

It is used as a `Runner` is, and its fingerprint tells which plan it stands on. A step down is kept for as long as the
ladder lives, and remembered for the card beyond that: what did not fit once is not tried again with every generation.
"""

import logging
from pathlib import Path

import torch
from torch._dynamo.exc import TorchDynamoException

from pipelines.core.errors import DeviceMemoryError
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.progress import LoadCallback
from pipelines.core.request import VideoParams
from pipelines.loading.device_plan import plan_here, shape_here, this_machine
from pipelines.loading.load import CACHE
from pipelines.planning.layout import Machine
from pipelines.planning.learned_limits import LearnedLimits
from pipelines.planning.planner import NEXT_PEAK_SHARE, evaluate, next_plan, plan
from pipelines.planning.shapes import ModelShape
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.result import RenderedVideo
from pipelines.runner.runner import Runner
from pipelines.stages.denoising import release_memory

log = logging.getLogger("paddock.fallback")

# what to recommend when a video does not fit: (width, height, frames), the most demanding first
_COMMON = ((1280, 720, 81), (1280, 720, 41), (832, 480, 81), (832, 480, 41), (480, 272, 81), (480, 272, 33))


class OutOfMemoryFallback:
    """A model's weights in `folder`, run on `device` (a torch device name) by ever leaner plans."""

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        device: str,
        on_load: LoadCallback = lambda *_: None,
        cache: Path = CACHE,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._device = device
        self._on_load = on_load
        self._cache = cache
        self._limits = LearnedLimits(cache / "limits.json")
        self._card = _card(device)
        self._plan = plan_here(spec, folder, device, self._limits.get(self._card))
        self._runner: Runner | None = None

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        folder: Path,
        device: str,
        on_load: LoadCallback = lambda *_: None,
        cache: Path = CACHE,
    ) -> "OutOfMemoryFallback":
        """Load by the first plan that does not run out of memory; raises PipelineError."""
        fallback = cls(spec, folder, device, on_load, cache)
        fallback._loaded()
        return fallback

    @property
    def fingerprint(self) -> dict[str, str]:
        """Everything besides the request that decides a video's bytes, as it is laid out now."""
        return self._loaded().fingerprint

    def render(self, params: VideoParams, path: Path, hooks: Callbacks = NO_CALLBACKS) -> RenderedVideo:
        """Make one video as `Runner.render` does; raises DeviceMemoryError when no plan has room for it as well.

        What one video had no room for does not bind the next: after that it stands on the plan it stood on before.
        """
        before = self._plan
        try:
            return self._render(params, path, hooks)
        except DeviceMemoryError:
            self.close()
            self._plan = before
            raise

    def _render(self, params: VideoParams, path: Path, hooks: Callbacks) -> RenderedVideo:
        while True:
            runner = self._loaded()
            try:
                return runner.render(params, path, hooks)
            except torch.OutOfMemoryError as error:
                log.warning("out of memory with %s: %s", self._layout, str(error).partition("\n")[0])
            except TorchDynamoException as error:
                # of a size that the compiler had not seen before, say
                runner.do_without_compiling(error)
                continue
            # only here has the exception, and with it every tensor that its frames held, been let go
            self._step_down((params.width, params.height, params.num_frames))

    def adopt_compiled(self) -> None:
        """Take up what was made in the background for videos to come: for when the device has nothing to do."""
        if self._runner is not None:
            self._runner.adopt_compiled()

    def release(self) -> None:
        """Give back what a generation that was cut short still holds, once its exception has been let go."""
        if self._runner is not None:
            self._runner.release()

    def close(self) -> None:
        """Let go of the weights, and of the memory they took."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    @property
    def _layout(self) -> str:
        return "all of it resident" if self._plan is None else self._plan.name

    def _loaded(self) -> Runner:
        while self._runner is None:
            try:
                self._runner = Runner.load(
                    self._spec,
                    self._folder,
                    self._device,
                    self._on_load,
                    None if self._plan is None else self._plan.layout,
                    self._cache,
                )
            except torch.OutOfMemoryError as error:
                log.warning("out of memory loading %s: %s", self._layout, str(error).partition("\n")[0])
            if self._runner is None:
                self._step_down(self._spec.sizes[-1])
        return self._runner

    def _step_down(self, size: tuple[int, int, int]) -> None:
        """Take the next plan down; raises DeviceMemoryError when there is none."""
        self.close()
        release_memory()
        if self._plan is None:
            raise DeviceMemoryError("The device ran out of memory. A smaller size or fewer frames may fit.")
        shape = shape_here(self._folder, self._spec.files, self._spec.guidance)
        machine = this_machine(self._device, self._limits.get(self._card), self._spec.precision)
        geometry = Geometry.fit(*size, shape.grid)
        lower = next_plan(shape, geometry, machine, self._plan)
        if lower is None:
            raise DeviceMemoryError(
                f"The device ran out of memory, laid out as leanly as can be. {_recommend(shape, machine, size)}"
            )
        log.warning("trying %s", lower.name)
        failed = evaluate(shape, geometry, machine, self._plan.layout).device_peak
        if NEXT_PEAK_SHARE * machine.device_memory <= failed <= machine.device_memory:
            # with room to spare it was something else on the card, and without any the plan had not promised to fit
            self._limits.learn(self._card, lower.device_peak)
        self._plan = lower


def _card(device: str) -> str:
    if torch.device(device).type != "cuda":
        return device
    known = torch.cuda.get_device_properties(device)
    return f"{known.name}, {known.total_memory} bytes"


def _recommend(shape: ModelShape, machine: Machine, size: tuple[int, int, int]) -> str:
    """A sentence that names what would fit."""
    asked = shape.tokens(Geometry.fit(*size, shape.grid))
    for width, height, frames in _COMMON:
        geometry = Geometry.fit(width, height, frames, shape.grid)
        if shape.tokens(geometry) < asked and plan(shape, geometry, machine).fits(machine):
            return f"{width}x{height} with {frames} frames should fit."
    return "A much smaller size or fewer frames may fit."

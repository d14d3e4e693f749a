"""A model on one device that falls back to a plan with less memory each time the device runs out of memory.

It has the methods of a `Runner`, and its fingerprint names the plan in use. A fallback lasts as long as the object. For
the GPU it is also remembered beyond that (`LearnedLimits`), so that the failed plan is not tried again after a restart.
"""

import logging
from pathlib import Path

import torch
from PIL import Image
from torch._dynamo.exc import TorchDynamoException

from pipelines.core.errors import DeviceMemoryError, MachineBusyError
from pipelines.core.geometry import Geometry
from pipelines.core.home import expanded
from pipelines.core.model import ModelSpec
from pipelines.core.progress import LoadCallback
from pipelines.core.request import VideoParams
from pipelines.loading.device_plan import (
    check_others,
    current_machine,
    device_memory,
    is_held,
    is_out_of_memory,
    plan_for_device,
    read_model_shape,
)
from pipelines.loading.load import CACHE
from pipelines.planning.layout import Machine
from pipelines.planning.learned_limits import LearnedLimits
from pipelines.planning.planner import NEXT_PEAK_SHARE, evaluate, next_plan, plan
from pipelines.planning.shapes import ModelShape
from pipelines.runner.callbacks import NO_CALLBACKS, Callbacks
from pipelines.runner.generation_stages import Inputs
from pipelines.runner.result import RenderedVideo
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.images import Images
from pipelines.stages.denoising import release_memory

log = logging.getLogger("paddock.fallback")

# videos to recommend when one does not fit: (width, height, frames), the most demanding first
_COMMON = ((1280, 720, 81), (1280, 720, 41), (832, 480, 81), (832, 480, 41), (480, 272, 81), (480, 272, 33))


class OutOfMemoryFallback:
    """A model's weights in `folder` on `device` (a torch device name), by a plan that a smaller one can replace."""

    def __init__(
        self,
        spec: ModelSpec,
        folder: Path,
        device: str,
        on_load: LoadCallback = lambda *_: None,
        cache: Path = CACHE,
        loras_dir: Path | None = None,
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._device = device
        self._on_load = on_load
        self._cache = cache = expanded(cache, "cache")
        self._loras_dir = loras_dir
        self._limits = LearnedLimits(cache / "limits.json")
        self._gpu = _gpu_key(device)
        self._plan = plan_for_device(spec, folder, device, self._limits.get(self._gpu))
        self._runner: Runner | None = None

    @classmethod
    def load(
        cls,
        spec: ModelSpec,
        folder: Path,
        device: str,
        on_load: LoadCallback = lambda *_: None,
        cache: Path = CACHE,
        loras_dir: Path | None = None,
    ) -> "OutOfMemoryFallback":
        """Load with the first plan that does not run out of memory.

        Raises PipelineError, of which MachineBusyError says that the same may succeed later.
        """
        fallback = cls(spec, folder, device, on_load, cache, loras_dir)
        fallback._loaded()
        return fallback

    @property
    def fingerprint(self) -> dict[str, str]:
        """Everything besides the request that decides a video's bytes, with the current plan."""
        return self._loaded().fingerprint

    @property
    def video_fingerprint(self) -> dict[str, str]:
        """The same for the last video, including its own LoRAs."""
        return self._loaded().video_fingerprint

    def render(
        self,
        params: VideoParams,
        path: Path,
        callbacks: Callbacks = NO_CALLBACKS,
        image: Image.Image | None = None,
        last_image: Image.Image | None = None,
        *,
        video: Path | None = None,
        extends: Path | None = None,
        audio: Path | None = None,
    ) -> RenderedVideo:
        """Make one video as `Runner.render` does. Raises DeviceMemoryError as well, when no plan has enough memory.

        It is MachineBusyError if other programs have taken so much meanwhile that not even the smallest video is left.
        After either error the plan is the one from before: a video that is too large must not slow down the next one.
        """
        before = self._plan
        try:
            return self._render(params, path, callbacks, Inputs(Images(image, last_image), video, extends, audio))
        except (DeviceMemoryError, MachineBusyError):
            self.close()
            self._plan = before
            raise

    def _render(self, params: VideoParams, path: Path, callbacks: Callbacks, inputs: Inputs) -> RenderedVideo:
        images = inputs.images
        while True:
            runner = self._loaded()
            try:
                return runner.render(
                    *(params, path, callbacks, images.first, images.last),
                    video=inputs.video,
                    extends=inputs.extends,
                    audio=inputs.audio,
                )
            except TorchDynamoException as error:
                # for example, with a size that is new to the compiler
                runner.disable_compilation(error)
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("out of memory with %s: %s", self._plan_name, str(error).partition("\n")[0])
            # after the except block, because the exception's frames keep the tensors alive
            self._fall_back((params.width, params.height, params.num_frames))

    def adopt_compiled(self) -> None:
        """Use compiled blocks from now on if the background compiler has finished. Call it while the device is idle."""
        if self._runner is not None:
            self._runner.adopt_compiled()

    @property
    def compile_error(self) -> str | None:
        """Why the blocks run uncompiled although they should be compiled; None while the compiler is at work."""
        return None if self._runner is None else self._runner.compile_error

    def release(self) -> None:
        """Free what an interrupted generation still holds. Call it after its exception has been dropped."""
        if self._runner is not None:
            self._runner.release()

    def close(self) -> None:
        """Free the weights and their memory."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    @property
    def _plan_name(self) -> str:
        return "all parts resident" if self._plan is None else self._plan.name

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
                    self._loras_dir,
                )
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                log.warning("out of memory while loading %s: %s", self._plan_name, str(error).partition("\n")[0])
            if self._runner is None:
                self._fall_back(self._spec.sizes[-1])
        return self._runner

    def _fall_back(self, size: tuple[int, int, int]) -> None:
        """Select the next smaller plan for a video (width, height, frames).

        Without one it raises DeviceMemoryError, or MachineBusyError if other programs are the cause.
        """
        self.close()
        release_memory()
        if self._plan is None:
            raise DeviceMemoryError("The device ran out of memory. A smaller size or fewer frames may fit.")
        shape = read_model_shape(self._spec, self._folder)
        machine = current_machine(self._device, self._limits.get(self._gpu), self._spec.precision, self._spec.accuracy)
        geometry = Geometry.fit(*size, shape.grid)
        lower = next_plan(shape, geometry, machine, self._plan)
        if lower is None:
            check_others(shape, self._spec, self._device, self._limits.get(self._gpu))
            raise DeviceMemoryError(
                f"The device ran out of memory, even with the plan that needs least. {_recommend(shape, machine, size)}"
            )
        log.warning("trying %s", lower.name)
        failed = evaluate(shape, geometry, machine, self._plan.layout).device_peak
        if NEXT_PEAK_SHARE * machine.device_memory <= failed <= machine.device_memory and not is_held(self._device):
            # far below the limit another process was the cause, and above it the plan had not been expected to fit;
            # a GPU that others hold has more memory at other times
            self._limits.learn(self._gpu, lower.device_peak)
        self._plan = lower


def _gpu_key(device: str) -> str:
    if torch.device(device).type != "cuda":
        return device
    # first: it says so if the device is in use
    device_memory(device)
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, {properties.total_memory} bytes"


def _recommend(shape: ModelShape, machine: Machine, size: tuple[int, int, int]) -> str:
    """Return a sentence with a smaller video that fits."""
    tokens = shape.tokens(Geometry.fit(*size, shape.grid))
    for width, height, frames in _COMMON:
        geometry = Geometry.fit(width, height, frames, shape.grid)
        if shape.tokens(geometry) < tokens and plan(shape, geometry, machine).fits(machine):
            return f"{width}x{height} with {frames} frames should fit."
    return "A much smaller size or fewer frames may fit."

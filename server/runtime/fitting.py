"""Whether a video fits the memory of this machine's GPUs, by the same arithmetic as `paddock plan`."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psutil

from pipelines.core.errors import PipelineError
from pipelines.core.geometry import Geometry
from pipelines.core.request import VideoParams
from pipelines.hub import local as weights
from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, HOST_SHARE, Machine
from pipelines.planning.planner import fits, plan
from pipelines.planning.shapes import ModelShape
from server.runtime.probe import ProbeError, cuda_devices
from server.service.requests.estimate import Fit

log = logging.getLogger("paddock.fitting")

OTHERS_BYTES = GIB // 2
"""GPU memory that a desktop and other programs use."""

_SIZES = ((1280, 720), (960, 544), (832, 480), (640, 368), (416, 240), (208, 120))
_KEPT = 256
"""So many answers are kept: each takes some 100 ms of arithmetic."""

_Video = tuple[int, int, int]


class MemoryFit:
    """Knows the GPUs of this machine whose torch names are `devices`; `probe` finds them.

    Nothing is known of CPUs, and of models whose weights are a file that states no shape.
    """

    def __init__(self, devices: Sequence[str], probe: Callable[[], list[dict[str, Any]]] = cuda_devices) -> None:
        self._devices = devices
        self._probe = probe
        self._machine: Machine | None = None
        self._has_looked = False
        self._turn = asyncio.Lock()
        self._answers: OrderedDict[tuple[str, _Video], Fit] = OrderedDict()

    async def of(self, entry: CatalogueEntry, params: VideoParams) -> Fit | None:
        """Whether a video fits the GPU with the most memory; None if that is not known."""
        if not any(name.startswith("cuda") for name in self._devices):
            return None
        video = params.width, params.height, params.num_frames
        # one at a time: many who type must not take all threads
        async with self._turn:
            if (known := self._answers.get((entry.id, video))) is not None:
                return known
            found = await asyncio.to_thread(self._judge, entry, video)
            if found is not None:
                self._answers[entry.id, video] = found
                while len(self._answers) > _KEPT:
                    self._answers.popitem(last=False)
            return found

    def _judge(self, entry: CatalogueEntry, video: _Video) -> Fit | None:
        on, shape = self._largest(), _shape_of(entry)
        if on is None or shape is None:
            return None
        on = replace(on, precision=entry.model.precision, accuracy=entry.model.accuracy)
        chosen = plan(shape, Geometry.fit(*video, shape.grid), on)
        if chosen.fits(on):
            return Fit(fits=True)
        return Fit(fits=False, reason=chosen.shortfall(on), suggestion=_smaller(shape, entry, video, on))

    def _largest(self) -> Machine | None:
        """The GPU with the most memory, with the host's; looked for once."""
        if not self._has_looked:
            self._has_looked = True
            try:
                found = [gpu for gpu in self._probe() if gpu["name"] in self._devices]
            except ProbeError as error:
                log.warning("whether videos fit is not estimated: %s", error)
                return None
            if found:
                gpu = max(found, key=lambda each: int(each["memory"]))
                host = round(psutil.virtual_memory().total * HOST_SHARE)
                major, minor = gpu["capability"]
                self._machine = Machine(max(0, gpu["memory"] - OTHERS_BYTES), host, (major, minor))
        return self._machine


def _shape_of(entry: CatalogueEntry) -> ModelShape | None:
    """The shape that a model's file states, else that of its weights; None if they are not here or a single file."""
    spec = entry.model
    if spec.files:
        return None
    try:
        family = family_of(spec.pipeline_class)
        return family.read_shape(weights.locate(spec)) if spec.shape is None else family.shape(spec.shape)
    except PipelineError:
        return None


def _smaller(shape: ModelShape, entry: CatalogueEntry, video: _Video, on: Machine) -> tuple[int, int] | None:
    """The largest smaller size of the same orientation that the model takes and that fits with as many frames."""
    width, height, frames = video
    most_width, most_height, _ = entry.api.size("maximum")
    for long, short in _SIZES:
        size = (long, short) if width >= height else (short, long)
        is_taken = size[0] <= most_width and size[1] <= most_height
        if is_taken and long * short < width * height and fits(shape, Geometry.fit(*size, frames, shape.grid), on):
            return size
    return None

"""What would fit where a plan does not: a smaller or shorter video, another precision, more memory."""

from collections.abc import Iterator
from dataclasses import replace

from pipelines.core.geometry import Geometry
from pipelines.core.precision import PrecisionSetting
from pipelines.models.catalogue import CatalogueEntry
from pipelines.planning.layout import GIB, HOST_SHARE, Machine
from pipelines.planning.planner import fits
from pipelines.planning.shapes import ModelShape
from server.cli.plan import shape_of, sides_of
from server.runtime.fitting import OTHERS_BYTES

_SIZES = ((832, 480), (624, 352), (416, 240), (208, 120))
_FRAMES = (65, 49, 33, 17, 5)
_GPUS = (8, 12, 16, 24, 32, 48, 80)
_HOSTS = (16, 24, 32, 48, 64, 96, 128)

Video = tuple[int, int, int]


def for_plan(entry: CatalogueEntry, size: str, frames: int, on: Machine) -> list[str]:
    """What would fit of a model's video of `size` (WIDTHxHEIGHT), as `would_fit` says it. Raises PlanRefusedError."""
    on = replace(on, precision=entry.model.precision, accuracy=entry.model.accuracy)
    return would_fit(shape_of(entry), (*sides_of(size), frames), on)


def would_fit(shape: ModelShape, video: Video, on: Machine) -> list[str]:
    """Sentences, each with one change that makes a video (width, height, frames) fit, or two together if none does."""
    found = list(_single_changes(shape, video, on))
    return found or list(_two_changes(shape, video, on)) or ["No size of video fits with any common amount of memory."]


def _single_changes(shape: ModelShape, video: Video, on: Machine) -> Iterator[str]:
    if (smaller := _smaller(shape, video, on)) is not None:
        yield f"{smaller[0]}x{smaller[1]} would fit: give --size {smaller[0]}x{smaller[1]}."
    width, height, frames = video
    shorter = next((each for each in _FRAMES if each < frames and _fits(shape, (width, height, each), on)), None)
    if shorter is not None:
        yield f"{shorter} frames would fit: give --frames {shorter}."
    if on.precision is not PrecisionSetting.AUTO and _fits(shape, video, replace(on, precision=PrecisionSetting.AUTO)):
        yield "Another precision would fit: give --precision auto."
    if (host := next((gb for gb in _HOSTS if _fits(shape, video, _with_host(on, gb))), None)) is not None:
        yield f"It would fit with {host} GB of host memory."
    if (gpu := next((gb for gb in _GPUS if _fits(shape, video, _with_gpu(on, gb))), None)) is not None:
        yield f"It would fit on a GPU with {gpu} GB."


def _two_changes(shape: ModelShape, video: Video, on: Machine) -> Iterator[str]:
    for host in _HOSTS:
        if (smaller := _smaller(shape, video, _with_host(on, host))) is not None:
            yield f"{smaller[0]}x{smaller[1]} would fit with {host} GB of host memory."
            break
    for gpu, host in ((gpu, host) for gpu in _GPUS for host in _HOSTS):
        if _fits(shape, video, _with_host(_with_gpu(on, gpu), host)):
            yield f"It would fit on a GPU with {gpu} GB and {host} GB of host memory."
            break


def _smaller(shape: ModelShape, video: Video, on: Machine) -> tuple[int, int] | None:
    """The largest smaller size that fits with as many frames."""
    width, height, frames = video
    smaller = (size for size in _SIZES if size[0] * size[1] < width * height)
    return next((size for size in smaller if _fits(shape, (*size, frames), on)), None)


def _fits(shape: ModelShape, video: Video, on: Machine) -> bool:
    return fits(shape, Geometry.fit(*video, shape.grid), on)


def _with_host(on: Machine, gb: int) -> Machine:
    return replace(on, host_memory=max(on.host_memory, round(gb * GIB * HOST_SHARE)))


def _with_gpu(on: Machine, gb: int) -> Machine:
    return replace(on, device_memory=max(on.device_memory, gb * GIB - OTHERS_BYTES))

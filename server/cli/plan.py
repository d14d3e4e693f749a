"""`paddock plan`: a memory plan for this machine or another, as JSON, as a table or for people."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import psutil
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from pipelines.core.errors import PipelineError
from pipelines.core.geometry import Geometry
from pipelines.hub import local as weights
from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.registry import family_of
from pipelines.planning.explain import choices
from pipelines.planning.layout import GIB, HOST_SHARE, Machine
from pipelines.planning.planner import plan
from pipelines.planning.shapes import FileShape, ModelShape
from server.runtime.probe import ProbeError, cuda_devices, weight_files

OTHERS_BYTES = GIB // 2
"""GPU memory that a desktop and other programs use, where the GPU's size is given as an option."""

DEFAULT_CAPABILITY = (8, 9)
"""The compute capability of a GPU whose size is given as an option."""

_FILES: TypeAdapter[tuple[FileShape, ...]] = TypeAdapter(tuple[FileShape, ...])
_SIZES = ("832x480", "1280x720")
_GPUS = (8, 12, 16, 24, 32, 48, 80)
_HOSTS = (16, 32, 64)

Json = dict[str, Any]


_MAX_GB = 1_000_000


class PlanRefusedError(Exception):
    """The options cannot be planned for; `str()` is a sentence."""


def machine(vram: float | None, ram: float | None, capability: str | None) -> Machine:
    """A machine with GPU and host memory in GB; None stands for this machine's. Raises PlanRefusedError."""
    if capability is not None and not re.fullmatch(r"\d{1,2}\.\d", capability):
        raise PlanRefusedError("capability must be two numbers with a dot between them, such as 8.9")
    for name, stated in (("vram", vram), ("ram", ram)):
        if stated is not None and not 0 < stated <= _MAX_GB:
            raise PlanRefusedError(f"{name} must be a number of GB above 0 and at most {_MAX_GB}")
    stated_capability = tuple(map(int, capability.split("."))) if capability else None
    if vram is None:
        gpu = _first_gpu()
        vram, found = gpu["memory"] / GIB, tuple(gpu["capability"])
        stated_capability = stated_capability or found
    major, minor = stated_capability or DEFAULT_CAPABILITY
    total = psutil.virtual_memory().total if ram is None else ram * GIB
    return Machine(max(0, round(vram * GIB) - OTHERS_BYTES), round(total * HOST_SHARE), (major, minor))


def _first_gpu() -> Json:
    try:
        found = cuda_devices()
    except ProbeError as error:
        raise PlanRefusedError(str(error)) from error
    if not found:
        raise PlanRefusedError("This machine has no CUDA device: give the GPU memory to plan for with --vram.")
    return found[0]


def for_model(entry: CatalogueEntry, size: str, frames: int, on: Machine, shape: ModelShape | None = None) -> Json:
    """The plan for a model's videos up to `size` (WIDTHxHEIGHT) and `frames`, as one JSON object.

    `shape` is the model's, read from its weights if None. Raises PlanRefusedError.
    """
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if sides is None or "0" in sides.groups() or frames < 1:
        raise PlanRefusedError("size must be WIDTHxHEIGHT, such as 832x480, and frames a number from 1")
    shape = shape or _shape(entry)
    on = replace(on, precision=entry.model.precision, accuracy=entry.model.accuracy)
    chosen = plan(shape, Geometry.fit(int(sides[1]), int(sides[2]), frames, shape.grid), on)
    return {
        "model": entry.id,
        "name": chosen.name,
        "size": size,
        "frames": frames,
        "fits": chosen.fits(on),
        "shortfall": chosen.shortfall(on) or None,
        "device_peak_gib": round(chosen.device_peak / GIB, 2),
        "host_peak_gib": round(chosen.host_peak / GIB, 2),
        "relative_seconds_per_step": round(chosen.relative_seconds_per_step, 3),
        "stages_gib": {stage: round(peak / GIB, 2) for stage, peak in chosen.stage_peaks.items()},
        "choices": {
            part: {"choice": made.choice, "reason": made.reason} for part, made in choices(chosen, shape, on).items()
        },
    }


def find(models: Mapping[str, CatalogueEntry], model: str) -> CatalogueEntry:
    """A model of the catalogue by its id. Raises PlanRefusedError."""
    entry = models.get(model)
    if entry is None:
        raise PlanRefusedError(f"Model not found: {model}")
    return entry


def table(entry: CatalogueEntry, frames: int, capability: str | None) -> str:
    """The plans of a model for common GPUs and hosts, as a Markdown table."""
    columns = ("video", "GPU", "host", "plan", "GPU memory", "host memory", "step")
    rows = [columns, ("---",) * len(columns)]
    shape = _shape(entry)
    for size, gpu, host in product(_SIZES, _GPUS, _HOSTS):
        chosen = for_model(entry, size, frames, machine(gpu, host, capability or _text(DEFAULT_CAPABILITY)), shape)
        options = (size, f"{gpu} GB", f"{host} GB")
        if chosen["fits"]:
            needs = (f"{chosen['device_peak_gib']:.1f} GiB", f"{chosen['host_peak_gib']:.1f} GiB")
            rows.append((*options, chosen["name"], *needs, f"{chosen['relative_seconds_per_step']:.2f}"))
        else:
            rows.append((*options, f"does not fit. {chosen['shortfall']}", "", "", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _shape(entry: CatalogueEntry) -> ModelShape:
    """The shape that the model's file states, else that of its weights; a single file always states its own."""
    spec = entry.model
    try:
        family = family_of(spec.pipeline_class)
        shape = family.read_shape(weights.locate(spec)) if spec.shape is None else family.shape(spec.shape)
        paths = weights.locate_files(spec.files, entry.id)
        if not paths:
            return shape
        loras = [
            (lora.part, weights.locate_file(lora.repo, lora.file, lora.revision))
            for lora in spec.loras
            if lora.part in paths
        ]
        return shape.with_files(_FILES.validate_python(weight_files(spec.pipeline_class, paths, loras)))
    except (PipelineError, ProbeError) as error:
        raise PlanRefusedError(str(error)) from error


def describe(chosen: Json, console: Console) -> None:
    """Print a plan for people."""
    table = Table("part", "choice", "reason", title=f"{chosen['model']}, {chosen['size']}, {chosen['frames']} frames")
    for part, made in chosen["choices"].items():
        table.add_row(part, made["choice"], made["reason"])
    console.print(table)
    peaks = ", ".join(f"{stage} {peak} GiB" for stage, peak in chosen["stages_gib"].items())
    console.print(f"GPU memory: {peaks}. Host memory: {chosen['host_peak_gib']} GiB.")
    console.print(
        f"A step takes {chosen['relative_seconds_per_step']} times as long as with all weights resident in bf16."
    )
    console.print(chosen["shortfall"] or "It fits.")

"""What `paddock plan` prints: a memory plan for a machine that may be another than this one."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from typing import Any

import psutil
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from pipelines.core.catalogue import CatalogueEntry
from pipelines.core.errors import PipelineError
from pipelines.core.geometry import Geometry
from pipelines.hub import local as weights
from pipelines.planning.explain import choices
from pipelines.planning.layout import GIB, HOST_SHARE, Machine
from pipelines.planning.planner import plan
from pipelines.planning.shapes import FileShape, ModelShape, parse_shape, read_shape
from server.runtime.probe import ProbeError, cuda_devices, weight_files

OTHERS_BYTES = GIB // 2
"""What a desktop and other programs are granted of a card of a stated size."""

DEFAULT_CAPABILITY = (8, 9)

_FILES: TypeAdapter[tuple[FileShape, ...]] = TypeAdapter(tuple[FileShape, ...])
_SIZES = ("832x480", "1280x720")
_CARDS = (8, 12, 16, 24, 32, 48, 80)
_HOSTS = (16, 32, 64)

Json = dict[str, Any]


class PlanRefusedError(Exception):
    """What was asked cannot be planned; `str()` is the sentence."""


def machine(vram: float | None, ram: float | None, capability: str | None) -> Machine:
    """The machine described, in GB; what is not stated is this machine's."""
    if capability is not None and not re.fullmatch(r"\d{1,2}\.\d", capability):
        raise PlanRefusedError("capability must be two numbers with a dot between them, such as 8.9")
    for name, stated in (("vram", vram), ("ram", ram)):
        if stated is not None and stated <= 0:
            raise PlanRefusedError(f"{name} must be a number of GB above 0")
    stated_capability = tuple(map(int, capability.split("."))) if capability else None
    if vram is None:
        card = _first_card()
        vram, found = card["memory"] / GIB, tuple(card["capability"])
        stated_capability = stated_capability or found
    major, minor = stated_capability or DEFAULT_CAPABILITY
    total = psutil.virtual_memory().total if ram is None else ram * GIB
    return Machine(max(0, round(vram * GIB) - OTHERS_BYTES), round(total * HOST_SHARE), (major, minor))


def _first_card() -> Json:
    try:
        found = cuda_devices()
    except ProbeError as error:
        raise PlanRefusedError(str(error)) from error
    if not found:
        raise PlanRefusedError("This machine has no CUDA device: say which card to plan for, with --vram.")
    return found[0]


def for_model(entry: CatalogueEntry, size: str, frames: int, on: Machine, shape: ModelShape | None = None) -> Json:
    """The plan for a model's videos up to `size` (WIDTHxHEIGHT) and `frames`, as one JSON object.

    `shape` is the model's if it is known; else it is found out.
    """
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if sides is None or "0" in sides.groups() or frames < 1:
        raise PlanRefusedError("size must be WIDTHxHEIGHT, such as 832x480, and frames a number from 1")
    shape = shape or _shape(entry)
    on = replace(on, precision=entry.model.precision)
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
    """A model of the catalogue by its id."""
    entry = models.get(model)
    if entry is None:
        raise PlanRefusedError(f"Model not found: {model}")
    return entry


def table(entry: CatalogueEntry, frames: int, capability: str | None) -> str:
    """The plans of a model for cards and hosts as they are sold, in Markdown."""
    columns = ("video", "card", "host", "plan", "on the card", "in host memory", "a step")
    rows = [columns, ("---",) * len(columns)]
    shape = _shape(entry)
    for size, card, host in product(_SIZES, _CARDS, _HOSTS):
        chosen = for_model(entry, size, frames, machine(card, host, capability or _text(DEFAULT_CAPABILITY)), shape)
        asked = (size, f"{card} GB", f"{host} GB")
        if chosen["fits"]:
            needs = (f"{chosen['device_peak_gib']:.1f} GiB", f"{chosen['host_peak_gib']:.1f} GiB")
            rows.append((*asked, chosen["name"], *needs, f"{chosen['relative_seconds_per_step']:.2f}"))
        else:
            rows.append((*asked, f"does not fit. {chosen['shortfall']}", "", "", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"


def _shape(entry: CatalogueEntry) -> ModelShape:
    """From the model's file if it states them, else from its weights; of single files, always from these."""
    stated = entry.model.shape
    try:
        shape = read_shape(weights.locate(entry.model)) if stated is None else parse_shape(stated)
        paths = weights.locate_files(entry.model.files, entry.id)
        return shape.with_files(_FILES.validate_python(weight_files(paths.values()))) if paths else shape
    except (PipelineError, ProbeError) as error:
        raise PlanRefusedError(str(error)) from error


def describe(chosen: Json, console: Console) -> None:
    """Print a plan for people."""
    table = Table("part", "choice", "why", title=f"{chosen['model']}, {chosen['size']}, {chosen['frames']} frames")
    for part, made in chosen["choices"].items():
        table.add_row(part, made["choice"], made["reason"])
    console.print(table)
    peaks = ", ".join(f"{stage} {peak} GiB" for stage, peak in chosen["stages_gib"].items())
    console.print(f"On the card: {peaks}. Host memory: {chosen['host_peak_gib']} GiB.")
    console.print(
        f"A step takes {chosen['relative_seconds_per_step']} of what it takes with all of it resident in bf16."
    )
    console.print(chosen["shortfall"] or "It fits.")

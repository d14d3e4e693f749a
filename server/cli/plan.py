"""`paddock plan`: a memory plan for this machine or another, as JSON, as a table or for people."""

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import product
from operator import le
from typing import Any

import psutil
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table

from pipelines.core.errors import PipelineError, UnknownCardError
from pipelines.core.geometry import Geometry
from pipelines.core.model import Compile
from pipelines.hub import local as weights
from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.registry import family_of
from pipelines.planning.cards import Card, find_card
from pipelines.planning.durations import estimate
from pipelines.planning.explain import choices
from pipelines.planning.layout import GIB, HOST_SHARE, Layout, Machine
from pipelines.planning.memory_model import converted_bytes
from pipelines.planning.planner import plan
from pipelines.planning.shapes import FileShape, ModelShape
from server.runtime.fitting import OTHERS_BYTES
from server.runtime.probe import ProbeError, cuda_devices, weight_files

DEFAULT_CAPABILITY = (8, 9)
"""The compute capability of a GPU whose size is given as an option."""

_FILES: TypeAdapter[tuple[FileShape, ...]] = TypeAdapter(tuple[FileShape, ...])
_SIZES = ("832x480", "1280x720")
_GPUS = (8, 12, 16, 24, 32, 48, 80)
_HOSTS = (16, 32, 64)

Json = dict[str, Any]


_MAX_GB = 1_000_000
_UNITS = {"": 1.0, "g": 1.0, "gb": 1.0, "gib": 1.0, "m": 2**-10, "mb": 2**-10, "mib": 2**-10, "t": 2**10, "tb": 2**10}
_NAMED_SIZES = {"480p": "832x480", "720p": "1280x720"}


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


def parse_gb(option: str, written: str) -> float:
    """Read an amount of memory such as 12, 12GB or 12 GiB, in GB of 2^30 bytes, as makers of cards and memory count.

    Raises PlanRefusedError.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", written.strip().lower())
    if found is None or found[2] not in _UNITS or not 0 < (size := float(found[1]) * _UNITS[found[2]]) <= _MAX_GB:
        raise PlanRefusedError(
            f"{option} must be a number of GB above 0 and at most {_MAX_GB}, such as 12, 12GB or 12GiB"
        )
    return size


def card_of(name: str | None, vram: float | None) -> Card | None:
    """The card of that name, else this machine's; None where only a size is given, or the machine's card is not known.

    Raises PlanRefusedError.
    """
    try:
        if name is not None:
            return find_card(name, vram)
        if vram is not None:
            return None
        gpu = _first_gpu()
    except UnknownCardError as error:
        raise PlanRefusedError(str(error)) from error
    try:
        return find_card(gpu["description"], gpu["memory"] / GIB)
    except UnknownCardError:
        return None


def in_range(entry: CatalogueEntry, size: str | None, frames: int, steps: int | None) -> tuple[str, int]:
    """The size as WIDTHxHEIGHT and the steps, the model's own where none is given.

    Raises PlanRefusedError for what the model does not accept.
    """
    width, height, most_frames = entry.api.size("maximum")
    sides = {name: int(entry.api.by_name[name].maximum or 0) for name in ("width", "height")}
    most_steps = entry.api.by_name["num_inference_steps"]
    size = f"{width}x{height}" if size is None else _NAMED_SIZES.get(size.lower(), size.lower().replace("×", "x"))
    steps = int(most_steps.default or 1) if steps is None else steps
    asked = sides_of(size)
    for name, value, most in (
        ("width", asked[0], sides["width"]),
        ("height", asked[1], sides["height"]),
        ("frames", frames, most_frames),
        ("steps", steps, int(most_steps.maximum or steps)),
    ):
        if not 1 <= value <= most:
            raise PlanRefusedError(f"{name} must be from 1 to {most} for {entry.id}, not {value}")
    if entry.api.max_pixels is not None and asked[0] * asked[1] > entry.api.max_pixels:
        raise PlanRefusedError(f"size must have at most {entry.api.max_pixels} pixels for {entry.id}, not {size}")
    return size, steps


def sides_of(size: str) -> tuple[int, int]:
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if sides is None or "0" in sides.groups():
        raise PlanRefusedError("size must be WIDTHxHEIGHT, such as 832x480, or 480p or 720p")
    return int(sides[1]), int(sides[2])


def _first_gpu() -> Json:
    try:
        found = cuda_devices()
    except ProbeError as error:
        raise PlanRefusedError(str(error)) from error
    if not found:
        raise PlanRefusedError(
            "This machine has no CUDA device: name the card to plan for, such as --card 'RTX 3060 12GB', or its memory "
            "with --vram."
        )
    return found[0]


def for_model(
    entry: CatalogueEntry,
    size: str,
    frames: int,
    on: Machine,
    shape: ModelShape | None = None,
    card: Card | None = None,
    steps: int = 1,
) -> Json:
    """The plan for a model's videos up to `size` (WIDTHxHEIGHT) and `frames`, as one JSON object.

    `shape` is the model's, read from its weights if None. With a `card` the time of a video with so many steps is
    estimated, and of the model's default video. Raises PlanRefusedError.
    """
    width, height = sides_of(size)
    shape = shape or shape_of(entry)
    on = replace(on, precision=entry.model.precision, accuracy=entry.model.accuracy)
    chosen = plan(shape, Geometry.fit(width, height, frames, shape.grid), on)
    default = entry.api.size("default")
    asked = (width, height, frames)
    videos = [asked, *([default] if default != asked and all(map(le, default, asked)) else [])]
    return {
        "model": entry.id,
        "name": chosen.name,
        "size": size,
        "frames": frames,
        "fits": chosen.fits(on),
        "shortfall": chosen.shortfall(on) or None,
        "device_peak_gib": round(chosen.device_peak / GIB, 2),
        "host_peak_gib": round(chosen.host_peak / GIB, 2),
        "converted_bytes": converted_bytes(shape, chosen.layout),
        "relative_seconds_per_step": round(chosen.relative_seconds_per_step, 3),
        "card": card and card.title,
        "estimates": [
            _estimate(shape, video, chosen.layout, card, steps, entry.model.compile)
            for video in videos
            if card is not None and chosen.fits(on)
        ],
        "stages_gib": {stage: round(peak / GIB, 2) for stage, peak in chosen.stage_peaks.items()},
        "choices": {
            part: {"choice": made.choice, "reason": made.reason} for part, made in choices(chosen, shape, on).items()
        },
    }


def _estimate(
    shape: ModelShape, video: tuple[int, int, int], layout: Layout, card: Card, steps: int, compiles: Compile
) -> Json:
    made = estimate(shape, Geometry.fit(*video, shape.grid), layout, card, steps, compiles=compiles is not Compile.OFF)
    return {
        "size": f"{video[0]}x{video[1]}",
        "frames": video[2],
        "steps": steps,
        "seconds": [round(limit, 1) for limit in made.video],
        "step_seconds": [round(limit, 2) for limit in made.step],
        "assumes": made.assumes,
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
    shape = shape_of(entry)
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


def shape_of(entry: CatalogueEntry) -> ModelShape:
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
    if chosen["converted_bytes"]:
        console.print(f"Disk: at most {chosen['converted_bytes'] / GIB:.1f} GiB for converted weights.")
    console.print(
        f"A step takes {chosen['relative_seconds_per_step']} times as long as with all weights resident in bf16."
    )
    console.print(chosen["shortfall"] or "It fits.", soft_wrap=True)
    for made in chosen["estimates"]:
        console.print(
            f"About {minutes(*made['seconds'])} for {made['size']}, {made['frames']} frames, {made['steps']} steps on "
            f"{_article(chosen['card'])} {chosen['card']}.",
            style="bold",
            highlight=False,
            soft_wrap=True,
        )
    for sentence in chosen["estimates"][-1]["assumes"] if chosen["estimates"] else ():
        console.print(f"  {sentence}", highlight=False, soft_wrap=True)
    if chosen["fits"] and not chosen["estimates"]:
        console.print("Minutes are estimated for a known card: name one with --card, such as 'RTX 3060 12GB'.")
    for sentence in chosen.get("would_fit", ()):
        console.print(sentence, highlight=False, soft_wrap=True)


def minutes(least: float, most: float) -> str:
    """A range of seconds in minutes, such as "45 to 75 min"; with a decimal where it is short."""
    digits = 1 if most < 10 * 60 else 0
    low, high = (f"{seconds / 60:.{digits}f}" for seconds in (least, most))
    return f"{low} min" if low == high else f"{low} to {high} min"


def _article(name: str) -> str:
    return "an" if name[0] in "AHLR" else "a"

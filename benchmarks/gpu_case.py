"""One case of `benchmarks.gpu`, in a process of its own: a fresh allocator, a cap of its own, and nothing left behind.

python -m benchmarks.gpu_case NAME --to FILE.json [--small]

The file is written anew after every stage and step, so that what was measured stays when the process is stopped.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.card import Card, Stage, Watch, open_card
from benchmarks.gpu import CASES, Case, allocator_settings
from benchmarks.random_weights import KINDS, PUBLISHED, SEED, SMALL, Scale, assemble, fill_part, write_configs
from pipelines.backends import Sequence, choose
from pipelines.decode import decode_frames
from pipelines.errors import NonFiniteOutputError
from pipelines.generate import denoise, release_memory
from pipelines.geometry import Geometry, Grid
from pipelines.memory import GIB, Layout, Machine, MemoryPlan, plan
from pipelines.passes import Passes
from pipelines.placement import place
from pipelines.prompts import PromptEncoder
from pipelines.spec import Attention, VideoParams, part_path

FLOW_SHIFT = {"480p": 3.0, "720p": 5.0}
GUIDANCE = 5.0
TEXT_TOKENS = 512
HOST_SHARE = 0.9
"""Share of a stated host's memory that a plan may use, as `paddock plan` has it."""

Embeddings = tuple[torch.Tensor, torch.Tensor]
"""Of a prompt and a negative prompt, (1, tokens, dim) each."""


class Meter:
    """A case's record as it grows: stage by stage the seconds and the peaks, and the seconds of each step."""

    def __init__(self, case: Case, scale: Scale, card: Card, watch: Watch, to: Path) -> None:
        self._card = card
        self._watch = watch
        self._to = to
        self._stage = ""
        self._began = self._last = 0.0
        self.record: dict[str, Any] = {
            "case": case.name,
            "scale": scale.name,
            "video": list(scale.videos[case.video]),
            "cap_bytes": case.cap,
            "date": time.strftime("%Y-%m-%d"),
            "allocator": allocator_settings(),
            **{package: version(package) for package in ("torch", "diffusers", "transformers")},
            **card.facts(),
            "stages": {},
            "step_seconds": [],
        }

    def note(self, **facts: Any) -> None:
        """Add to the record, and write it."""
        self.record.update(facts)
        part = part_path(self._to)
        part.write_text(json.dumps(self.record), encoding="utf-8")
        part.rename(self._to)

    def turn_to(self, stage: str) -> None:
        """End the stage under way, and begin another."""
        self.end()
        self._card.reset()
        self._watch.restart()
        self._stage = stage
        self._began = self._last = time.perf_counter()

    def end(self) -> None:
        """End the stage under way, if any."""
        if self._stage:
            self._card.synchronize()
            seconds = time.perf_counter() - self._began
            self._watch.look()
            self.record["stages"][self._stage] = Stage(seconds, self._card.use(), self._watch.card).json()
            self._stage = ""
            self.note(host_bytes=self._watch.host)

    def give_up(self, **reason: str) -> None:
        """Leave the stage under way without figures, as it was not gone through, and note why."""
        self.note(**reason, stopped_in=self._stage)
        self._stage = ""

    def step(self, _done: int = 0) -> None:
        """A step is done: note the seconds since the last, or since the stage began."""
        self._card.synchronize()
        steps = self.record["step_seconds"]
        steps.append(round(time.perf_counter() - self._last, 3))
        first, *timed = steps
        if timed:
            usual = statistics.median(timed)
            self.note(seconds_per_step=round(usual, 3), first_step_more_seconds=round(first - usual, 3))
        self._last = time.perf_counter()


def measure(case: Case, scale: Scale, to: Path) -> dict[str, Any]:
    """Go through one case and return its record, which is also in the file `to`.

    A plan that does not fit, memory that runs out and values that are not numbers are results, told in the record.
    """
    card = open_card(case.cap)
    with tempfile.TemporaryDirectory() as name, Watch(card.driver_used) as watch:
        folder = Path(name)
        meter = Meter(case, scale, card, watch, to)
        layout = None if case.plain else _laid_out(case, scale, card, meter, folder / "published")
        if case.plain or layout is not None:
            try:
                _run(case, scale, layout, card, meter, folder)
            except torch.OutOfMemoryError as error:
                meter.give_up(out_of_memory=str(error).partition("\n")[0])
        meter.note(finished=True)
    return meter.record


def _laid_out(case: Case, scale: Scale, card: Card, meter: Meter, configs: Path) -> Layout | None:
    """The layout of the plan for the case, noted; None, with what is missing noted, if it does not fit."""
    # whatever the scale, the plan is the published model's: what is tried in small is what will be done in earnest
    shape = write_configs(PUBLISHED, configs)
    machine = _stated(case, card.machine())
    chosen = plan(shape, Geometry.fit(*PUBLISHED.videos[case.video], shape.grid), machine)
    meter.note(plan=_described(chosen), machine=asdict(machine))
    if not chosen.fits(machine):
        meter.note(does_not_fit=chosen.shortfall(machine))
        return None
    layers = scale.transformer.get("num_layers", shape.transformer.num_layers)
    share = chosen.layout.resident_blocks / shape.transformer.num_layers
    return replace(chosen.layout, resident_blocks=min(layers - 1, ceil(share * layers)))


def _stated(case: Case, here: Machine) -> Machine:
    """This machine, as far as the case does not speak of a smaller one."""
    return Machine(
        here.device_memory if case.cap is None else min(case.cap, here.device_memory),
        here.host_memory if case.host is None else min(round(HOST_SHARE * case.host * GIB), here.host_memory),
        case.capability or here.capability,
        case.precision,
    )


def _described(chosen: MemoryPlan) -> dict[str, Any]:
    return {
        "name": chosen.name,
        **asdict(chosen.layout),
        "stage_peaks": chosen.stage_peaks,
        "device_peak": chosen.device_peak,
        "host_peak": chosen.host_peak,
        "relative_seconds_per_step": round(chosen.relative_seconds_per_step, 3),
    }


@torch.no_grad()
def _run(case: Case, scale: Scale, layout: Layout | None, card: Card, meter: Meter, folder: Path) -> None:
    """Load, encode two prompts, denoise and decode: by a layout, or as diffusers' documentation has it."""
    attention = Attention.NATIVE if layout is None else _attention(case, scale, card, meter, folder)
    meter.turn_to("loading")
    pipe = _load(case, scale, layout, card, meter, folder)
    meter.turn_to("encoding the prompt")
    prompts = PromptEncoder(pipe, card.device, TEXT_TOKENS)
    embeddings = prompts.encode("prompt"), prompts.encode("negative prompt")
    meter.turn_to("denoising")
    width, height, frames = scale.videos[case.video]
    params = VideoParams("", "", height, width, frames, case.steps, GUIDANCE, SEED)
    if layout is None:
        made = _plainly(pipe, embeddings, params, meter)
    else:
        passes = Passes(GUIDANCE, embeddings[1], batched=layout.batched)
        latents = _denoised(pipe, embeddings, params, passes, attention, FLOW_SHIFT[case.video], meter)
        meter.turn_to("decoding")
        made = _decoded(pipe, latents, layout, meter)
    meter.end()
    meter.note(frames=made)


def _attention(case: Case, scale: Scale, card: Card, meter: Meter, folder: Path) -> Attention:
    """The kernel for the case, noted, as a server chooses it."""
    shape = write_configs(scale, folder / "shape")
    tokens = shape.tokens(Geometry.fit(*scale.videos[case.video], shape.grid))
    over = Sequence(tokens, shape.transformer.num_attention_heads, shape.transformer.attention_head_dim)
    chosen = choose(Attention.AUTO, card.device, lambda: over, folder)
    meter.note(attention=chosen)
    return chosen


def _load(case: Case, scale: Scale, layout: Layout | None, card: Card, meter: Meter, folder: Path) -> Any:
    """The pipeline with its weights in their places; how long placing them took is noted: pinning is most of it."""
    torch.manual_seed(SEED)
    write_configs(scale, folder / "configs")
    parts, placing = {}, 0.0
    for part in KINDS:
        # diffusers' documentation has Wan's VAE in fp32
        dtype = torch.float32 if part == "vae" and layout is None else torch.bfloat16
        module = fill_part(part, folder / "configs", layout or Layout(), card.device, dtype, folder / "disk")
        began = time.perf_counter()
        place(part, module, layout or Layout(), card.device)
        placing += time.perf_counter() - began
        parts[part] = module
    release_memory()
    meter.note(placing_seconds=round(placing, 3))
    return assemble(parts, FLOW_SHIFT[case.video])


def _plainly(pipe: Any, embeddings: Embeddings, params: VideoParams, meter: Meter) -> int:
    """One call of the pipeline, from embeddings to frames as floats; returns how many frames came."""

    def after_step(_pipe: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        meter.step()
        if index + 1 == params.num_inference_steps:
            meter.turn_to("decoding")
        return tensors

    prompt, negative = embeddings
    video = pipe(
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        height=params.height,
        width=params.width,
        num_frames=params.num_frames,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(params.seed),
        callback_on_step_end=after_step,
    ).frames[0]
    return len(video)


def _denoised(
    pipe: Any,
    embeddings: Embeddings,
    params: VideoParams,
    passes: Passes,
    attention: Attention,
    flow_shift: float,
    meter: Meter,
) -> torch.Tensor:
    """The latents as the server makes them; noise instead if they are not finite, since no time depends on it."""
    spatial, temporal = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    grid = Grid.of(spatial, pipe.transformer.config.patch_size[1:], temporal)
    geometry = Geometry.fit(params.width, params.height, params.num_frames, grid)
    try:
        return denoise(
            pipe,
            *embeddings,
            params,
            geometry,
            passes,
            flow_shift=flow_shift,
            attention=attention,
            on_step=lambda *_: meter.step(),
        )
    except NonFiniteOutputError:
        meter.note(latents="not finite")
    frames = (geometry.full_num_frames - 1) // temporal + 1
    return torch.randn(
        1, pipe.vae.config.z_dim, frames, geometry.full_height // spatial, geometry.full_width // spatial
    )


def _decoded(pipe: Any, latents: torch.Tensor, layout: Layout, meter: Meter) -> int:
    """Decode as the server does, letting go of the frames; returns how many came."""
    try:
        return sum(len(group) for group in decode_frames(pipe.vae, latents, layout.decoding))
    except NonFiniteOutputError:
        meter.give_up(video="not finite")
        return 0


def main() -> None:
    """Measure the case that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    measure(CASES[options.case], SMALL if options.small else PUBLISHED, options.to)


if __name__ == "__main__":
    main()

"""One case of `benchmarks.gpu`, in a process of its own, so that each has a fresh allocator and its own memory limit.

python -m benchmarks.gpu.case NAME --to FILE.json [--small]

The file is rewritten after every stage and step, so that a stopped process leaves its measurements.
"""

import argparse
import tempfile
import time
from dataclasses import asdict, replace
from math import ceil
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmarks.gpu.card import Card, Watch, open_card
from benchmarks.gpu.generation import FLOW_SHIFT, GUIDANCE_SCALE, Embeddings, Generation, encode
from benchmarks.gpu.meter import DENOISING, Meter
from benchmarks.gpu.random_weights import (
    FAMILY,
    PARTS,
    PUBLISHED,
    SEED,
    SMALL,
    Scale,
    assemble,
    fill_part,
    published_shape,
    write_configs,
)
from benchmarks.gpu.run import CASES, Case
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, ModelSpec, NoiseSchedule
from pipelines.core.precision import Accuracy
from pipelines.core.request import Sampler, VideoParams
from pipelines.layers.attention.backends import AttentionShape, choose
from pipelines.loading.load import LoadedPipeline
from pipelines.loading.request_loras import RequestLoras
from pipelines.offload.placement import place_module
from pipelines.planning.layout import GIB, HOST_SHARE, Layout, Machine, MemoryPlan
from pipelines.planning.planner import plan
from pipelines.stages.denoising import release_memory
from pipelines.stages.sampling.samplers import Samplers


def measure(case: Case, scale: Scale, to: Path) -> dict[str, Any]:
    """Measure one case. Return its record, which is also in the file `to`.

    A plan that does not fit, running out of memory, and NaN or infinity are results and noted in the record.
    """
    card = open_card(case.cap)
    with tempfile.TemporaryDirectory() as name, Watch(card.driver_used) as watch:
        folder = Path(name)
        meter = Meter(case, scale, card, watch, to)
        layout = None if case.plain else _laid_out(case, scale, card, meter)
        if case.plain or layout is not None:
            try:
                _run(case, scale, layout, card, meter, folder)
            except torch.OutOfMemoryError as error:
                meter.give_up(out_of_memory=str(error).partition("\n")[0])
        meter.note(finished=True)
    return meter.record


def _laid_out(case: Case, scale: Scale, card: Card, meter: Meter) -> Layout | None:
    """Return the layout of the case's plan; None if it does not fit. Notes the plan, and the shortfall."""
    # the plan is for the published model at every scale, so that the small scale tries the same layouts
    shape = published_shape()
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
    """Return this machine, limited to the smaller one that the case states, if any."""
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
    """Load, encode two prompts, denoise and decode: by a layout, or as in diffusers' documentation."""
    attention = Attention.NATIVE if layout is None else _attention(case, scale, card, meter, folder)
    meter.turn_to("loading")
    loaded = _load(case, scale, layout, card, meter, folder)
    width, height, frames = scale.videos[case.video]
    params = VideoParams("prompt", "negative prompt", height, width, frames, case.steps, GUIDANCE_SCALE, SEED)
    meter.turn_to("encoding the prompt")
    embeddings = encode(loaded, params)
    if layout is None:
        meter.turn_to(DENOISING)
        made = _plainly(loaded.pipe, embeddings, params, meter)
    else:
        made = Generation(case, scale, loaded, attention, card, meter, folder).run(params, embeddings)
    meter.end()
    meter.note(frames=made)


def _attention(case: Case, scale: Scale, card: Card, meter: Meter, folder: Path) -> Attention:
    """Return the attention kernel that a server would choose for the case, and note it."""
    shape = write_configs(scale, folder / "shape")
    tokens = shape.tokens(Geometry.fit(*scale.videos[case.video], shape.grid))
    over = AttentionShape(tokens, shape.transformer.num_attention_heads, shape.transformer.attention_head_dim)
    chosen = choose(case.attention, card.device, lambda: over, folder)
    meter.note(attention=chosen)
    return chosen


def _load(case: Case, scale: Scale, layout: Layout | None, card: Card, meter: Meter, folder: Path) -> LoadedPipeline:
    """Return the pipeline with its weights in their places. Notes the time of placing, most of which is pinning."""
    torch.manual_seed(SEED)
    shape = write_configs(scale, folder / "configs")
    parts, placing = {}, 0.0
    for part in PARTS:
        # diffusers' documentation has Wan's VAE in fp32
        is_fp32 = part is FAMILY.vae and (layout is None or layout.fp32_decoding)
        dtype = torch.float32 if is_fp32 else torch.bfloat16
        module = fill_part(part, folder / "configs", layout or Layout(), card.device, dtype, folder / "disk")
        if part.is_denoiser and layout is not None:
            resolve_name(FAMILY.activations)(module, layout.accuracy, layout.slice_tokens)
        began = time.perf_counter()
        place_module(part, module, layout or Layout(), card.device)
        placing += time.perf_counter() - began
        parts[part.name] = module
    release_memory()
    meter.note(placing_seconds=round(placing, 3))
    pipe = assemble(parts, FLOW_SHIFT[case.video])
    samplers = Samplers(dict(pipe.scheduler.config), Sampler.UNIPC, Sampler.UNIPC, NoiseSchedule.WAN)
    loras = RequestLoras(ModelSpec("", fps=16), FAMILY, (), card.device)
    return LoadedPipeline(FAMILY, shape, pipe, None, samplers, card.device, layout, _fingerprint(layout), loras)


def _fingerprint(layout: Layout | None) -> dict[str, str]:
    """Return the facts that the compiled blocks depend on."""
    accuracy = Accuracy.STANDARD if layout is None else layout.accuracy
    return {"dtype": "bfloat16", "accuracy": accuracy}


def _plainly(pipe: Any, embeddings: Embeddings, params: VideoParams, meter: Meter) -> int:
    """Call the pipeline once, from embeddings to frames as floats. Return the number of frames."""

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


def main() -> None:
    """Measure the named case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=sorted(CASES))
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    measure(CASES[options.case], SMALL if options.small else PUBLISHED, options.to)


if __name__ == "__main__":
    main()

"""`paddock generate`."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.core.request import Sampler, StepCaching
from server.cli.options import LOCAL, ApiKey, ModelId, Url, connected, console


def generate(
    prompt: Annotated[str, typer.Argument(help="What the video shows.")],
    model: ModelId,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the video.")] = Path("video.mp4"),
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the video does not show.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same request with the same seed gives the same video.")] = None,
    step_cache: Annotated[StepCaching | None, typer.Option(help="Step caching: exact, balanced or fast.")] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="The solver: unipc, dpm++ or euler.")] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[:STRENGTH]", help="A LoRA of `paddock loras`. May be given several times."),
    ] = None,
    url: Url = LOCAL,
    api_key: ApiKey = None,
) -> None:
    """Generate a video on a running server and download it. Ctrl-C cancels it."""
    from server.cli.generate import generate as run
    from server.cli.generate import parse_lora

    parameters = {
        "width": width,
        "height": height,
        "num_frames": frames,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative_prompt,
        "seed": seed,
        "step_cache": step_cache,
        "sampler": sampler,
    }
    chosen = {name: value for name, value in parameters.items() if value is not None}
    with connected(url, api_key) as client:
        loras = {"loras": [parse_lora(each) for each in lora]} if lora else {}
        run(client, prompt, model, {**chosen, **loras}, output, console)

"""`paddock generate`."""

from pathlib import Path
from typing import Annotated

import typer

from pipelines.core.request import ImageMode, Sampler, StepCaching
from server.cli.options import LOCAL, ApiKey, Force, ModelId, Url, connected, console, error_console, refuse

_WITH_FROM = frozenset(
    {"prompt", "negative_prompt", "sound_prompt", "image", "end_image", "extend", "video", "audio", "source"}
    | {"output", "force", "opens", "url", "api_key"}
)
"""The parameters that --from leaves to the user. All others are in the file."""


def generate(
    context: typer.Context,
    model: ModelId,
    prompt: Annotated[str | None, typer.Argument(help="What the video shows.", show_default=False)] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="A video to make again by the recipe in its file, in all it says."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            show_default=False,
            help="Where to write the video: a file, or a folder [video.mp4, or the next name that is free].",
        ),
    ] = None,
    force: Force = False,
    opens: Annotated[
        bool, typer.Option("--open", help="Open the finished video with the desktop's program for it.")
    ] = False,
    videos: Annotated[
        int, typer.Option("--count", min=1, help="Number of videos, with consecutive seeds and numbered names.")
    ] = 1,
    image: Annotated[
        Path | None, typer.Option(help="The image that the video begins with, for models that take one.")
    ] = None,
    image_mode: Annotated[
        ImageMode | None,
        typer.Option(help="first_frame: begin a text model's video with the image, although it is not trained for it."),
    ] = None,
    end_image: Annotated[
        Path | None, typer.Option(help="The image that the video ends with, for models that take one.")
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help="A generation whose video is continued and joined, for models that take an image."
        ),
    ] = None,
    video: Annotated[
        Path | None, typer.Option(help="The video that this one is made of, for models that take one.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(help="The sound that is heard with the video, cut to its length.")
    ] = None,
    sound: Annotated[bool, typer.Option("--sound", help="Have a model make a sound for the video.")] = False,
    sound_prompt: Annotated[
        str | None, typer.Option(help="What is heard, instead of what the prompt says; with --sound.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of that video is made anew, above 0 and at most 1.")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    aspect: Annotated[str | None, typer.Option(help="Aspect ratio, such as 16:9, instead of width and height.")] = None,
    frames: Annotated[int | None, typer.Option(help="Length in frames.")] = None,
    duration: Annotated[float | None, typer.Option(help="Length in seconds, instead of frames.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What the video does not show.")] = None,
    enhance: Annotated[
        bool, typer.Option("--enhance", help="Have the server's language model rewrite the prompt first, and show it.")
    ] = False,
    inspiration: Annotated[
        bool, typer.Option("--inspiration", help="Turn the prompt into a freer one, in a style that the seed chooses.")
    ] = False,
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
    """Generate videos on a running server and download them. Ctrl-C cancels them."""
    from server.cli.generate.videos import choose_outputs, parse_lora, show
    from server.cli.generate.videos import generate as run

    given = {name for name in context.params if _is_given(context, name)}
    if source is not None and (others := given - _WITH_FROM):
        refuse(f"--from makes a video again as it was: leave out {_option(context, min(others))}.")
    if source is None and prompt is None:
        context.fail("Missing argument 'PROMPT'.")

    if aspect is not None and (width is not None or height is not None):
        refuse("--aspect replaces --width and --height: give one or the other.")
    if duration is not None and frames is not None:
        refuse("--duration replaces --frames: give one or the other.")
    parameters = {
        "input_image": image,
        "image_mode": image_mode,
        "end_image_url": end_image,
        "extend_from": extend,
        "input_video": video,
        "strength": strength,
        "input_audio": audio,
        "generate_audio": sound or None,
        "audio_prompt": sound_prompt,
        "width": width,
        "height": height,
        "aspect_ratio": aspect,
        "num_frames": frames,
        "duration": duration,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "negative_prompt": negative_prompt,
        "enhance_prompt": enhance or None,
        "inspiration": inspiration or None,
        "seed": seed,
        "step_cache": step_cache,
        "sampler": sampler,
    }
    chosen = {name: value for name, value in parameters.items() if value is not None}
    if source is not None:
        from server.cli.generate.again import OPTIONS, make_again

        words = {"prompt": prompt, "negative_prompt": negative_prompt, "audio_prompt": sound_prompt}
        with connected(url, api_key) as client:
            made = make_again(
                client,
                source,
                {name: text for name, text in words.items() if text is not None},
                {name: chosen[name] for name in OPTIONS if name in chosen},
                choose_outputs(output, Path("video.mp4"), 1, replace=force),
                console,
                replace=force,
            )
        if opens:
            show(made, error_console)
        return
    assert prompt is not None, "without one the command has ended"
    with connected(url, api_key) as client:
        loras = {"loras": [parse_lora(each) for each in lora]} if lora else {}
        outputs = choose_outputs(output, Path("video.mp4"), videos, replace=force)
        made = run(client, prompt, model, {**chosen, **loras}, outputs, console, replace=force)
    if opens:
        show(made, error_console)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _option(context: typer.Context, name: str) -> str:
    return next(each.opts[0] for each in context.command.params if each.name == name)

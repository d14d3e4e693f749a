"""How far bf16 is from fp32, with the residual stream and the modulation in fp32 (`accuracy = "high"`) and in bf16.

python -m benchmarks.quality.accuracy

- transformer: one forward pass of random weights that bf16 holds, so that only the arithmetic differs. The figure is
  the norm of the difference from the pass in fp32, relative to the norm of that pass;
- demo: the same for the final latents of the demo weights, after all steps, and the PSNR of the videos;
- VAE: the PSNR of the same latents decoded in bf16 and in fp32, by the demo's VAE.

A CPU without bf16 units computes the same, but slowly.
"""

import argparse
import statistics
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from diffusers import WanTransformer3DModel

from benchmarks.quality.demo_quality import questions
from benchmarks.report import show
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.precision import Accuracy, Precision
from pipelines.core.progress import Frames
from pipelines.core.request import VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.layers.wan.transformer import use_activations
from pipelines.loading.load import silence_progress_bars
from pipelines.loading.modules import assign_tensors
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import Layout
from pipelines.runner.runner import Runner
from pipelines.stages.decoding.decoding import decode_frames
from pipelines.tools.calibrate_step_cache import psnr

SIZES = ((512, 20), (1024, 20), (1536, 30))
"""Width and layers of random transformers; the last is that of Wan2.1 1.3B."""

HEAD = 128
STEPS = 16
LATENTS = (1, 16, 3, 16, 16)
TEXT_TOKENS, TEXT_DIM = 512, 256


def random_transformer(width: int, layers: int) -> Any:
    """Return a transformer in fp32 with random weights that bf16 holds."""
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        num_attention_heads=width // HEAD,
        attention_head_dim=HEAD,
        ffn_dim=width * 27 // 10 // 16 * 16,
        text_dim=TEXT_DIM,
        num_layers=layers,
    )
    for parameter in model.eval().requires_grad_(False).parameters():
        parameter.copy_(parameter.bfloat16())
    return model


def as_loaded(model: Any) -> Any:
    """Return a copy of an fp32 transformer with the dtypes that a loaded one has in bf16."""
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    with torch.device("meta"):
        copy: Any = WanTransformer3DModel(**config).eval().requires_grad_(False)
    copy.rope = model.rope
    weight_format = WeightFormat(copy, Precision.BF16, torch.bfloat16)
    assign_tensors(copy, model.state_dict().items(), weight_format.convert)
    return copy


@torch.no_grad()
def forward(model: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return the output of one pass in fp32. The inputs are the same in every dtype."""
    generator = torch.Generator().manual_seed(1)
    latents, text = (
        torch.randn(size, generator=generator).bfloat16().to(dtype) for size in (LATENTS, (1, TEXT_TOKENS, TEXT_DIM))
    )
    output: torch.Tensor = model(latents, torch.tensor([713.0]), text, return_dict=False)[0]
    return output.float()


def difference(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the norm of the difference, relative to the norm of `exact`."""
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def of_random_weights(width: int, layers: int) -> dict[str, float]:
    """Return the difference from fp32 of one pass, by accuracy."""
    exact = random_transformer(width, layers)
    expected = forward(exact, torch.float32)
    found = {}
    for accuracy in Accuracy:
        model = as_loaded(exact)
        use_activations(model, accuracy)
        found[str(accuracy)] = difference(forward(model, torch.bfloat16), expected)
    return found


def demo(dtype: torch.dtype, accuracy: Accuracy) -> Runner:
    """Return the demo weights in a dtype, whatever the processor has."""
    with patch("pipelines.loading.load._cpu_has_bf16", return_value=dtype is torch.bfloat16):
        return Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu", layout=Layout(accuracy=accuracy))


def latents_and_frames(runner: Runner, params: VideoParams) -> tuple[torch.Tensor, Frames]:
    """Return the final latents of a video and its frames."""
    caught: list[torch.Tensor] = []

    def decode(vae: Any, latents: torch.Tensor, *rest: Any) -> Any:
        caught.append(latents)
        return decode_frames(vae, latents, *rest)

    with patch("pipelines.runner.runner.decode_frames", decode):
        frames = runner.frames(params).frames
    return caught[0], frames


@torch.no_grad()
def of_demo_weights(count: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of the demo's videos by accuracy, and those of its VAE: medians of `count` videos."""
    exact = demo(torch.float32, Accuracy.HIGH)
    others = {str(accuracy): demo(torch.bfloat16, accuracy) for accuracy in Accuracy}
    errors: dict[str, list[float]] = {name: [] for name in others}
    decibels: dict[str, list[float]] = {name: [] for name in others}
    decoded = []
    for seed, question in enumerate(questions(count)):
        params = VideoParams(question.prompt, " ", 128, 128, 17, STEPS, 5.0, seed)
        geometry = Geometry.fit(128, 128, 17, exact._loaded.grid)
        latents, frames = latents_and_frames(exact, params)
        for name, runner in others.items():
            found, video = latents_and_frames(runner, params)
            errors[name].append(difference(found, latents))
            decibels[name].append(psnr(video, frames))
        rounded = np.concatenate(list(decode_frames(others[Accuracy.STANDARD]._loaded.vae, latents)))
        decoded.append(psnr(rounded[: geometry.num_frames, *geometry.crop], frames))
    figures = {
        name: {"latents": statistics.median(errors[name]), "psnr": statistics.median(decibels[name])} for name in others
    }
    return figures, {"median": statistics.median(decoded), "least": min(decoded), "most": max(decoded)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="number of the demo's videos")
    options = parser.parse_args()
    silence_progress_bars()
    random = {f"{width} wide, {layers} layers": of_random_weights(width, layers) for width, layers in SIZES}
    of_demo, vae = of_demo_weights(options.videos)
    columns = [str(accuracy) for accuracy in Accuracy]
    rows = [
        *((f"transformer, {name}", *(f"{found[each]:.2%}" for each in columns)) for name, found in random.items()),
        ("demo: final latents", *(f"{of_demo[each]['latents']:.2%}" for each in columns)),
        ("demo: video, PSNR in dB", *(f"{of_demo[each]['psnr']:.1f}" for each in columns)),
        ("demo's VAE in bf16, PSNR in dB", f"{vae['median']:.1f} ({vae['least']:.1f} to {vae['most']:.1f})", ""),
    ]
    figures = {"random": random, "demo": of_demo, "vae": vae, "videos": options.videos, "steps": STEPS}
    show("accuracy: difference from fp32", rows, figures, columns=("what", *columns))


if __name__ == "__main__":
    main()

"""Guidance computes the passes it should, and skipped steps stay close to computed ones."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.core.errors import GenerationCancelled, GenerationSuspended
from pipelines.core.geometry import Geometry
from pipelines.core.model import ModelSpec
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import StepCaching, VideoParams
from pipelines.demo.folder import demo_folder
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.runner import Runner
from pipelines.stages.checkpoint import Checkpoint
from pipelines.stages.denoising import denoise
from pipelines.stages.guidance import Guidance
from tests.pipelines.conftest import both_dtypes
from tests.support.models.wan22 import a14b_folder
from tests.support.video import read_video

pytestmark = both_dtypes

PARAMS = VideoParams("an ox by a lake", "blurry", 64, 96, 9, 8, 5.0, 7)
CLIP = VideoParams("a big red circle moving right on a white background", " ", 128, 128, 17, 16, 5.0, 3)

Run = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def demo(processor: str) -> Runner:
    """The demo's trained weights, whose outputs change smoothly from step to step."""
    return Runner.load(ModelSpec("demo", fps=16), demo_folder(), "cpu")


@pytest.fixture(scope="module")
def two_experts(processor: str, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    folder = a14b_folder(tmp_path_factory.mktemp("a14b") / "weights")
    return Runner.load(ModelSpec("a14b", fps=16), folder, "cpu")


def latents(runner: Runner, guidance: Guidance, params: VideoParams = PARAMS) -> torch.Tensor:
    prompt, negative = (
        runner._stages._prompts.encode(params.prompt),
        runner._stages._prompts.encode(params.negative_prompt),
    )
    geometry = Geometry.fit(params.width, params.height, params.num_frames, runner._loaded.grid)
    with torch.no_grad():
        return denoise(
            runner._loaded.family,
            runner._loaded.pipe,
            prompt,
            negative if params.guidance_scale > 1 else None,
            params,
            geometry,
            guidance,
            scheduler=runner._loaded.samplers.make(),
        )


def guided(runner: Runner, params: VideoParams = PARAMS, **options: Any) -> Guidance:
    return Guidance(
        runner._loaded.family, params.guidance_scale, runner._stages._prompts.encode(params.negative_prompt), **options
    )


@pytest.mark.parametrize("model", ["wan21_runner", "two_experts"])
def test_with_all_passes_computed_the_latents_equal_the_librarys(model: str, request: pytest.FixtureRequest) -> None:
    runner: Runner = request.getfixturevalue(model)
    guidance = guided(runner)
    made = latents(runner, guidance)

    with torch.no_grad():
        plain = runner._loaded.pipe(
            prompt=PARAMS.prompt,
            negative_prompt=PARAMS.negative_prompt,
            height=64,
            width=96,
            num_frames=9,
            num_inference_steps=8,
            guidance_scale=5.0,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="latent",
        ).frames

    assert torch.equal(made, plain)
    assert guidance.passes_computed == 16


def assert_near(found: torch.Tensor, expected: torch.Tensor, runner: Runner) -> None:
    """In bf16 a batch may round the other way, by as much as bf16 differs from fp32."""
    difference = float((found - expected).norm() / expected.norm())
    assert difference < (0.05 if runner.fingerprint["dtype"] == "bfloat16" else 1e-4)


@pytest.mark.parametrize("model", ["wan21_runner", "two_experts"])
def test_a_batch_of_both_passes_equals_two_passes(model: str, request: pytest.FixtureRequest) -> None:
    runner: Runner = request.getfixturevalue(model)
    one_by_one = latents(runner, guided(runner))
    batches: list[int] = []
    pipe = runner._loaded.pipe
    hooks = [
        model.patch_embedding.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))
        for model in (pipe.transformer, pipe.transformer_2)
        if model is not None
    ]

    batched = latents(runner, guided(runner, batched=True))

    for hook in hooks:
        hook.remove()
    assert_near(batched, one_by_one, runner)
    assert batches == [2] * 8


def test_outside_its_interval_there_is_no_guidance(wan21_runner: Runner) -> None:
    everywhere = latents(wan21_runner, guided(wan21_runner))
    sigmas = wan21_runner._loaded.pipe.scheduler.sigmas[:8]

    nowhere = guided(wan21_runner, interval=(0.0, 0.0))
    without = latents(wan21_runner, Guidance(wan21_runner._loaded.family), replace(PARAMS, guidance_scale=1.0))
    assert torch.equal(latents(wan21_runner, nowhere), without)
    assert nowhere.passes_computed == 8

    late = guided(wan21_runner, interval=(0.0, 0.6))
    made = latents(wan21_runner, late)
    assert late.passes_computed == 8 + int((sigmas <= 0.6).sum())
    assert 8 < late.passes_computed < 16
    assert not torch.equal(made, without)
    assert not torch.equal(made, everywhere)


def psnr(one: Path, other: Path) -> float:
    error = np.mean((read_video(one).astype(float) - read_video(other)) ** 2)
    return float(10 * np.log10(255**2 / error))


def test_levels_compute_fewer_passes_for_a_similar_video(demo: Runner, tmp_path: Path) -> None:
    computed = {}
    for level in StepCaching:
        guidance = guided(demo, CLIP, tolerance=demo.spec.step_cache.of(level))
        latents(demo, guidance, CLIP)
        computed[level] = guidance.passes_computed
        work = demo.run(replace(CLIP, step_cache=level), tmp_path / f"{level}.mp4").stats
        # each step has both passes computed or both skipped
        assert (work.steps_computed, work.steps_skipped) == (computed[level] // 2, 16 - computed[level] // 2)

    assert computed["exact"] == 32
    assert computed["exact"] > computed["balanced"] > computed["fast"] >= 16
    assert psnr(tmp_path / "balanced.mp4", tmp_path / "exact.mp4") > 35
    assert psnr(tmp_path / "fast.mp4", tmp_path / "exact.mp4") > 25


@pytest.mark.parametrize("level", [StepCaching.BALANCED, StepCaching.FAST])
def test_with_few_steps_none_is_skipped(demo: Runner, level: StepCaching) -> None:
    few = replace(CLIP, num_inference_steps=4)
    guidance = guided(demo, few, tolerance=demo.spec.step_cache.of(level))

    assert torch.equal(latents(demo, guidance, few), latents(demo, guided(demo, few), few))
    assert guidance.passes_computed == 8


def test_without_guidance_there_is_one_pass_a_step(demo: Runner) -> None:
    alone = replace(CLIP, guidance_scale=1.0)
    guidance = Guidance(demo._loaded.family, tolerance=demo.spec.step_cache.fast)

    latents(demo, guidance, alone)

    assert 8 <= guidance.passes_computed < 16


@pytest.mark.parametrize("tolerance", [0.025, 10.0])
def test_batches_work_with_the_step_cache(demo: Runner, tolerance: float) -> None:
    one_by_one, batched = guided(demo, CLIP, tolerance=tolerance), guided(demo, CLIP, tolerance=tolerance, batched=True)

    assert_near(latents(demo, batched, CLIP), latents(demo, one_by_one, CLIP), demo)
    assert batched.passes_computed == one_by_one.passes_computed < 32


def test_outputs_are_not_extrapolated_from_one_expert_to_the_other(two_experts: Runner) -> None:
    pipe = two_experts._loaded.pipe
    guidance = guided(two_experts, tolerance=10.0)
    made: list[tuple[str, int]] = []
    forward = guidance.forward

    def note(part: str, at: Any, *rest: Any) -> Any:
        before = guidance.passes_computed
        result = forward(part, at, *rest)
        if at.name == "cond":
            made.append((part, guidance.passes_computed - before))
        return result

    guidance.forward = note  # type: ignore[method-assign]
    latents(two_experts, guidance, replace(PARAMS, num_inference_steps=16))

    parts = [part for part, _ in made]
    second = parts.index("transformer_2")
    assert pipe.config.boundary_ratio is not None
    assert 0 < second < 16
    # each expert needs three computed steps before one can be skipped
    assert [computed for _, computed in made[second : second + 3]] == [1, 1, 1]
    assert sum(computed for _, computed in made) < 16


@pytest.mark.parametrize("where", [Residence.STREAMED, Residence.DISK])
def test_streamed_weights_make_the_same_video(where: Residence, wan21: Path, tmp_path: Path) -> None:
    params = replace(PARAMS, step_cache=StepCaching.FAST, num_inference_steps=12)
    spec = ModelSpec("wan21", fps=16)
    made = {}
    for name, layout in {
        "resident": Layout(batched=True),
        "streamed": Layout(transformer=where, batched=True),
        "one by one": Layout(transformer=where),
    }.items():
        runner = Runner.load(spec, wan21, "cpu", layout=layout, cache=tmp_path)
        made[name] = runner.run(params, tmp_path / f"{name}.mp4").path.read_bytes(), runner.fingerprint["guidance"]

    assert made["resident"] == made["streamed"]
    assert made["streamed"][1] == "batched, 0 to 1"
    assert made["one by one"][1] == "one by one, 0 to 1"


@pytest.mark.parametrize("step", [2, 9, 10, 11, 15])
def test_a_suspended_generation_resumes_with_its_step_cache(demo: Runner, step: int, tmp_path: Path) -> None:
    params = replace(CLIP, step_cache=StepCaching.FAST)
    whole = demo.run(params, tmp_path / "whole.mp4").path.read_bytes()
    done = 0

    def report(progress: Progress) -> None:
        nonlocal done
        done = progress.step if progress.stage is Stage.DENOISE else 0

    stopping = Checkpoint(tmp_path / "half.ckpt", 1000.0, lambda: done >= step)
    with pytest.raises(GenerationSuspended):
        demo.run(params, tmp_path / "video.mp4", Callbacks(report, checkpoint=stopping))
    going_on = Callbacks(checkpoint=Checkpoint(tmp_path / "half.ckpt", 1000.0))
    work = demo.run(params, tmp_path / "video.mp4", going_on).stats

    assert work.steps_computed + work.steps_skipped == params.num_inference_steps - done
    assert (tmp_path / "video.mp4").read_bytes() == whole


def test_a_cancelled_generation_does_not_affect_the_next(demo: Runner, tmp_path: Path) -> None:
    params, smaller = replace(CLIP, step_cache=StepCaching.FAST), replace(CLIP, width=96, step_cache=StepCaching.FAST)
    expected = demo.run(smaller, tmp_path / "expected.mp4").path.read_bytes()
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 9

    with pytest.raises(GenerationCancelled):
        demo.run(params, tmp_path / "cancelled.mp4", Callbacks(cancelled=cancelled))

    assert demo.run(smaller, tmp_path / "next.mp4").path.read_bytes() == expected

"""The noise levels of each sampler are those of Wan's authors, and a sampler that has others is refused."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec, NoiseSchedule
from pipelines.core.request import Sampler, VideoParams
from pipelines.runner.runner import Runner
from pipelines.stages.sampling.samplers import Samplers

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SHIFTS = (1.0, 3.0, 5.0, 8.0, 12.0)

# CRC-32 of the timesteps of 1, 2, … 100 steps, all in one line, as the authors' code computed them
AUTHORS_TIMESTEPS = {
    (Sampler.UNIPC, 1.0): 0xC5FCED97,
    (Sampler.UNIPC, 3.0): 0xED13B1E3,
    (Sampler.UNIPC, 5.0): 0xC2453263,
    (Sampler.UNIPC, 8.0): 0x423835AB,
    (Sampler.UNIPC, 12.0): 0x756D021B,
    (Sampler.DPM, 1.0): 0x29296EA7,
    (Sampler.DPM, 3.0): 0xEE597901,
    (Sampler.DPM, 5.0): 0xF3FB65CF,
    (Sampler.DPM, 8.0): 0xCF9C81A6,
    (Sampler.DPM, 12.0): 0x3A1E5D53,
}


def unipc(**settings: Any) -> Any:
    return UniPCMultistepScheduler(**{**FLOW, "flow_shift": 3.0, **settings})


def dpm(**settings: Any) -> Any:
    return DPMSolverMultistepScheduler(**{**FLOW, "flow_shift": 3.0, **settings})


def euler(**settings: Any) -> Any:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **settings})


def read(
    folder: Path,
    scheduler: Any,
    sampler: Sampler | None = None,
    schedule: NoiseSchedule = NoiseSchedule.WAN,
    shifts: tuple[float, ...] = (),
) -> Samplers:
    scheduler.save_pretrained(folder / "scheduler")
    return Samplers.read(folder, sampler, schedule, shifts)


def formula(sampler: Sampler, steps: int, shift: float) -> list[Fraction]:
    """The levels without any rounding: the authors' highest level is 0.999, for DPM-Solver++ it is 1."""
    highest, s = Fraction(1) if sampler is Sampler.DPM else Fraction(999, 1000), Fraction(shift)
    levels = [highest * (steps - step) / steps for step in range(steps)]
    return [s * level / (1 + (s - 1) * level) for level in levels]


@pytest.mark.parametrize("published", [unipc, dpm, euler])
@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("shift", SHIFTS)
def test_the_levels_follow_the_authors_formula(
    sampler: Sampler, shift: float, published: Callable[..., Any], tmp_path: Path
) -> None:
    samplers = read(tmp_path, published())
    timesteps: list[float] = []

    for steps in range(1, 101):
        scheduler = samplers.make(sampler, shift)
        scheduler.set_timesteps(steps)
        expected = formula(sampler, steps, shift)
        assert len(scheduler.timesteps) == steps
        assert scheduler.sigmas.tolist() == pytest.approx([*map(float, expected), 0.0], abs=1e-6)
        timesteps += scheduler.timesteps.tolist()
        if sampler is Sampler.EULER:
            assert timesteps[-steps:] == pytest.approx([float(1000 * level) for level in expected], abs=1e-3)
    if sampler is not Sampler.EULER:
        assert crc32(" ".join(map(str, timesteps)).encode()) == AUTHORS_TIMESTEPS[sampler, shift]


# first and last level and timestep of 16 steps (shifts 3 and 5) and 50 steps, as the authors' code computes them
@pytest.mark.parametrize(
    ("sampler", "steps", "shift", "first", "last", "timesteps"),
    [
        (Sampler.UNIPC, 16, 3.0, 0.999666, 0.16652, (999, 166)),
        (Sampler.UNIPC, 16, 5.0, 0.999800, 0.24980, (999, 249)),
        (Sampler.UNIPC, 50, 5.0, 0.999800, 0.09251, (999, 92)),
        (Sampler.UNIPC, 40, 12.0, 0.999917, 0.23511, (999, 235)),
        (Sampler.DPM, 16, 3.0, 1.0, 0.16667, (1000, 166)),
        (Sampler.DPM, 50, 5.0, 1.0, 0.09259, (1000, 92)),
    ],
)
def test_known_levels(
    sampler: Sampler, steps: int, shift: float, first: float, last: float, timesteps: tuple[int, int], tmp_path: Path
) -> None:
    scheduler = read(tmp_path, unipc()).make(sampler, shift)
    scheduler.set_timesteps(steps)

    assert (float(scheduler.sigmas[0]), float(scheduler.sigmas[-2])) == pytest.approx((first, last), abs=5e-6)
    assert (int(scheduler.timesteps[0]), int(scheduler.timesteps[-1])) == timesteps


@pytest.mark.parametrize(("sampler", "library"), [(Sampler.UNIPC, unipc), (Sampler.DPM, dpm), (Sampler.EULER, euler)])
@pytest.mark.parametrize("shift", SHIFTS)
def test_the_other_schedule_is_what_diffusers_computes(
    sampler: Sampler, library: Callable[..., Any], shift: float, tmp_path: Path
) -> None:
    samplers = read(tmp_path, unipc(), schedule=NoiseSchedule.DIFFUSERS)
    plain = library(**{"shift" if sampler is Sampler.EULER else "flow_shift": shift})

    for steps in (1, 4, 16, 50, 100):
        scheduler = samplers.make(sampler, shift)
        scheduler.set_timesteps(steps)
        plain.set_timesteps(steps)
        assert torch.equal(scheduler.sigmas, plain.sigmas)
        assert torch.equal(scheduler.timesteps, plain.timesteps)


@pytest.mark.parametrize("schedule", NoiseSchedule)
@pytest.mark.parametrize("sampler", Sampler)
def test_every_step_has_its_own_level_where_timesteps_are_equal(
    sampler: Sampler, schedule: NoiseSchedule, tmp_path: Path
) -> None:
    scheduler = read(tmp_path, unipc(), schedule=schedule).make(sampler, 12.0)
    scheduler.set_timesteps(100)
    used = []
    latents = torch.ones(1, 1, 1, 2, 2)
    for timestep in scheduler.timesteps:
        latents = scheduler.step(torch.zeros_like(latents), timestep, latents, return_dict=False)[0]
        used.append(scheduler.step_index)

    assert used == list(range(1, 101))
    assert torch.isfinite(latents).all()


@pytest.mark.parametrize("sampler", Sampler)
def test_a_straight_flow_ends_at_its_clean_sample(sampler: Sampler, tmp_path: Path) -> None:
    noise, clean = torch.full((1, 1, 1, 2, 2), 2.0), torch.full((1, 1, 1, 2, 2), -1.0)
    scheduler = read(tmp_path, unipc()).make(sampler, 5.0)
    scheduler.set_timesteps(7)
    latents = noise
    for timestep in scheduler.timesteps:
        # a sample is clean + sigma * velocity, wherever rounding has put it
        velocity = (latents - clean) / scheduler.sigmas[scheduler.step_index or 0]
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]

    torch.testing.assert_close(latents, clean)


def test_the_folders_sampler_and_shift_are_the_default(tmp_path: Path) -> None:
    for make, sampler in ((unipc, Sampler.UNIPC), (dpm, Sampler.DPM), (euler, Sampler.EULER)):
        samplers = read(tmp_path, make())
        assert samplers.default is sampler
        for other in Sampler:
            config = samplers.make(other).config
            assert (config["shift"] if other is Sampler.EULER else config["flow_shift"]) == 3.0


def test_a_models_file_chooses_another_sampler(tmp_path: Path) -> None:
    assert read(tmp_path, unipc(), Sampler.DPM).default is Sampler.DPM
    # of an unknown class nothing is used
    assert read(tmp_path, DDIMScheduler(), Sampler.EULER, shifts=(5.0,)).make(shift=5.0).config["shift"] == 5.0


def test_the_folders_other_settings_are_kept(tmp_path: Path) -> None:
    samplers = read(tmp_path, unipc(solver_order=3))

    assert samplers.make().config["solver_order"] == 3
    assert samplers.make(Sampler.DPM).config["solver_order"] == 2


@pytest.mark.parametrize(
    ("scheduler", "complaint"),
    [
        (DDIMScheduler(), r"is for a DDIMScheduler, which is not supported\. Set sampler to unipc, dpm\+\+, euler"),
        (unipc(use_dynamic_shifting=True), "use_dynamic_shifting"),
        (euler(use_dynamic_shifting=True), "use_dynamic_shifting"),
        (unipc(use_flow_sigmas=False), "use_flow_sigmas must be True"),
        (unipc(prediction_type="epsilon"), "prediction_type must be 'flow_prediction', not 'epsilon'"),
        (dpm(prediction_type="epsilon"), "prediction_type must be 'flow_prediction', not 'epsilon'"),
        (unipc(use_karras_sigmas=True), "unipc, a shift of 3 and 1 steps, the noise levels differ by up to 0.5"),
        (unipc(shift_terminal=0.02), "the noise levels differ"),
        (unipc(final_sigmas_type="sigma_min"), "do not fall from 1 to 0"),
        (euler(invert_sigmas=True), "do not fall from 1 to 0"),
        (euler(use_exponential_sigmas=True), "the noise levels differ"),
        (unipc(flow_shift=0.0), "flow_shift must be a positive number, not 0.0"),
        (euler(shift=-1.0), "shift must be a positive number, not -1.0"),
        (unipc(num_train_timesteps=10**6), "num_train_timesteps must be an integer from 1 to 100000"),
    ],
)
def test_a_scheduler_with_other_levels_is_refused(scheduler: Any, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=complaint) as refusal:
        read(tmp_path, scheduler)

    assert str(tmp_path / "scheduler" / "scheduler_config.json") in str(refusal.value)


def test_an_unknown_scheduler_needs_a_shift(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"its shift is unknown\. Set flow_shift in the model's file"):
        read(tmp_path, DDIMScheduler(), Sampler.UNIPC)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "version https://git-lfs.github.com/spec/v1"])
def test_an_unreadable_configuration_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(content)

    with pytest.raises(WeightsNotFoundError, match=r"scheduler_config\.json"):
        Samplers.read(tmp_path, None, NoiseSchedule.WAN)


def video(runner: Runner, folder: Path, sampler: Sampler | None) -> bytes:
    path = folder / "video.mp4"
    runner.run(VideoParams("an ox by a lake", " ", 64, 96, 5, 6, 5.0, 7, sampler=sampler), path)
    return path.read_bytes()


def test_a_request_chooses_the_sampler(weights_folder: Path, tmp_path: Path) -> None:
    runner = Runner.load(ModelSpec("small", fps=16), weights_folder, "cpu")
    own = video(runner, tmp_path, None)
    each = {sampler: video(runner, tmp_path, sampler) for sampler in Sampler}

    assert each[Sampler.UNIPC] == own
    assert len(set(each.values())) == len(Sampler)
    assert video(runner, tmp_path, None) == own


def test_sampler_and_schedule_decide_the_video_and_are_in_the_fingerprint(weights_folder: Path, tmp_path: Path) -> None:
    specs = {
        ("unipc", "wan"): ModelSpec("small", fps=16),
        ("dpm++", "wan"): ModelSpec("small", fps=16, sampler=Sampler.DPM),
        ("unipc", "diffusers"): ModelSpec("small", fps=16, schedule=NoiseSchedule.DIFFUSERS),
    }
    videos = set()
    for (sampler, schedule), spec in specs.items():
        runner = Runner.load(spec, weights_folder, "cpu")
        assert (runner.fingerprint["sampler"], runner.fingerprint["schedule"]) == (sampler, schedule)
        # it is sent as JSON
        assert json.loads(json.dumps(runner.fingerprint)) == runner.fingerprint
        videos.add(video(runner, tmp_path, None))
    assert len(videos) == len(specs)

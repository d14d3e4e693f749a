"""Sounds that a model makes: their length, level and seed, and what goes wrong."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.core.errors import GenerationCancelled, SoundError
from pipelines.core.model import SoundSpec
from pipelines.stages.audio.sound_model import SoundModel
from tests.support.models.sounds import RATE, SOUND_FOLDERS, sound_spec


@pytest.fixture(scope="module", params=sorted(SOUND_FOLDERS))
def spec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SoundSpec:
    return sound_spec(tmp_path_factory.mktemp("sound") / "model", request.param)


@pytest.fixture(scope="module")
def model(spec: SoundSpec) -> SoundModel:
    return SoundModel(spec, "cpu")


@pytest.mark.parametrize("seconds", [1 / 16, 0.5625, 81 / 16, 5.0])
def test_a_sound_is_as_long_as_asked_to_the_sample(model: SoundModel, seconds: float) -> None:
    samples, rate = model.make("an ox", seconds, 7)

    assert rate == RATE
    assert samples.shape[1] == round(seconds * RATE)
    assert samples.shape[0] in (1, 2)
    assert samples.dtype == np.float32
    assert 0.01 < np.abs(samples).max() <= 1


def test_the_same_seed_gives_the_same_sound_and_another_one_another(spec: SoundSpec, model: SoundModel) -> None:
    first, _ = model.make("an ox", 0.5, 7)

    torch.manual_seed(99)
    again, _ = SoundModel(spec, "cpu").make("an ox", 0.5, 7)
    other, _ = model.make("an ox", 0.5, 8)

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_sound_longer_than_the_model_makes_has_the_longest(spec: SoundSpec) -> None:
    samples, rate = SoundModel(dataclasses.replace(spec, max_seconds=0.25), "cpu").make("an ox", 3.0, 7)

    assert samples.shape[1] == rate // 4


def test_each_step_is_reported_and_what_the_report_raises_ends_it(model: SoundModel) -> None:
    seen: list[tuple[int, int]] = []

    def cancel(step: int, steps: int) -> None:
        seen.append((step, steps))
        if step == 2:
            raise GenerationCancelled

    with pytest.raises(GenerationCancelled):
        model.make("an ox", 0.5, 7, cancel)

    assert seen == [(0, 2), (0, 2), (1, 2), (2, 2)]
    assert model.make("an ox", 0.5, 7)[0].shape[1] == RATE // 2


def test_a_cancel_before_the_weights_are_read_reads_none(spec: SoundSpec) -> None:
    model = SoundModel(spec, "cpu")

    def cancel(*_: int) -> None:
        raise GenerationCancelled

    with pytest.raises(GenerationCancelled):
        model.make("an ox", 0.5, 7, cancel)

    assert model.name == ""


def test_the_name_tells_weights_and_settings_apart(spec: SoundSpec, tmp_path: Path) -> None:
    other = sound_spec(tmp_path / "other", spec.pipeline_class)
    more = dataclasses.replace(spec, num_inference_steps=3)

    assert name(spec) == name(spec)
    assert len({name(spec), name(other), name(more)}) == 3
    assert name(spec).startswith("small ")


def name(spec: SoundSpec) -> str:
    model = SoundModel(spec, "cpu")
    model.load()
    return model.name


def test_a_reason_is_one_short_line(model: SoundModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("it\nfailed " * 1000)

    monkeypatch.setattr(model, "_made", fail)

    with pytest.raises(SoundError) as caught:
        model.make("an ox", 0.5, 7)

    assert str(caught.value).startswith("The sound could not be made: RuntimeError: it failed it failed")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_device_without_memory_is_named_as_such(model: SoundModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(model, "_made", fail)

    with pytest.raises(SoundError, match=r"^The device has not enough memory left"):
        model.make("an ox", 0.5, 7)


def test_weights_that_are_not_there_are_named(spec: SoundSpec, tmp_path: Path) -> None:
    missing = dataclasses.replace(spec, repo=str(tmp_path / "none"))
    with pytest.raises(SoundError, match="paddock pull --model small"):
        SoundModel(missing, "cpu").make("an ox", 1.0, 7)


def test_damaged_weights_are_an_error_of_the_sound(spec: SoundSpec, tmp_path: Path) -> None:
    broken = sound_spec(tmp_path / "broken", spec.pipeline_class)
    weights = next((tmp_path / "broken" / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])

    with pytest.raises(SoundError):
        SoundModel(broken, "cpu").make("an ox", 1.0, 7)


def test_a_sampler_that_needs_a_package_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = sound_spec(tmp_path / "model", "StableAudioPipeline")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(index.read_text().replace("EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler"))
    monkeypatch.setattr("pipelines.stages.audio.sound_model.find_spec", lambda name: None)

    with pytest.raises(SoundError, match="pip install torchsde"):
        SoundModel(spec, "cpu").make("an ox", 1.0, 7)


def test_a_prompt_that_is_not_read_to_its_end_is_told(spec: SoundSpec, model: SoundModel) -> None:
    model.load()
    limit = 512 if spec.pipeline_class == "LongCatAudioDiTPipeline" else 32

    assert model.warnings("an ox", 1.0) == ()
    (said,) = model.warnings("ox " * 1000, 1.0)
    assert f"reads only the first {limit}" in said
    assert [" seconds: silence follows" in each for each in model.warnings("an ox", 11.0)] == [True]

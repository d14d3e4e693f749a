"""The parameters of a video check their own ranges."""

import json
import math
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from pipelines.core.errors import VideoParamsError
from pipelines.core.request import (
    LIMITS,
    MAX_LORAS,
    MAX_SEED,
    ImageMode,
    RequestLora,
    Sampler,
    StepCaching,
    VideoParams,
)
from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue


def test_only_the_prompt_is_required() -> None:
    params = VideoParams("an ox")

    published = read_catalogue()[DEFAULT_MODEL].api.by_name
    for name in {field.name for field in fields(VideoParams)} & published.keys() - {"prompt", "seed"}:
        assert getattr(params, name) == published[name].default
    assert 0 <= params.seed <= MAX_SEED
    assert VideoParams("an ox").seed != params.seed


@pytest.mark.parametrize("name", LIMITS)
def test_whole_numbers_have_limits(name: str) -> None:
    low, high = LIMITS[name]
    for value in (low, high):
        assert getattr(VideoParams("an ox", **{name: value}), name) == value
    wrong: list[Any] = [low - 1, high + 1, float(low + 1), str(low), True, None, math.nan, 10**400]
    for value in wrong:
        with pytest.raises(VideoParamsError, match=f"^{name} must be an integer from {low} to {high}, not "):
            VideoParams("an ox", **{name: value})


@pytest.mark.parametrize("value", [-0.1, 1000.1, math.nan, math.inf, "5", None, True])
def test_the_guidance_scale_is_a_number_within_limits(value: Any) -> None:
    with pytest.raises(VideoParamsError, match=r"^guidance_scale must be a number from 0 to 1000, not "):
        VideoParams("an ox", guidance_scale=value)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_prompts_are_strings(name: str) -> None:
    with pytest.raises(VideoParamsError, match=f"^{name} must be a string, not None"):
        VideoParams(**{"prompt": "an ox", name: None})  # type: ignore[arg-type]


def test_names_stand_for_samplers_and_levels() -> None:
    params = VideoParams("an ox", sampler="dpm++", step_cache="fast")  # type: ignore[arg-type]

    assert (params.sampler, params.step_cache) == (Sampler.DPM, StepCaching.FAST)
    with pytest.raises(VideoParamsError, match=r"^sampler must be one of unipc, dpm\+\+, euler, not 'ddim'"):
        VideoParams("an ox", sampler="ddim")  # type: ignore[arg-type]
    with pytest.raises(VideoParamsError, match=r"^step_cache must be one of exact, balanced, fast, not 3"):
        VideoParams("an ox", step_cache=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "loras", ["film", ["film"], None, [RequestLora("film")] * 2, [RequestLora("film")] * (MAX_LORAS + 1)]
)
def test_loras_are_a_bounded_list(loras: Any) -> None:
    with pytest.raises(VideoParamsError, match=r"^loras must "):
        VideoParams("an ox", loras=loras)


@pytest.mark.parametrize("name", ["", "../film", "film/x", "film\0", "-film", "a:b", "x" * 129, None, 3])
def test_a_loras_name_cannot_lead_out_of_a_folder(name: Any) -> None:
    with pytest.raises(VideoParamsError, match=r"^loras: .* cannot be the name of a LoRA"):
        RequestLora(name)


@pytest.mark.parametrize("strength", [0, -0.0, 4.01, -5, float("nan"), float("inf"), True, "1", None])
def test_a_loras_strength_is_bounded(strength: Any) -> None:
    with pytest.raises(VideoParamsError, match=r"^loras: the strength of film must be a number from -4 to 4 and not 0"):
        RequestLora("film", strength)


DIGEST = "0a" * 32


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, math.nan, math.inf, "0.5", None, True])
def test_the_strength_is_above_0_and_at_most_1(strength: Any) -> None:
    with pytest.raises(VideoParamsError, match=r"^strength must be a number above 0 and at most 1, not "):
        VideoParams("an ox", strength=strength)


@pytest.mark.parametrize(
    ("steps", "strength", "first"), [(16, 0.8, 4), (50, 0.8, 10), (4, 0.5, 2), (10, 1, 0), (10, 0.99, 1), (1, 1.0, 0)]
)
def test_a_video_leaves_out_the_first_steps(steps: int, strength: float, first: int) -> None:
    params = VideoParams("an ox", num_inference_steps=steps, strength=strength)

    assert params.first_step == 0
    assert replace(params, video=DIGEST).first_step == first


@pytest.mark.parametrize("steps", [1, 3, 7, 16, 50, 999, 1000])
def test_a_strength_of_which_no_step_is_left_is_refused(steps: int) -> None:
    with pytest.raises(VideoParamsError, match=r"^strength must be at least [\d.]+ where num_infer") as refused:
        VideoParams("an ox", num_inference_steps=steps, strength=0.0009, video=DIGEST)

    least = float(str(refused.value).split()[5])
    assert VideoParams("an ox", num_inference_steps=steps, strength=least, video=DIGEST).first_step < steps
    # it counts only with a video
    assert VideoParams("an ox", num_inference_steps=steps, strength=0.0009).first_step == 0


@pytest.mark.parametrize("video", ["", "0A" * 32, "0a" * 31, b"0a" * 32, 3])
def test_a_video_is_named_by_its_digest(video: Any) -> None:
    with pytest.raises(VideoParamsError, match=r"^video must be the digest of a video, not "):
        VideoParams("an ox", video=video)


@pytest.mark.parametrize("name", ["image", "last_image"])
def test_a_video_excludes_images(name: str) -> None:
    with pytest.raises(VideoParamsError, match=rf"^video must not be given together with {name}\.$"):
        VideoParams("an ox", video=DIGEST, **{name: DIGEST})  # type: ignore[arg-type]


def test_the_strength_is_a_fact_only_with_a_video() -> None:
    text = VideoParams("an ox", strength=0.5)

    assert not {"video", "strength"} & text.facts.keys()
    assert replace(text, video=DIGEST).facts == {**text.facts, "video": DIGEST, "strength": 0.5}


def test_the_image_mode_is_a_name_and_a_fact_only_if_there_is_one() -> None:
    text = VideoParams("an ox")
    params = replace(text, image_mode="first_frame")  # type: ignore[arg-type]

    assert params.image_mode is ImageMode.FIRST_FRAME
    assert "image_mode" not in text.facts
    assert params.facts == {**text.facts, "image_mode": "first_frame"}
    with pytest.raises(VideoParamsError, match=r"^image_mode must be one of first_frame, not 'last_frame'"):
        replace(text, image_mode="last_frame")  # type: ignore[arg-type]


def test_a_record_has_the_same_parameters() -> None:
    params = VideoParams("an ox", sampler=Sampler.EULER, loras=(RequestLora("film", 0.5),), seed=MAX_SEED)

    assert TypeAdapter(VideoParams).validate_python(json.loads(json.dumps(asdict(params)))) == params

"""A body is resolved to one video, or to a sentence that names the parameter and its limit."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.request import Sampler, StepCaching, VideoParams
from pipelines.models.catalogue import read_catalogue
from server.core.errors import InvalidParamsError
from server.service.requests import parameters
from server.service.requests.inputs import GivenInputs, InputImage

MEDIA = ("input_images", "image_url", "last_frame_image", "target_fps")
ENTRY = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
UNKNOWN = (0, 0)
"""The sides of an image that has yet to be fetched."""
UPRIGHT = read_catalogue()["wan-ai-wan2-1-i2v-14b-480p-diffusers"]


def resolve(**body: Any) -> VideoParams:
    return parameters.resolve(ENTRY, {"prompt": "an ox", **body}, max_prompt_chars=100)


def refusal(**body: Any) -> str:
    with pytest.raises(InvalidParamsError) as caught:
        resolve(**body)
    return str(caught.value)


def test_defaults_are_the_model_pages() -> None:
    params = resolve(seed=7)

    assert params == VideoParams("an ox", " ", 480, 832, 81, 16, 5.0, 7)
    assert resolve(height=None, seed=7, guidance_scale=None) == params


LIMITS = {
    "height": ("an integer", 1, 720),
    "width": ("an integer", 1, 1280),
    "num_inference_steps": ("an integer", 1, 100),
    "num_frames": ("an integer", 1, 120),
    "guidance_scale": ("a number", 0, 10),
    "seed": ("an integer", 0, 2**53 - 1),
}


@pytest.mark.parametrize("name", LIMITS)
def test_each_range_is_inclusive_and_its_error_names_it(name: str) -> None:
    kind, low, high = LIMITS[name]
    for value in (low, high):
        assert getattr(resolve(**{name: value}), name) == value
    sentence = f"{name} must be {kind} between {low} and {high}"
    for value in (low - 1, high + 1, str(low), True, [low], {"a": 1}, 10**400, -(10**400), float("nan"), float("inf")):
        assert refusal(**{name: value}) == sentence
    if kind == "an integer":
        assert refusal(**{name: 1.5}) == sentence
        assert getattr(resolve(**{name: float(low)}), name) == low


@pytest.mark.parametrize("level", ["exact", "balanced", "fast"])
def test_the_step_cache_is_as_asked_else_as_set(level: str) -> None:
    assert resolve(step_cache=level).step_cache == level
    set_to = parameters.resolve(ENTRY, {"prompt": "an ox", "step_cache": None}, 100, StepCaching(level))
    assert set_to.step_cache == level


@pytest.mark.parametrize("wrong", ["", "Fast", "quick", 1, True, ["fast"], {"fast": 1}])
def test_an_unknown_level_of_the_step_cache_is_refused(wrong: Any) -> None:
    assert refusal(step_cache=wrong) == "step_cache must be one of exact, balanced, fast"


@pytest.mark.parametrize("sampler", Sampler)
def test_the_sampler_is_as_asked_else_the_models(sampler: Sampler) -> None:
    assert resolve(sampler=str(sampler)).sampler is sampler
    assert resolve(sampler=None).sampler is None


@pytest.mark.parametrize("wrong", ["", "UniPC", "ddim", 1, True, ["euler"], {"euler": 1}])
def test_an_unknown_sampler_is_refused(wrong: Any) -> None:
    assert refusal(sampler=wrong) == "sampler must be one of unipc, dpm++, euler"


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_prompts_are_strings_of_bounded_length(name: str) -> None:
    assert refusal(**{name: 3}) == f"{name} must be a string"
    assert refusal(**{name: "x" * 101}) == f"{name} must be at most 100 characters long"
    assert getattr(resolve(**{name: "x" * 100}), name) == "x" * 100
    assert getattr(resolve(**{name: " x "}), name) == " x "


def test_the_known_sentences_about_prompts() -> None:
    start = "Getting model response error: 422 - Value error, "
    assert refusal(multi_prompt=["a"]) == start + "Cannot provide both 'prompt' and 'multi_prompt'."
    for missing in (None, [], "", " ", "\n\t\u3000"):
        assert refusal(prompt=missing) == start + "Either 'prompt' or 'multi_prompt' must be provided."
    # an empty negative prompt is one
    assert resolve(negative_prompt="").negative_prompt == ""


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"prompt": None, "multi_prompt": ["a"]}, f"multi_prompt is not supported by {ENTRY.id}"),
        *(({name: "https://a.b/c"}, f"{name} is not supported by {ENTRY.id}") for name in MEDIA),
        ({"target_fps": 30}, f"target_fps is not supported by {ENTRY.id}"),
        ({"resolution": "1080p"}, "resolution must be one of 480p, 720p"),
        ({"resolution": 480}, "resolution must be one of 480p, 720p"),
        ({"target_directory": "x" * 1025}, "target_directory must be a string of at most 1024 characters"),
        ({"generate_audio": 1}, "generate_audio must be a boolean"),
        ({"response_format": "gif"}, "response_format must be 'url' or 'b64_json'"),
        ({"response_format": ["url"]}, "response_format must be 'url' or 'b64_json'"),
        ({"target_repo": 3}, "target_repo must be a string of at most 1024 characters"),
        ({"duration": 0}, "duration must be a number of seconds above 0 and at most 7.5"),
        ({"duration": 8}, "duration must be a number of seconds above 0 and at most 7.5"),
        ({"duration": "5"}, "duration must be a number of seconds above 0 and at most 7.5"),
        ({"aspect_ratio": "wide"}, "aspect_ratio must be two whole numbers such as 16:9"),
        ({"aspect_ratio": "0:9"}, "aspect_ratio must be two whole numbers such as 16:9"),
        ({"aspect_ratio": 1.5}, "aspect_ratio must be two whole numbers such as 16:9"),
    ],
)
def test_what_cannot_be_honoured_is_named(body: dict[str, Any], sentence: str) -> None:
    assert refusal(**body) == sentence


def test_a_sound_needs_a_model_that_makes_it() -> None:
    deaf = ENTRY.model_copy(update={"model": replace(ENTRY.model, sound=None)})

    assert parameters.resolve(ENTRY, {"prompt": "an ox", "generate_audio": True}, 1000).generate_audio
    with pytest.raises(InvalidParamsError, match=f"generate_audio is not supported by {ENTRY.id}"):
        parameters.resolve(deaf, {"prompt": "an ox", "generate_audio": True}, 1000)
    with pytest.raises(InvalidParamsError, match="exclude each other"):
        parameters.resolve(ENTRY, {"prompt": "an ox", "generate_audio": True, "audio_url": "https://a.b/c"}, 1000)


def test_what_is_asked_for_without_effect_is_accepted() -> None:
    assert resolve(seed=7, generate_audio=False, fancy="yes", response_format="b64_json") == resolve(seed=7)
    absent = dict.fromkeys(MEDIA) | {"input_images": [], "multi_prompt": [], "prompt_extend": False}
    assert resolve(seed=7, **absent) == resolve(seed=7)


@pytest.mark.parametrize(("duration", "frames"), [(5, 80), (7.5, 120), (0.001, 1), (1, 16)])
def test_a_duration_is_frames_at_the_models_rate(duration: float, frames: int) -> None:
    assert resolve(duration=duration).num_frames == frames
    assert resolve(duration=duration, num_frames=9).num_frames == 9


@pytest.mark.parametrize(
    ("ratio", "size"),
    [("16:9", (842, 474)), ("1:1", (632, 632)), ("9:16", (404, 720)), ("832:480", (832, 480)), ("4:3", (730, 548))],
)
def test_an_aspect_ratio_keeps_the_defaults_pixel_count(ratio: str, size: tuple[int, int]) -> None:
    params = resolve(aspect_ratio=ratio)

    assert (params.width, params.height) == size


@pytest.mark.parametrize(
    ("body", "size"),
    [
        ({"resolution": "480p"}, (832, 480)),
        ({"resolution": "720P"}, (1280, 720)),
        ({"resolution": "720p", "aspect_ratio": "16:9"}, (1280, 720)),
        ({"resolution": "480p", "aspect_ratio": "9:16"}, (480, 832)),
        ({"resolution": "480p", "aspect_ratio": "1:1"}, (632, 632)),
        ({"resolution": "480p", "aspect_ratio": "4:3"}, (730, 548)),
        ({"resolution": "720p", "width": 640}, (640, 360)),
        ({"resolution": "720p", "width": 640, "aspect_ratio": "1:1"}, (640, 640)),
        ({"resolution": "720p", "width": 64, "height": 32}, (64, 32)),
    ],
)
def test_a_resolution_is_a_number_of_pixels(body: dict[str, Any], size: tuple[int, int]) -> None:
    # this model allows 1280x720, so a portrait of 832 lines is one of another
    if size[1] > 720:
        assert refusal(**body).startswith("resolution 480p and aspect_ratio 9:16 needs a size of 480x832, beyond")
        return
    params = resolve(**body)

    assert (params.width, params.height) == size


def test_a_resolution_beyond_the_models_limits_is_refused() -> None:
    small = read_catalogue()["wan-ai-wan2-1-t2v-1-3b-diffusers"]

    with pytest.raises(InvalidParamsError, match=r"^resolution 720p needs a size of 1280x720, beyond width 1 to 640"):
        parameters.resolve(small, {"prompt": "an ox", "resolution": "720p"}, 100)


def test_given_sides_win_over_the_aspect_ratio() -> None:
    params = resolve(aspect_ratio="1:1", width=100, height=50)
    assert (params.width, params.height) == (100, 50)
    params = resolve(aspect_ratio="2:1", width=100)
    assert (params.width, params.height) == (100, 50)
    params = resolve(aspect_ratio="2:1", height=100)
    assert (params.width, params.height) == (200, 100)
    assert "beyond width 1 to 1280" in refusal(aspect_ratio="4:1", height=720)


@given(wide=st.integers(1, 99_999), high=st.integers(1, 99_999))
def test_any_aspect_ratio_gives_a_size_within_the_limits_or_a_sentence(wide: int, high: int) -> None:
    try:
        params = resolve(aspect_ratio=f"{wide}:{high}")
    except InvalidParamsError as error:
        assert "aspect_ratio" in str(error)
    else:
        assert 1 <= params.width <= 1280
        assert 1 <= params.height <= 720


def test_num_generations_has_the_contracts_sentence() -> None:
    assert parameters.num_generations({}, 4) == 1
    assert parameters.num_generations({"num_generations": None}, 4) == 1
    assert [parameters.num_generations({"num_generations": n}, 4) for n in (1, 4, 2.0)] == [1, 4, 2]
    for value in (0, 5, "2", True, 1.5, []):
        with pytest.raises(InvalidParamsError, match=r"^num_generations must be an integer between 1 and 4$"):
            parameters.num_generations({"num_generations": value}, 4)


def test_a_seed_that_is_no_number_is_left_for_the_sentence() -> None:
    assert parameters.with_seed({"seed": "x"}, 5, 1) == {"seed": "x"}
    assert parameters.with_seed({"seed": 3}, 5, 1) == {"seed": 4}
    assert parameters.with_seed({"seed": None}, 5, 1) == {"seed": 6}


@pytest.mark.parametrize(
    ("image", "given", "size"),
    [
        ((1600, 1200), {}, (730, 548)),
        ((1600, 1200), {"resolution": "720p"}, (960, 720)),
        ((1080, 1920), {"resolution": "720p"}, (404, 720)),
        ((1080, 1920), {"resolution": "480p"}, (404, 720)),
        ((1000, 1000), {"resolution": "720p"}, (720, 720)),
        ((3000, 1000), {"resolution": "720p"}, (1280, 426)),
        ((4000, 1), {}, (1264, 316)),
        ((1, 4000), {}, (180, 720)),
        ((1000, 1000), {"width": 1280}, (1280, 720)),
        ((1000, 2000), {"width": 300}, (300, 600)),
        ((3000, 1000), {"height": 720}, (1280, 720)),
        ((1000, 1000), {"width": 64, "height": 32}, (64, 32)),
        ((1000, 1000), {"aspect_ratio": "16:9"}, (842, 474)),
    ],
)
def test_with_an_image_a_video_has_its_ratio_within_the_limits(
    image: tuple[int, int], given: dict[str, Any], size: tuple[int, int]
) -> None:
    kept = InputImage("0" * 64, *image)
    params = parameters.resolve(ENTRY, {"prompt": "an ox", **given}, max_prompt_chars=100, inputs=GivenInputs(kept))

    assert (params.width, params.height) == size
    assert params.image == kept.digest


@pytest.mark.parametrize(
    ("image", "given", "size"),
    [
        ((1600, 900), {}, (832, 468)),
        ((900, 1600), {}, (468, 832)),
        ((1000, 1000), {}, (630, 632)),
        ((1000, 1000), {"width": 700}, (700, 570)),
        ((1000, 1000), {"resolution": "720p"}, (630, 632)),
        ((1000, 1000), {"width": 480, "height": 832}, (480, 832)),
        ((1000, 1700), {"height": 832}, (480, 832)),
        ((1000, 700), {"width": 701}, (701, 490)),
        (UNKNOWN, {"height": 832}, (480, 832)),
        (UNKNOWN, {"resolution": "480p", "height": 832}, (480, 832)),
        (None, {"aspect_ratio": "9:16"}, (468, 832)),
        (None, {"aspect_ratio": "1:1"}, (630, 632)),
        (None, {"resolution": "480p", "aspect_ratio": "9:16"}, (480, 832)),
    ],
)
def test_a_model_of_both_orientations_keeps_to_its_pixels(
    image: tuple[int, int] | None, given: dict[str, Any], size: tuple[int, int]
) -> None:
    kept = None if image in (None, UNKNOWN) else InputImage("0" * 64, *image)
    given = given if image is None else {"input_image": "sha256:0", **given}

    params = parameters.resolve(UPRIGHT, {"prompt": "an ox", **given}, max_prompt_chars=100, inputs=GivenInputs(kept))

    assert (params.width, params.height) == size
    assert params.width * params.height <= 832 * 480


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ({"width": 832, "height": 832}, "832x832"),
        ({"width": 832}, "832x482"),
        ({"aspect_ratio": "1:1", "width": 700}, "700x700"),
    ],
)
def test_more_pixels_than_a_model_makes_are_refused(given: dict[str, Any], size: str) -> None:
    given = {"height": 482} | given if "aspect_ratio" not in given else given
    sentence = f"width times height must be at most 399360 for {UPRIGHT.id}, not {size}"

    with pytest.raises(InvalidParamsError, match=f"^{sentence}$"):
        parameters.resolve(UPRIGHT, {"prompt": "an ox", **given}, max_prompt_chars=100)

"""What a recipe has is canonical, bounded and nobody's secret; one from elsewhere is taken at its word nowhere."""

import json
from typing import Any

import pytest

from pipelines.core.request import MAX_LORAS, RequestLora, StepCaching, VideoParams
from server import __version__
from server.core.settings.sections import RecipeContents
from server.recipe.again import differences, request_of
from server.recipe.recipe import MAX_BYTES, MAX_FACT_CHARS, MAX_FACTS, Recipe, RecipeError, compose, parse

FULL = RecipeContents.FULL
FACTS = {"device": "cpu", "torch": "2.13.0", "loras": ""}


def params(**changes: Any) -> VideoParams:
    return VideoParams(**{"prompt": "an ox", "seed": 7, "width": 64, "height": 64, "num_frames": 5} | changes)


def composed(made_of: VideoParams | None = None, asked: str | None = None, **changes: Any) -> str:
    arguments: dict[str, Any] = {"contents": FULL, "model": "a-model", "fingerprint": FACTS} | changes
    text = compose(params=made_of or params(), asked_prompt=asked, **arguments)
    assert text is not None
    return text


def test_a_recipe_is_canonical_and_reads_back() -> None:
    text = composed(params(prompt="an ox \n; = # é 水"), repo="Wan-AI/Wan2.1", revision="main")
    content = json.loads(text)

    assert text == json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert parse(text).canonical() == text
    assert (content["version"], content["recipe"], content["model"]) == (__version__, 1, "a-model")
    assert (content["repo"], content["revision"]) == ("Wan-AI/Wan2.1", "main")
    assert content["fingerprint"] == {"device": "cpu", "torch": "2.13.0"}
    assert content["parameters"]["prompt"] == "an ox \n; = # é 水"
    assert "\n" not in text


@pytest.mark.parametrize("repo", ["/srv/weights/ours", "~/weights", "C:\\weights", "weights", "a/b/c"])
def test_a_folder_of_weights_is_not_told(repo: str) -> None:
    assert repo not in composed(repo=repo, revision="main")
    assert "main" not in composed(repo=repo, revision="main")


def test_inputs_are_named_by_their_digests() -> None:
    made_of = params(video="a" * 64, audio="b" * 64, strength=0.5)

    content = json.loads(composed(made_of))

    assert content["inputs"] == {"input_video": "a" * 64, "input_audio": "b" * 64}
    assert content["parameters"]["strength"] == 0.5
    assert "strength" not in json.loads(composed())["parameters"]


def test_the_sampler_of_a_model_is_told_as_if_it_had_been_asked_for() -> None:
    facts = {**FACTS, "sampler": "unipc"}

    own, asked, other = (composed(params(sampler=each), fingerprint=facts) for each in (None, "unipc", "euler"))

    assert own == asked != other
    assert json.loads(own)["parameters"]["sampler"] == "unipc"


def test_the_original_and_the_enhanced_prompt_are_there() -> None:
    recipe = parse(composed(params(prompt="a huge ox"), asked="an ox"))

    assert (recipe.parameters.prompt, recipe.enhanced_prompt) == ("an ox", "a huge ox")
    # no language model is asked again
    assert request_of(recipe)["prompt"] == "a huge ox"


def test_prompts_or_all_may_be_left_out() -> None:
    made_of = params(prompt="secret-1", negative_prompt="secret-2", generate_audio=True, audio_prompt="secret-3")
    text = composed(made_of, "secret-4", contents=RecipeContents.WITHOUT_PROMPTS)

    assert "secret" not in text
    assert not parse(text).has_prompts
    assert json.loads(text)["parameters"]["seed"] == 7
    assert compose(RecipeContents.OFF, "a-model", made_of, None, FACTS) is None


def test_no_recipe_is_larger_than_its_limit() -> None:
    # of each character of a prompt JSON makes at most 6 bytes, of others UTF-8 has at most 4
    longest = "\x01" * 32_000
    loras = tuple(RequestLora(f"{'é' * 127}{number}", 0.1 + number / 1000) for number in range(MAX_LORAS))
    facts = {f"{number:02}{'n' * 62}": "f" * (MAX_FACT_CHARS - 1) for number in range(MAX_FACTS)}
    few = {"device": "f" * MAX_FACT_CHARS}

    within = composed(params(prompt="水" * 32_000, loras=loras), fingerprint=few)
    without = composed(params(prompt=longest, negative_prompt=longest, loras=loras), longest, fingerprint=few)

    assert len(within.encode()) <= MAX_BYTES
    assert parse(within).has_prompts
    assert not parse(without).has_prompts
    # the largest of all: facts are 64 of 4,096 characters at most, and with wider characters nothing is written
    huge = compose(FULL, "m", params(prompt=longest, loras=loras), longest, facts)
    assert huge is None or len(huge.encode()) <= MAX_BYTES


def hostile(**changes: Any) -> str:
    return json.dumps({**json.loads(composed()), **changes})


def within(part: str, **changes: Any) -> str:
    content = json.loads(composed())
    return json.dumps({**content, part: {**content.get(part, {}), **changes}})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "its comment is not a recipe of Paddock"),
        ("made with love", "its comment is not a recipe of Paddock"),
        ("[" * 100_000, "its comment is not a recipe of Paddock"),
        ('{"recipe":' * 10_000, "its comment is not a recipe of Paddock"),
        ("[]", "its comment is not a recipe of Paddock"),
        (b"\xff\xfe{}", "its comment is not a recipe of Paddock"),
        ('{"a":1}', "its comment is not a recipe of format 1"),
        (hostile(recipe=2, later="field"), "its comment is not a recipe of format 1"),
        (" " * (MAX_BYTES + 1), "more than 256 KiB"),
        (hostile(webhook_url="https://example.org"), "the field 'webhook_url' of its recipe is no field of a recipe"),
        (within("parameters", target_repo="x"), "'parameters.target_repo' of its recipe is no field"),
        (within("parameters", input_image="https://example.org/a.png"), "'parameters.input_image'"),
        (within("inputs", input_image="https://example.org/a.png"), "'inputs.input_image' of its recipe is not valid"),
        (within("inputs", input_image="/etc/passwd"), "'inputs.input_image' of its recipe is not valid"),
        (within("inputs", input_image="a" * 63), "'inputs.input_image' of its recipe is not valid"),
        (within("inputs", target_repo="a" * 64), "'inputs.target_repo"),
        (within("parameters", width="64"), "'parameters.width' of its recipe is not valid"),
        (within("parameters", width=64.5), "'parameters.width' of its recipe is not valid"),
        (within("parameters", width=2**40), "'parameters.width' of its recipe is not valid"),
        (within("parameters", seed=-1), "'parameters.seed' of its recipe is not valid"),
        (within("parameters", prompt=["an ox"]), "'parameters.prompt' of its recipe is not valid"),
        (within("parameters", loras=[{"name": "a", "strength": 1.0, "url": "x"}]), "'parameters.loras.0.url'"),
        (within("parameters", loras=[{"name": "a", "strength": 1.0}] * 9), "'parameters.loras' of its recipe"),
        (within("fingerprint", torch={"a": {}}), "'fingerprint.torch' of its recipe is not valid"),
        (within("fingerprint", torch="x" * 5000), "'fingerprint.torch' of its recipe is not valid"),
    ],
)
def test_a_hostile_recipe_is_refused_in_one_sentence(text: str | bytes, sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        parse(text)

    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_what_is_printed_has_no_control_codes_and_is_still_json() -> None:
    text = composed(params(prompt="an \x1b[31mox\x9b \u202e水"))

    shown = parse(text).readable()

    assert all(each.isprintable() or each == "\n" for each in shown)
    assert "水" in shown
    assert json.loads(shown) == json.loads(text)


def test_a_request_has_what_the_recipe_says_and_nothing_else() -> None:
    made_of = params(step_cache=StepCaching.FAST, run_fast=True, loras=(RequestLora("slow", 0.5),), image_mode=None)

    assert request_of(parse(composed(made_of))) == {
        "prompt": "an ox",
        "negative_prompt": " ",
        "width": 64,
        "height": 64,
        "num_frames": 5,
        "num_inference_steps": 16,
        "guidance_scale": 5.0,
        "seed": 7,
        "step_cache": "fast",
        "run_fast": True,
        "loras": [{"name": "slow", "strength": 0.5}],
    }
    extending = request_of(parse(composed(params(extends="a" * 64))))
    assert not {"width", "height"} & extending.keys()


def test_what_differs_is_told_by_its_names() -> None:
    def recipe(made_of: VideoParams | None = None, **facts: str) -> Recipe:
        return parse(composed(made_of, fingerprint={**FACTS, **facts}))

    assert differences(recipe(), recipe()) == []
    assert differences(recipe(), recipe(device="NVIDIA H200", torch="2.14.0", plan="streamed")) == [
        "device (cpu there, NVIDIA H200 here)",
        "plan (none there, streamed here)",
        "torch (2.13.0 there, 2.14.0 here)",
    ]
    assert differences(recipe(), recipe(params(seed=8))) == ["seed (7 there, 8 here)"]

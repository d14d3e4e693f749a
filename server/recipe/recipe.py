"""What a recipe has, how it is written and how one from elsewhere is read."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.core.request import LIMITS, MAX_GUIDANCE_SCALE, MAX_LORAS, ImageMode, Sampler, StepCaching, VideoParams
from server import __version__
from server.core.settings.sections import RecipeContents

FORMAT: Literal[1] = 1
"""The version of the format. A recipe of a later one is refused."""

MAX_BYTES = 2**18
"""Limit of a recipe in UTF-8."""

MAX_FACTS = 64
MAX_FACT_CHARS = 4096

InputName = Literal["input_image", "end_image_url", "input_video", "extend_from", "input_audio"]

INPUTS: Mapping[str, InputName] = {
    "image": "input_image",
    "last_image": "end_image_url",
    "video": "input_video",
    "extends": "extend_from",
    "audio": "input_audio",
}
"""The parameters of requests for the inputs that a video's parameters name by their digests."""

_PROMPTS = ("prompt", "negative_prompt", "audio_prompt")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(min_length=1, max_length=256)]


class RecipeError(Exception):
    """A file has no recipe that can be used; `str()` is a sentence that says why."""


def _whole(name: str) -> Any:
    low, high = LIMITS[name]
    return Field(ge=low, le=high)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LoraChoice(_Part):
    """A LoRA and its strength."""

    name: _Name
    strength: float


class Parameters(_Part):
    """The parameters of a request, resolved, by their names in the API. A recipe without prompts lacks these."""

    prompt: str | None = None
    negative_prompt: str | None = None
    audio_prompt: str | None = None
    width: int = _whole("width")
    height: int = _whole("height")
    num_frames: int = _whole("num_frames")
    num_inference_steps: int = _whole("num_inference_steps")
    guidance_scale: float = Field(ge=0, le=MAX_GUIDANCE_SCALE)
    seed: int = _whole("seed")
    step_cache: StepCaching
    run_fast: Literal[True] | None = None
    generate_audio: Literal[True] | None = None
    sampler: Sampler | None = None
    image_mode: ImageMode | None = None
    strength: float | None = Field(default=None, gt=0, le=1)
    loras: tuple[LoraChoice, ...] | None = Field(default=None, min_length=1, max_length=MAX_LORAS)


class Recipe(_Part):
    """Everything that a video was made of.

    `version` is Paddock's. `inputs` has the digests of inputs by their parameters. `enhanced_prompt` is what a language
    model made of the prompt. `fingerprint` has what the video depends on besides its request, without times of files.
    """

    recipe: Literal[1]
    version: _Name
    model: _Name
    repo: _Name | None = None
    revision: _Name | None = None
    parameters: Parameters
    inputs: dict[InputName, _Digest] = {}
    enhanced_prompt: str | None = None
    fingerprint: dict[
        Annotated[str, Field(max_length=64)],
        Annotated[str, Field(max_length=MAX_FACT_CHARS)],
    ] = Field(max_length=MAX_FACTS)

    @property
    def has_prompts(self) -> bool:
        """Whether its prompts were not left out."""
        return self.parameters.prompt is not None

    def canonical(self) -> str:
        """The recipe as it is in a file: sorted keys, no spaces, no control characters, absent fields left out."""
        content = self.model_dump(mode="json", exclude_none=True)
        if not self.inputs:
            del content["inputs"]
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def readable(self) -> str:
        """The recipe in lines. Characters that are not printable, such as those of ANSI codes, are escaped."""
        text = json.dumps(json.loads(self.canonical()), indent=2, ensure_ascii=False)
        # outside of strings all are printable
        return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)

    def without_prompts(self) -> "Recipe":
        """The recipe without what its sender wrote and what was made of it."""
        parameters = self.parameters.model_copy(update=dict.fromkeys(_PROMPTS))
        return self.model_copy(update={"parameters": parameters, "enhanced_prompt": None})


def compose(
    contents: RecipeContents,
    model: str,
    params: VideoParams,
    asked_prompt: str | None,
    fingerprint: Mapping[str, str],
    repo: str | None = None,
    revision: str | None = None,
) -> str | None:
    """Return the recipe of a video as it is written to its file; None if nothing is.

    `asked_prompt` is the prompt that that of `params` was made of, `repo` the hub repository of the weights, or None.
    Prompts with which it would exceed MAX_BYTES are left out, so that it never does.
    """
    if contents is RecipeContents.OFF:
        return None
    is_of_hub = repo is not None and _HUB_NAME.fullmatch(repo) is not None
    facts = {name[:64]: fact[:MAX_FACT_CHARS] for name, fact in sorted(fingerprint.items())[:MAX_FACTS] if fact}
    recipe = Recipe(
        recipe=FORMAT,
        version=__version__,
        model=model[:256],
        repo=repo if is_of_hub else None,
        revision=revision if is_of_hub else None,
        parameters=_parameters(params, params.prompt if asked_prompt is None else asked_prompt, facts),
        inputs={INPUTS[name]: digest for name in INPUTS if (digest := getattr(params, name)) is not None},
        enhanced_prompt=None if asked_prompt in (None, params.prompt) else params.prompt,
        fingerprint=facts,
    )
    written = recipe.canonical()
    if contents is RecipeContents.WITHOUT_PROMPTS or len(written.encode()) > MAX_BYTES:
        written = recipe.without_prompts().canonical()
    return written if len(written.encode()) <= MAX_BYTES else None


def parse(text: str | bytes) -> Recipe:
    """Return the recipe that a file's comment is. Raises RecipeError."""
    if len(text) > MAX_BYTES or (isinstance(text, str) and len(text.encode(errors="replace")) > MAX_BYTES):
        raise RecipeError(f"its recipe has more than {MAX_BYTES // 1024} KiB")
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        raise RecipeError(_reason(error)) from None


def _reason(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] in ("json_invalid", "model_type"):
        return "its comment is not a recipe of Paddock"
    # of the faults of a later format its number explains the others
    if any(each["loc"] == ("recipe",) for each in found):
        return f"its comment is not a recipe of format {FORMAT}, the one that this version of Paddock reads"
    first = found[0]
    name = ".".join(str(part) for part in first["loc"])[:100]
    problem = "is no field of a recipe" if first["type"] == "extra_forbidden" else f"is not valid: {first['msg']}"
    return f"the field {name!a} of its recipe {problem}"


def _parameters(params: VideoParams, prompt: str, facts: Mapping[str, str]) -> Parameters:
    # a request that names none has the model's own
    sampler = params.sampler or (Sampler(facts["sampler"]) if "sampler" in facts else None)
    return Parameters(
        prompt=prompt,
        negative_prompt=params.negative_prompt,
        audio_prompt=params.audio_prompt,
        width=params.width,
        height=params.height,
        num_frames=params.num_frames,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=float(params.guidance_scale),
        seed=params.seed,
        step_cache=params.step_cache,
        run_fast=True if params.run_fast else None,
        generate_audio=True if params.generate_audio else None,
        sampler=sampler,
        image_mode=params.image_mode,
        strength=None if params.video is None else float(params.strength),
        loras=tuple(LoraChoice(name=lora.name, strength=float(lora.strength)) for lora in params.loras) or None,
    )

"""Builds the generations that a request asks for, before they are recorded."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import uuid4

from pipelines.core.request import VideoParams
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.core.generation import ENHANCED_PROMPT, Enhancement, Generation, Status, with_words
from server.core.settings.settings import Settings
from server.enhance.configured import SETTINGS
from server.enhance.styles import Styles, inspired
from server.service.requests import echo, parameters
from server.service.requests.image_models import ImageModels
from server.service.requests.input_sources import InputSources
from server.service.requests.inputs import (
    AUDIO_NAMES,
    IMAGE,
    LAST_IMAGES,
    VIDEO,
    GivenInputs,
    Input,
    InputAudio,
    InputVideo,
)
from server.service.requests.request import Request

NOT_ENHANCED = f"The prompt was not enhanced: this server has no language model ({SETTINGS})."
"""The warning of a model's file that would have all prompts rewritten."""

NO_ROOM = "The prompt has no room for the words of a style: inspiration had no effect."
"""The warning where no language model can shorten it."""

_SAME_SECONDS = 0.1


class GenerationBuilder:
    """Builds generations, with style cards from `styles`. `accepted_by` is the name of this server.

    `can_enhance`: prompts can be rewritten here; `can_inspire`: in the style of a card, too.
    """

    def __init__(
        self,
        settings: Settings,
        sources: InputSources,
        image_models: ImageModels,
        styles: Styles,
        accepted_by: str | None,
        *,
        can_enhance: bool = False,
        can_inspire: bool = False,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._image_models = image_models
        self._styles = styles
        self._accepted_by = accepted_by
        self._can_enhance = can_enhance
        self._can_inspire = can_inspire

    async def build(self, request: Request) -> list[Generation]:
        """Build the generations of a request, and keep its inputs. They await those that have to be fetched.

        Of a strict request invalid parameters raise InvalidParamsError; of others they give generations that have
        failed with the same sentence. Raises InvalidParamsError for the number of them, and UnavailableError.
        """
        count = parameters.num_generations(request.body, self._settings.max_num_generations)
        base = parameters.random_seed()
        bodies = [parameters.with_seed(request.body, base, offset) for offset in range(count)]
        kept = echo.echo(request.entry, bodies[0], self._settings.max_prompt_chars)
        try:
            await self._check_sound(request)
            inputs = await self._given_inputs(request)
        except InvalidParamsError as error:
            if request.is_strict:
                raise
            return [self._failed(self._new(request, body, kept), error) for body in bodies]
        new = [self._generation(request, body, kept, inputs) for body in bodies]
        return self._enhanced(request, new)

    def check(self, request: Request) -> VideoParams:
        """The parameters of a request's first generation, as far as they are known without its inputs.

        Raises InvalidParamsError as `build` does of a strict request.
        """
        parameters.num_generations(request.body, self._settings.max_num_generations)
        params = self._params(request, request.body, GivenInputs())
        self._enhances(request)
        return params

    def complete(self, entry: CatalogueEntry, generation: Generation, kept: Input) -> Generation:
        """A generation that awaited an input, with the input. It may await the last image next, or its prompt."""
        assert generation.params is not None, "a generation without valid parameters awaits nothing"
        if isinstance(kept, InputAudio):
            # what it is heard with comes before what it begins with, ends with, or is made of
            awaited = (generation.parameters.get(name) for name in (IMAGE, LAST_IMAGES[0], VIDEO))
            following = next((url for url in awaited if isinstance(url, str)), None)
            params = replace(generation.params, audio=kept.digest)
            ready = replace(generation, params=params, awaited_input=following or _words(generation))
            return _warned(ready, (*kept.warnings, *_about_sound(entry, params, kept)))
        if generation.params.image is not None or generation.params.extends is not None:
            params = replace(generation.params, last_image=kept.digest)
            return replace(_warned(generation, kept.warnings), params=params, awaited_input=_words(generation))
        params = parameters.with_first_input(entry, generation.parameters, generation.params, kept)
        warned = _warned(generation, _warnings(entry, generation.parameters, params, [kept]))
        last = generation.parameters.get(LAST_IMAGES[0])
        following = last if params.last_image is None else None
        return replace(warned, params=params, awaited_input=following or _words(generation))

    async def _check_sound(self, request: Request) -> None:
        """Raise InvalidParamsError if no weights are here that make the sound that a request asks for."""
        sound = request.entry.model.sound
        # of the demo it is its own, and on a cluster the hosts have it
        if sound is None or self._settings.demo or self._settings.ray_address is not None:
            return
        if echo.asks_for_sound(request.body):
            await self._image_models.check_installed(sound, echo.GENERATE_AUDIO)

    async def _given_inputs(self, request: Request) -> GivenInputs:
        """Check and keep the inputs of a request. What takes less time is checked first."""
        self._sources.check(request)
        if not request.has_inputs:
            return GivenInputs()
        self._params(request, request.body, GivenInputs())
        self._enhances(request)
        if request.entry is not request.asked:
            await self._image_models.check_installed(request.entry.model, request.named(IMAGE, echo.EXTEND)[0])
        return await self._sources.take(request)

    def _generation(
        self, request: Request, body: parameters.Body, kept: Mapping[str, object], inputs: GivenInputs
    ) -> Generation:
        generation = self._new(request, body, kept)
        try:
            params = self._params(request, body, inputs)
            self._enhances(request)
        except InvalidParamsError as error:
            if request.is_strict:
                raise
            return self._failed(generation, error)
        warnings = _warnings(request.entry, body, params, inputs.kept)
        if inputs.extended is not None and inputs.audio is None and not params.generate_audio:
            warnings += inputs.extended.warnings
        generation = replace(_warned(generation, warnings), params=params)
        if inputs.extended is not None:
            # the last frame of the one is the first of the other
            joined = {echo.JOINED_FRAMES: inputs.extended.num_frames + params.num_frames - 1}
            generation = replace(generation, parameters=generation.parameters | joined)
        if not (urls := inputs.urls):
            return generation
        # kept whatever else of the request is not: the size is decided by them when the input is known
        needed = {name: body[name] for name in parameters.SIZES if not echo.is_absent(body.get(name))}
        shown = {**generation.parameters, **needed, **urls}
        return replace(generation, parameters=shown, awaited_input=next(iter(urls.values())))

    def _enhances(self, request: Request) -> bool:
        """Whether the prompt is to be rewritten. Raises InvalidParamsError."""
        asks, inspires = echo.asks_to_enhance(request.body), echo.asks_for_inspiration(request.body)
        # without a model it is done with the words of a card
        if asks and not self._can_enhance and not inspires:
            name = request.named(*echo.ENHANCE_NAMES)[0]
            raise InvalidParamsError(
                f"{name} needs a language model, which this server does not have. "
                f"Its operator names one with the {SETTINGS}"
            )
        return request.asked.api.enhance_prompt if asks is None else asks

    def _enhanced(self, request: Request, new: list[Generation]) -> list[Generation]:
        """The generations of a request, which share one rewritten prompt, if it is to be rewritten."""
        if all(each.is_terminal for each in new):
            return new
        if echo.asks_for_inspiration(request.body):
            return [each if each.is_terminal else self._inspired(each) for each in new]
        if not self._enhances(request):
            return new
        if not self._can_enhance:
            return [_warned(each, (NOT_ENHANCED,)) for each in new]
        seed = next(each.params.seed for each in new if each.params is not None)
        enhancement = Enhancement(new[0].id, seed)
        return [
            each
            if each.is_terminal
            else replace(each, enhancement=enhancement, awaited_input=each.awaited_input or ENHANCED_PROMPT)
            for each in new
        ]

    def _inspired(self, generation: Generation) -> Generation:
        """A generation that gets a style card by its own seed, and with it a prompt of its own."""
        params = generation.params
        assert params is not None, "its parameters are valid"
        style = self._styles.chosen(params.prompt, params.seed)
        enhancement = Enhancement(generation.id, params.seed, style=style.id)
        if self._can_inspire:
            awaited = generation.awaited_input or ENHANCED_PROMPT
            return replace(generation, enhancement=enhancement, awaited_input=awaited)
        words = inspired(params.prompt, style, self._settings.max_prompt_chars)
        if words is None:
            return _warned(generation, (NO_ROOM,))
        return with_words(replace(generation, enhancement=enhancement), words)

    def _params(self, request: Request, body: parameters.Body, inputs: GivenInputs) -> VideoParams:
        settings = self._settings
        return parameters.resolve(
            request.entry, body, settings.max_prompt_chars, settings.step_cache, request.loras, inputs
        )

    def _new(self, request: Request, body: parameters.Body, kept: Mapping[str, object]) -> Generation:
        """A generation of a request; `kept` is what is echoed of it, which differs by its seed only."""
        return Generation(
            id=str(uuid4()),
            tenant=request.tenant,
            origin=request.origin,
            model=request.entry.id,
            asked_model=None if request.entry is request.asked else request.asked.id,
            status=Status.QUEUED,
            parameters={
                **{name: body["seed"] if name == "seed" else value for name, value in kept.items()},
                **request.notes,
            },
            enqueued_at=time.time(),
            accepted_by=self._accepted_by,
            target_namespace=echo.text(body, "target_namespace"),
            target_repo=echo.text(body, "target_repo"),
            target_directory=echo.text(body, "target_directory"),
            warnings=echo.warnings_about(request.entry, body),
        )

    @staticmethod
    def _failed(generation: Generation, error: InvalidParamsError) -> Generation:
        return replace(generation, status=Status.FAILED, error_message=str(error), completed_at=generation.enqueued_at)


def _words(generation: Generation) -> str | None:
    """What a generation awaits that has all its inputs."""
    return None if generation.enhancement is None or generation.enhancement.prompt is not None else ENHANCED_PROMPT


def _warned(generation: Generation, warnings: tuple[str, ...]) -> Generation:
    return replace(generation, warnings=generation.warnings + warnings)


def _warnings(
    entry: CatalogueEntry, body: parameters.Body, params: VideoParams, kept: Sequence[Input]
) -> tuple[str, ...]:
    """What the sender of inputs should know about them."""
    about = [warning for each in kept for warning in each.warnings]
    for each in kept:
        if isinstance(each, InputVideo):
            about += parameters.about_length(entry, body, params, each)
        if isinstance(each, InputAudio):
            about += _about_sound(entry, params, each)
    return tuple(about)


def _about_sound(entry: CatalogueEntry, params: VideoParams, sound: InputAudio) -> tuple[str, ...]:
    """A sentence if a sound ends before its video. Of one that is joined to another the length is not known here."""
    seconds = params.num_frames / entry.model.fps
    if params.extends is not None or sound.seconds >= seconds - _SAME_SECONDS:
        return ()
    return (f"{AUDIO_NAMES[0]} has {sound.seconds:.1f} seconds and the video {seconds:.1f}: silence follows it.",)

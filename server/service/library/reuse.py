"""Requests that are made of earlier generations: their settings, their inputs, and their videos as inputs."""

from collections.abc import Mapping
from typing import Any

from pipelines.core.request import VideoParams
from pipelines.models.catalogue import CatalogueEntry
from server.core.errors import InvalidParamsError
from server.core.generation import Generation, Status
from server.service.requests.echo import JOINED_FRAMES, REMIXED_FROM, TARGETS, WEBHOOK
from server.service.requests.finished import FinishedVideos, frames_in
from server.service.requests.inputs import (
    AUDIO_NAMES,
    IMAGE,
    INPUTS,
    LAST_IMAGES,
    VIDEO,
    InputAudio,
    InputImage,
    InputVideo,
)
from server.service.requests.uploads import Uploads

_LENGTHS = ("duration", "num_frames")
_SIZES = ("width", "height", "aspect_ratio", "resolution")
_OF_ONE = ("prompt", "seed", "num_generations", "extend_from")


class Reuse:
    """Bodies of requests that repeat what a completed generation of the same tenant was made with."""

    def __init__(self, uploads: Uploads, finished: FinishedVideos, catalogue: Mapping[str, CatalogueEntry]) -> None:
        self._uploads = uploads
        self._finished = finished
        self._catalogue = catalogue

    def again(self, generation: Generation) -> dict[str, Any]:
        """The body of a request for the same video but for its prompt, with its seed, its size and its inputs.

        Raises InvalidParamsError.
        """
        params = _completed(generation)
        body = _without(generation.parameters, (*_LENGTHS, *_SIZES, "prompt"))
        body |= {"seed": params.seed, "width": params.width, "height": params.height, "num_frames": params.num_frames}
        targets = (generation.target_namespace, generation.target_repo, generation.target_directory)
        body |= {name: value for name, value in zip(TARGETS, targets, strict=True) if value is not None}
        return {**body, "model": generation.model_name, **self._inputs_of(generation)}

    def settings(self, generation: Generation) -> dict[str, Any]:
        """The body of a request with its model and settings, for a video of another seed, size, length and input.

        Raises InvalidParamsError.
        """
        _completed(generation)
        body = _without(generation.parameters, (*_LENGTHS, *_SIZES, *_OF_ONE, "strength"))
        return {**body, "model": generation.model_name}

    def shape(self, generation: Generation) -> dict[str, int]:
        """The size and the length of a completed video, as far as its model makes one at once. Raises as `settings`."""
        params, entry = _completed(generation), self._catalogue.get(generation.model)
        most = None if entry is None else entry.api.size("maximum")[2]
        frames = frames_in(generation)
        return {
            "width": params.width,
            "height": params.height,
            "num_frames": frames if most is None else min(frames, most),
        }

    async def video(self, generation: Generation) -> str:
        """The video of a generation as the id of an upload, which a request may name as its input.

        Raises InvalidParamsError, QueueFullError or UnavailableError.
        """
        _completed(generation)
        entry = self._catalogue.get(generation.model)
        if entry is None:
            raise InvalidParamsError(f"video: the model {generation.model} is not there any more")
        kept = await self._finished.keep(generation.tenant, generation.id, entry.model.fps)
        return self._uploads.id_of(generation.tenant, kept)

    def _inputs_of(self, generation: Generation) -> dict[str, str]:
        """The inputs of a generation, as ids of uploads. Their sizes are of no effect beside those of its video."""
        params = generation.params
        assert params is not None, "it was completed"
        entry = self._catalogue.get(generation.model)
        if entry is None:
            return {}
        fps, size = entry.model.fps, (params.width, params.height)
        kept = {
            IMAGE: None if params.image is None else InputImage(params.image, *size),
            LAST_IMAGES[0]: None if params.last_image is None else InputImage(params.last_image, *size),
            VIDEO: None if params.video is None else InputVideo(params.video, *size, params.num_frames, fps),
            AUDIO_NAMES[0]: None if params.audio is None else InputAudio(params.audio, params.num_frames / fps),
        }
        return {name: self._uploads.id_of(generation.tenant, each) for name, each in kept.items() if each is not None}


def _completed(generation: Generation) -> VideoParams:
    if generation.status is not Status.SUCCEEDED or generation.params is None:
        raise InvalidParamsError(f"video: {generation.id} is {generation.status}: only a finished video can be used")
    return generation.params


def _without(parameters: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    left_out = {*names, *INPUTS, *WEBHOOK, REMIXED_FROM, JOINED_FRAMES}
    return {name: value for name, value in parameters.items() if name not in left_out}

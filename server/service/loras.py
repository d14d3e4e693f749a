"""The LoRAs that requests may name: those of the catalogue, and the files in the folder of LoRAs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipelines.core.errors import LoraError, PipelineError, WeightsNotFoundError
from pipelines.core.model import OptionalLora
from pipelines.core.request import MAX_LORA_STRENGTH, MAX_LORAS, MIN_LORA_STRENGTH, RequestLora
from pipelines.hub import local as weights
from pipelines.hub.loras import LoraFile, list_files, lora_widths
from pipelines.models.catalogue import CatalogueEntry
from pipelines.models.registry import family_of
from server.core.errors import InvalidParamsError, UnavailableError

_NAMED = 20
"""So many names an error message lists."""

_SHOWN_CHARS = 128


class LoraSource(StrEnum):
    """Where a LoRA comes from: a model's file in the catalogue, or the folder of LoRAs."""

    CATALOGUE = "catalogue"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class AvailableLora:
    """A LoRA that requests may name.

    `models` are the ids of the models it is for, None if that is not known. `size` is in bytes, None for a file that is
    not downloaded. `strength` holds for a request without one.
    """

    name: str
    models: tuple[str, ...] | None
    size: int | None
    source: LoraSource
    description: str | None = None
    strength: float = 1.0

    def is_for(self, model_id: str) -> bool:
        """Whether a request for this model may name it."""
        return self.models is None or model_id in self.models


class LoraCatalogue:
    """The LoRAs of all models. Its methods read the folder `folder`, if there is one.

    `weights_folder` has the weights that all models use instead of their own, if there are such: the catalogue's LoRAs
    do not fit them.
    """

    def __init__(
        self, models: Mapping[str, CatalogueEntry], folder: Path | None, weights_folder: Path | None = None
    ) -> None:
        self._models = models
        self._folder = folder
        self._weights_folder = weights_folder
        self._widths: dict[str, frozenset[int] | None] = {}

    def all(self) -> list[AvailableLora]:
        """All LoRAs: the catalogue's in the order of the models, then the folder's by name.

        Raises UnavailableError if the folder cannot be read.
        """
        return [*self._of_catalogue(), *self._of_folder()]

    def of(self, model_id: str) -> dict[str, AvailableLora]:
        """The LoRAs for one model by name. The catalogue's come before files of the same name."""
        found: dict[str, AvailableLora] = {}
        for lora in self.all():
            if lora.is_for(model_id):
                found.setdefault(lora.name, lora)
        return found

    def _of_catalogue(self) -> list[AvailableLora]:
        if self._weights_folder is not None:
            return []
        found: list[AvailableLora] = []
        for model_id, entry in self._models.items():
            by_name: dict[str, list[OptionalLora]] = {}
            for lora in entry.model.optional_loras:
                by_name.setdefault(lora.name, []).append(lora)
            found += [_of_entries(model_id, name, entries) for name, entries in by_name.items()]
        return found

    def _of_folder(self) -> list[AvailableLora]:
        if self._folder is None:
            return []
        try:
            files = list_files(self._folder)
        except LoraError as error:
            raise UnavailableError(str(error)) from error
        model_widths = {model_id: self._model_width(entry) for model_id, entry in self._models.items()}
        widths = {file.identity: self._lora_widths(file) for file in files}
        # those of files that are gone
        self._widths = widths
        found = []
        for file in files:
            fitting = widths[file.identity]
            if fitting is None:
                models = None
            else:
                models = tuple(id_ for id_, width in model_widths.items() if width is None or width in fitting)
            found.append(AvailableLora(file.name, models, file.size, LoraSource.FOLDER))
        return found

    def _lora_widths(self, file: LoraFile) -> frozenset[int] | None:
        if file.identity in self._widths:
            return self._widths[file.identity]
        try:
            return lora_widths(file.path)
        except PipelineError:
            # the worker says what is wrong with it
            return None

    def _model_width(self, entry: CatalogueEntry) -> int | None:
        """Return the number of features between a model's transformer blocks; None if the model's file has no shape."""
        spec = entry.model if self._weights_folder is None else entry.model.for_other_weights()
        family = family_of(spec.pipeline_class)
        try:
            if self._weights_folder is not None:
                return family.read_shape(self._weights_folder).transformer.width
            return None if spec.shape is None else family.shape(spec.shape).transformer.width
        except PipelineError:
            return None


def choose_loras(listed: Any, model_id: str, available: Mapping[str, AvailableLora]) -> tuple[RequestLora, ...]:
    """Return the LoRAs that a request lists: objects with a name and, optionally, a strength.

    Raises InvalidParamsError that names the first fault and its limit.
    """
    if not isinstance(listed, list) or len(listed) > MAX_LORAS:
        raise InvalidParamsError(f"loras must be a list of at most {MAX_LORAS} objects with a name and a strength")
    chosen: dict[str, RequestLora] = {}
    for each in listed:
        lora = _lora(each, model_id, available)
        if lora.name in chosen:
            raise InvalidParamsError(f"loras has {lora.name} twice")
        chosen[lora.name] = lora
    return tuple(chosen.values())


def _lora(given: Any, model_id: str, available: Mapping[str, AvailableLora]) -> RequestLora:
    if not isinstance(given, dict) or not isinstance(given.get("name"), str) or given.keys() - {"name", "strength"}:
        raise InvalidParamsError("each of loras must be an object with a name, and optionally a strength")
    name = given["name"]
    if name not in available:
        raise InvalidParamsError(f"loras: {name[:_SHOWN_CHARS]} is not a LoRA of {model_id}. {_some_of(available)}")
    strength = given.get("strength")
    if strength is None:
        strength = available[name].strength
    if (
        not isinstance(strength, int | float)
        or isinstance(strength, bool)
        or not -MAX_LORA_STRENGTH <= strength <= MAX_LORA_STRENGTH
        or abs(strength) < MIN_LORA_STRENGTH
    ):
        raise InvalidParamsError(
            f"loras: the strength of {name} must be a number from {MIN_LORA_STRENGTH:g} to {MAX_LORA_STRENGTH:g}, "
            "or the negative of one"
        )
    return RequestLora(name, float(strength))


def _some_of(available: Mapping[str, AvailableLora]) -> str:
    names = sorted(available)
    if not names:
        return "It has none."
    others = len(names) - _NAMED
    return f"It has {', '.join(names[:_NAMED])}{f' and {others} others' if others > 0 else ''}."


def _of_entries(model_id: str, name: str, entries: Sequence[OptionalLora]) -> AvailableLora:
    size: int | None
    try:
        files = {weights.locate_file(entry.repo, entry.file, entry.revision) for entry in entries}
        size = sum(file.stat().st_size for file in files)
    except (WeightsNotFoundError, OSError):
        size = None
    first = entries[0]
    return AvailableLora(name, (model_id,), size, LoraSource.CATALOGUE, first.description or None, first.strength)

"""A folder's model_index.json: which of its components a pipeline uses. Other folders beside them are not read."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.models.weight_files import read_json

NAME = "model_index.json"

LIBRARIES = ("diffusers", "transformers")
"""The libraries whose classes a pipeline may have."""


@dataclass(frozen=True, slots=True)
class ModelIndex:
    """The class of a pipeline, its components by name, each with its library and class, and all its settings."""

    path: Path
    pipeline_class: str
    components: dict[str, tuple[str, str]]
    settings: Mapping[str, Any]

    @property
    def boundary_ratio(self) -> float | None:
        """The noise level below which the second transformer runs; None if there is only one."""
        return self.settings.get("boundary_ratio")


def read_model_index(folder: Path, known: Collection[str], own: str | None = None) -> ModelIndex:
    """Return the index of a folder, with those of the `known` components that it uses: not `[null, null]`.

    Some pipelines have classes of their own, for which the index has the name of their module in diffusers, `own`.
    Raises WeightsNotFoundError or UnsupportedModelError.
    """
    path = folder / NAME
    if not path.exists():
        raise WeightsNotFoundError(f"{folder} is not a diffusers folder: it has no {NAME}.")
    settings = read_json(path)
    components: dict[str, tuple[str, str]] = {}
    for name, origin in settings.items():
        if name not in known or origin is None or origin == [None, None]:
            continue
        if not isinstance(origin, list) or len(origin) != 2 or not all(isinstance(each, str) for each in origin):
            raise UnsupportedModelError(f"{path} does not say the library and class of {name}.")
        library = "diffusers" if origin[0] == own else origin[0]
        if library not in LIBRARIES:
            raise UnsupportedModelError(
                f"{path} has {name} of {origin[0][:100]}; only {' and '.join(LIBRARIES)} are used."
            )
        components[name] = (library, origin[1])
    return ModelIndex(path, str(settings.get("_class_name"))[:100], components, settings)


def check_boundary(index: ModelIndex, denoisers: int) -> None:
    """Raise UnsupportedModelError unless the boundary between two transformers is there, and only with two."""
    ratio: Any = index.boundary_ratio
    if denoisers < 2:
        if ratio is not None:
            raise UnsupportedModelError(f"{index.path} has a boundary_ratio, but only one transformer.")
        return
    if type(ratio) not in (int, float) or not 0 < ratio < 1:
        found = "no boundary_ratio" if ratio is None else f"the boundary_ratio {str(ratio)[:50]}"
        raise UnsupportedModelError(
            f"{index.path} has two transformers and {found}: it must be a number between 0 and 1, which says the noise "
            "level at which the second takes over."
        )

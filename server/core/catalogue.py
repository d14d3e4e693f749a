"""The models that are served: the built-in ones and the user's own."""

from dataclasses import replace

from pipelines.core.catalogue import BUILT_IN, CatalogueEntry, read_catalogue
from pipelines.core.model import ModelSpec
from server.core.settings import Settings


def _as_set(spec: ModelSpec, settings: Settings) -> ModelSpec:
    return replace(spec, precision=settings.precision, attention=settings.attention, compile=settings.compile)


def load_catalogue(settings: Settings) -> dict[str, CatalogueEntry]:
    """The built-in models and the user's own, in the precision that is set; raises CatalogueError."""
    found = read_catalogue([BUILT_IN, *([settings.models_dir] if settings.models_dir else [])])
    return {
        model_id: entry.model_copy(update={"model": _as_set(entry.model, settings)})
        for model_id, entry in found.items()
    }

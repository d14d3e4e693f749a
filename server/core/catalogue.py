"""The catalogue of models: the built-in ones and the user's own."""

from dataclasses import replace

from pipelines.core.model import ModelSpec
from pipelines.models.catalogue import BUILT_IN, CatalogueEntry, read_catalogue
from server.core.settings.sections import ModelSettings


def _configured(spec: ModelSpec, settings: ModelSettings) -> ModelSpec:
    return replace(
        spec,
        precision=settings.precision,
        accuracy=settings.accuracy,
        attention=settings.attention,
        compile=settings.compile,
    )


def load_catalogue(settings: ModelSettings) -> dict[str, CatalogueEntry]:
    """Return the built-in and the user's own models by id, configured by the settings; raises CatalogueError."""
    found = read_catalogue([BUILT_IN, *([settings.models_dir] if settings.models_dir else [])])
    return {
        model_id: entry.model_copy(update={"model": _configured(entry.model, settings)})
        for model_id, entry in found.items()
    }

"""The catalogue of models: the built-in ones and the user's own."""

from dataclasses import replace
from pathlib import Path

from pipelines.core.model import ModelSpec, SoundSpec
from pipelines.demo.folder import demo_sound
from pipelines.models.catalogue import BUILT_IN, CatalogueEntry, read_catalogue
from pipelines.models.sound.catalogue import read_sounds
from server.core.settings.settings import Settings


def _configured(spec: ModelSpec, settings: Settings) -> ModelSpec:
    return replace(
        spec,
        precision=settings.precision,
        accuracy=settings.accuracy,
        attention=settings.attention,
        compile=settings.compile,
        sound=demo_sound() if settings.demo else spec.sound,
    )


def load_catalogue(settings: Settings) -> dict[str, CatalogueEntry]:
    """Return the built-in and the user's own models by id, configured by the settings; raises CatalogueError."""
    found = read_catalogue(_folders(settings))
    return {
        model_id: entry.model_copy(update={"model": _configured(entry.model, settings)})
        for model_id, entry in found.items()
    }


def load_sounds(settings: Settings) -> dict[str, SoundSpec]:
    """Return the built-in and the user's own models for sounds by id; raises CatalogueError."""
    return read_sounds(_folders(settings))


def _folders(settings: Settings) -> list[Path]:
    return [BUILT_IN, *([settings.models_dir] if settings.models_dir else [])]

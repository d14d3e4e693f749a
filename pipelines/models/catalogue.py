"""The catalogue of models: reads and checks `configs/models/*.toml`.

Each file describes one model in two tables: `[api]` is what clients see, `[model]` is what is loaded. `[audio]` names
the model that makes the sounds of its videos, one of the folder `sounds`. Users can add a folder of their own; a file
there replaces a built-in one with the same id.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from pipelines.core.errors import CatalogueError
from pipelines.core.geometry import Resolution
from pipelines.core.model import ModelSpec, SoundSpec
from pipelines.models.api_table import ApiSpec
from pipelines.models.family import InputUse
from pipelines.models.model_table import ModelTable
from pipelines.models.registry import family_of
from pipelines.models.sound.catalogue import AudioTable, read_sounds
from pipelines.models.table import Table

DEFAULT_MODEL = "wan-ai-wan2-1-t2v-14b-diffusers"
"""The model that the command line and the examples use by default."""

BUILT_IN = Path(__file__).resolve().parents[2] / "configs" / "models"


class CatalogueEntry(Table):
    """One model: what clients see and what is loaded.

    `image_model` has the ids of the models that answer its requests with an image, by their resolution; None if it
    takes images itself, or none.
    """

    api: ApiSpec
    model: ModelSpec
    image_model: dict[Resolution, str] | None = None

    @property
    def id(self) -> str:
        """The model's id in requests."""
        return self.api.id

    @property
    def longest_seconds(self) -> float:
        """The longest video's duration in seconds."""
        frames = self.api.by_name["num_frames"].maximum
        assert frames is not None, "the catalogue requires it"
        return frames / self.model.fps

    def variant(self, run_fast: bool | None = None) -> "CatalogueEntry":
        """The entry for requests with or without `run_fast`; None stands for the parameter's default."""
        if run_fast is None:
            parameter = self.api.by_name.get("run_fast")
            run_fast = bool(parameter and parameter.default)
        return self.model_copy(update={"model": self.model.variant(run_fast)})


class _File(Table):
    api: ApiSpec
    model: ModelTable
    audio: AudioTable | None = None
    image_model: dict[Resolution, str] | None = Field(default=None, min_length=2)

    @model_validator(mode="after")
    def _fast_has_a_parameter(self) -> "_File":
        parameter = self.api.by_name.get("run_fast")
        if self.model.fast is not None and (parameter is None or parameter.type != "boolean"):
            raise ValueError("model.fast: requires a parameter run_fast of the type boolean")
        return self

    @model_validator(mode="after")
    def _inputs_are_supported(self) -> "_File":
        family = family_of(self.model.pipeline_class)
        supported = family.inputs(self.model.shape)
        if unsupported := set(self.api.input) - supported:
            raise ValueError(
                f"api.input: these weights of {self.model.pipeline_class} take {', '.join(sorted(supported))}, "
                f"not {', '.join(sorted(unsupported))}"
            )
        if family.images(None).first is InputUse.REQUIRED and "image" not in self.api.input:
            raise ValueError(f"api.input: must have image, which {self.model.pipeline_class} needs")
        return self


def read_entry(path: Path, sounds: Mapping[str, SoundSpec] | None = None) -> CatalogueEntry:
    """Read one model file, which may name one of `sounds`, by default the built-in ones.

    Raises CatalogueError that names the file, the key and the fault.
    """
    try:
        table = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CatalogueError(f"{path}: {key}: {first['msg']}") from error
    spec = table.model.spec(table.api.id, (table.api.size("maximum"), table.api.size("default")))
    if table.audio is not None:
        sound = (read_sounds([BUILT_IN]) if sounds is None else sounds).get(table.audio.model)
        if sound is None:
            raise CatalogueError(f"{path}: audio.model: there is no model for sounds {table.audio.model}")
        spec = replace(spec, sound=replace(sound, if_failed=table.audio.if_failed))
    return CatalogueEntry(api=table.api, model=spec, image_model=table.image_model)


def read_catalogue(folders: Iterable[Path] = (BUILT_IN,)) -> dict[str, CatalogueEntry]:
    """All models of the folders by id, featured ones first, then by file name. Later folders override earlier ones.

    Raises CatalogueError if a folder is missing, a file is malformed, two files of one folder share an id, a file names
    an image model that takes no image, or there is no model.
    """
    entries: dict[str, CatalogueEntry] = {}
    folders = list(folders)
    sounds = read_sounds(folders)
    for folder in folders:
        if not folder.is_dir():
            raise CatalogueError(f"{folder}: no such folder of models")
        here: dict[str, Path] = {}
        for path in sorted(folder.glob("*.toml")):
            entry = read_entry(path, sounds)
            if entry.id in here:
                raise CatalogueError(f"{path}: {here[entry.id].name} has the same id, {entry.id}")
            here[entry.id] = path
            entries[entry.id] = entry
    for entry in entries.values():
        for alias in entry.api.aliases:
            if any(
                alias == other.id or (other is not entry and alias in other.api.aliases) for other in entries.values()
            ):
                raise CatalogueError(f"{entry.id}: another model has the name {alias}, too")
        for answering in (entry.image_model or {}).values():
            if answering not in entries or "image" not in entries[answering].api.input:
                raise CatalogueError(f"{entry.id}: image_model: no model {answering} takes an image")
    if not entries:
        raise CatalogueError("no model file (*.toml) in " + ", ".join(str(folder) for folder in folders))
    return dict(sorted(entries.items(), key=lambda item: not item[1].api.featured))

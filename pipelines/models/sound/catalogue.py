"""The catalogue of models that make sounds: reads and checks the files of the folder `sounds` beside models' files."""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator

from pipelines.core.errors import CatalogueError, UnsupportedModelError
from pipelines.core.model import Licence, SoundFailure, SoundSpec
from pipelines.models.sound.families import sound_family_of
from pipelines.models.table import Table

FOLDER = "sounds"
"""The name of the folder, in one of models."""

LONGEST_SECONDS = 600.0


class AudioTable(Table):
    """The table `[audio]` of a model's file: `model` makes the sounds of its videos."""

    model: str
    if_failed: Annotated[SoundFailure, Field(strict=False)] = SoundFailure.SILENT


class _LicenceTable(Table):
    name: str = Field(min_length=1, max_length=200)
    url: str = Field(pattern=r"^https://\S{1,500}$")
    summary: str = Field(default="", max_length=500)


class _SoundTable(Table):
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,99}$")
    repo: str
    revision: str | None = None
    pipeline_class: str
    max_seconds: float = Field(gt=0, le=LONGEST_SECONDS)
    num_inference_steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(default=1.0, ge=0, le=1000)
    negative_prompt: str | None = None
    licence: _LicenceTable | None = None
    is_gated: bool = False

    @field_validator("pipeline_class")
    @classmethod
    def _family_exists(cls, pipeline_class: str) -> str:
        try:
            sound_family_of(pipeline_class)
        except UnsupportedModelError as error:
            raise ValueError(str(error)) from error
        return pipeline_class

    def spec(self) -> SoundSpec:
        licence = None if self.licence is None else Licence(**self.licence.model_dump())
        return SoundSpec(**self.model_dump(exclude={"licence"}), licence=licence)


class _File(Table):
    sound: _SoundTable


def read_sound(path: Path) -> SoundSpec:
    """Read one file. Raises CatalogueError that names the file, the key and the fault."""
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).sound.spec()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise CatalogueError(f"{path}: {key}: {first['msg']}") from error


def read_sounds(folders: Iterable[Path]) -> dict[str, SoundSpec]:
    """All models for sounds by id, from the folders `sounds` in folders of models. Later ones override earlier ones.

    Raises CatalogueError if a file is malformed, or two files of one folder share an id.
    """
    found: dict[str, SoundSpec] = {}
    for folder in folders:
        here: dict[str, Path] = {}
        for path in sorted((folder / FOLDER).glob("*.toml")):
            sound = read_sound(path)
            if sound.id in here:
                raise CatalogueError(f"{path}: {here[sound.id].name} has the same id, {sound.id}")
            here[sound.id] = path
            found[sound.id] = sound
    return found

"""The model families by the pipeline class that a model's file names."""

from pipelines.core.errors import UnsupportedModelError
from pipelines.models.family import ModelFamily, PipelineFamily
from pipelines.models.sound.families import SOUND_FAMILIES
from pipelines.models.wan import WanTextToVideo
from pipelines.models.wan_image import WanImageToVideo

FAMILIES: dict[str, ModelFamily] = {family.pipeline_class: family for family in (WanTextToVideo(), WanImageToVideo())}
"""All families. A new one is added here."""


def family_of(pipeline_class: str) -> ModelFamily:
    """Return the family of a pipeline class. Raises UnsupportedModelError with the classes there are."""
    family = FAMILIES.get(pipeline_class)
    if family is None:
        raise UnsupportedModelError(
            f"pipeline_class must be one of {', '.join(sorted(FAMILIES))}, not {pipeline_class!r}."
        )
    return family


def parts_family(pipeline_class: str) -> PipelineFamily:
    """Return the parts of a pipeline class, also of one that makes sounds. Raises UnsupportedModelError."""
    return SOUND_FAMILIES.get(pipeline_class) or family_of(pipeline_class)

"""Schemas of the library: what many generations are asked for at once, and what there is to filter by."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from server.api.schemas.errors import ErrorType
from server.api.schemas.example import BASE_URL, GENERATION_ID, example
from server.api.schemas.fields import Bytes
from server.service.library.bodies import IDS, MAX_ARCHIVED, MAX_ID_CHARS, MAX_IDS, MAX_TAG_CHARS
from server.storage.db.statements.library import MAX_TAGS

MARK = "MarkRequest"
MARK_MANY = "MarkManyRequest"
DELETE_MANY = "DeleteManyRequest"
ARCHIVE = "ArchiveRequest"

# no control characters, and something besides spaces
_PLAIN = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"
_TAG = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_TAG_CHARS,
    "pattern": rf"^[^{_PLAIN}]*[^\s{_PLAIN}][^{_PLAIN}]*$",
}
_TAGS = {"type": "array", "maxItems": MAX_TAGS, "items": _TAG}
_FAVOURITE = {"type": "boolean", "description": "Whether it is a favourite"}


def _ids(most: int) -> dict[str, Any]:
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": most,
        "items": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
    }


def _body(title: str, properties: dict[str, Any], *required: str, **more: Any) -> dict[str, Any]:
    schema = {"type": "object", "title": title, "properties": properties, "additionalProperties": False, **more}
    return schema | ({"required": [*required]} if required else {})


LIBRARY_BODIES: dict[str, dict[str, Any]] = {
    MARK: _body(
        MARK,
        {
            "favourite": _FAVOURITE,
            "tags": {**_TAGS, "description": "All its tags from now on. Case is kept, and different case is different"},
        },
        minProperties=1,
    ),
    MARK_MANY: _body(
        MARK_MANY,
        {
            IDS: _ids(MAX_IDS),
            "favourite": _FAVOURITE,
            "add_tags": {**_TAGS, "description": "Added to the tags that there are, after `remove_tags`"},
            "remove_tags": {**_TAGS, "description": "Removed from the tags that there are"},
        },
        IDS,
        # the ids, and what is to be done
        minProperties=2,
    ),
    DELETE_MANY: _body(DELETE_MANY, {IDS: _ids(MAX_IDS)}, IDS),
    ARCHIVE: _body(ARCHIVE, {IDS: _ids(MAX_ARCHIVED)}, IDS),
}
"""The schemas of the request bodies, by their names."""


class Marked(BaseModel):
    """All these generations were marked."""

    count: int

    model_config = example({"count": 2})


class NotDeleted(BaseModel):
    """A generation that was not deleted, and why."""

    generation_id: str
    type: ErrorType
    message: str


class ManyDeleted(BaseModel):
    """Which generations were deleted, and which were not."""

    status: Literal["success"]
    count: int = Field(description="So many were deleted")
    deleted: list[str]
    not_deleted: list[NotDeleted]

    model_config = example(
        {
            "status": "success",
            "count": 0,
            "deleted": [],
            "not_deleted": [
                {
                    "generation_id": GENERATION_ID,
                    "type": "conflict",
                    "message": f"Generation {GENERATION_ID} is processing: cancel it before you remove it.",
                }
            ],
        }
    )


class ArchiveMade(BaseModel):
    """A link to a zip file, which needs no key and expires as the links of videos do."""

    url: str
    count: int = Field(description="So many videos are in it")
    bytes: Bytes
    without_video: list[str] = Field(description="Those of the generations that have no video")

    model_config = example(
        {
            "url": f"{BASE_URL}/api/files/archives/IjEuMGIwZjNhOGUi.token.zip",
            "count": 1,
            "bytes": 1834204,
            "without_video": [],
        }
    )


class TagCount(BaseModel):
    """A tag, and how many generations have it."""

    tag: str
    count: int


class Tags(BaseModel):
    """All tags, the most frequent first."""

    data: list[TagCount]

    model_config = example({"data": [{"tag": "lake", "count": 3}]})


class ModelCount(BaseModel):
    """The id of a model, and how many generations name it."""

    model: str
    count: int


class SizeCount(BaseModel):
    """A width and a height, and how many generations were requested in this size."""

    size: str
    count: int


class Facets(BaseModel):
    """What there is to filter by, the most frequent first, and how many favourites there are."""

    models: list[ModelCount]
    sizes: list[SizeCount]
    favourites: int

    model_config = example(
        {
            "models": [{"model": "wan-ai-wan2-1-t2v-14b-diffusers", "count": 3}],
            "sizes": [{"size": "832x480", "count": 3}],
            "favourites": 1,
        }
    )

"""Schemas of generations: rows of the queue and of the history.

`Row` is the only description of a row. The serializer returns a `Row` and the example is one, so mypy checks both.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pipelines.models.catalogue import DEFAULT_MODEL
from server.api.schemas.example import BASE_URL, GENERATION_ID, example
from server.api.schemas.fields import UnixSeconds

StatusName = Literal["queued", "processing", "succeeded", "failed", "cancelled"]
MediaType = Literal["image", "video"]
# the type of the hosted API: generators of clients have none for null alone
_AlwaysNull = Annotated[str | None, Field(description="Always null")]

EXECUTION = ("device", "plan", "precision", "attention")
"""What a row tells of the execution fingerprint."""

EXAMPLE: "Row" = {
    "generation_id": GENERATION_ID,
    "model_name": DEFAULT_MODEL,
    "prompt": "An ox by a lake",
    "media_type": "video",
    "status": "processing",
    "result_url": None,
    "error_message": None,
    "enqueued_at": 1790000000,
    "started_at": 1790000001,
    "completed_at": None,
    "target_namespace": None,
    "target_repo": None,
    "target_directory": None,
    "progress": 0.42,
    "eta_seconds": 81.5,
    "queue_position": None,
    "preview_url": f"{BASE_URL}/api/ai/queue/{GENERATION_ID}/preview?step=7",
    "thumbnail_url": None,
    "spritesheet_url": None,
    "warnings": [],
    "favourite": False,
    "tags": [],
}
HISTORY_EXAMPLE: "HistoryRow" = {**EXAMPLE, "cost": None, "user_id": None, "username": None, "user_image": None}


def _row(content: Mapping[str, Any]) -> ConfigDict:
    # a row also contains the parameters of its request
    return ConfigDict(extra="allow", json_schema_extra={"example": {**content, "seed": 7}})


@with_config(_row(EXAMPLE))
class Row(TypedDict):
    """A generation. The row also has a field for each parameter of its request. Times are Unix seconds.

    If a generation has succeeded but has no `result_url`, its video was removed to free space; `error_message` says so.
    """

    generation_id: str
    model_name: str
    prompt: str | None
    media_type: MediaType
    status: StatusName
    result_url: str | None
    error_message: str | None
    enqueued_at: UnixSeconds
    started_at: UnixSeconds | None
    completed_at: UnixSeconds | None
    target_namespace: str | None
    target_repo: str | None
    target_directory: str | None
    progress: Annotated[float, Field(ge=0, le=1, description="Fraction of the whole generation")]
    eta_seconds: Annotated[
        float | None, Field(description="Time to completion, also for a queued generation; null if unknown")
    ]
    queue_position: Annotated[
        int | None,
        Field(
            description="Place in the order in which queued generations start if no more arrive; 1 is next, null "
            "unless queued. API keys take turns, and generations of a loaded model go first, within the setting "
            "`max_overtakes`. With several devices it is an estimate"
        ),
    ]
    preview_url: Annotated[
        str | None,
        Field(
            description="URL of the preview, which needs the API key of the generation. It changes with each preview. "
            "Null unless this server is denoising or decoding the generation"
        ),
    ]
    thumbnail_url: Annotated[
        str | None,
        Field(
            description="Signed URL of a small picture of the finished video, a WebP file whose sides are 384 pixels "
            "at most. Null while there is none; a video of an earlier version gets one later"
        ),
    ]
    spritesheet_url: Annotated[
        str | None,
        Field(
            description="The same of a WebP file with 4 x 4 tiles, whose sides are 192 pixels at most: frames of the "
            "video, evenly spaced from its first to its last, row by row"
        ),
    ]
    warnings: Annotated[
        list[str],
        Field(
            description="What was not done as requested, such as the end of a prompt that is too long for the model; "
            "and what a generation waits for that no machine of a cluster can make yet"
        ),
    ]
    favourite: Annotated[
        bool, Field(description="Whether it is marked to be kept: see PATCH /generations/{generation_id}")
    ]
    tags: Annotated[list[str], Field(description="Its tags, sorted")]
    input_image: NotRequired[
        Annotated[
            str,
            Field(
                description="Signed URL of the image that the video begins with, if there is one. Until it has been "
                "fetched, the URL that the request named"
            ),
        ]
    ]
    end_image_url: NotRequired[
        Annotated[str, Field(description="The same of the image that the video ends with, if there is one")]
    ]
    input_video: NotRequired[
        Annotated[str, Field(description="The same of the video that this one is made of, if there is one")]
    ]
    input_audio: NotRequired[
        Annotated[str, Field(description="The same of the sound that is heard with the video, if there is one")]
    ]
    has_audio: NotRequired[Annotated[bool, Field(description="True once there is a video that has a sound")]]
    enhanced_prompt: NotRequired[
        Annotated[
            str,
            Field(
                description="What the video is made of instead of `prompt`, as a language model rewrote that. As the "
                "prompt of a request it gives the same video. Absent until it is there, and if `warnings` say why not"
            ),
        ]
    ]
    enhance_model: NotRequired[Annotated[str, Field(description="The language model that wrote `enhanced_prompt`")]]
    enhance_seconds: NotRequired[Annotated[float, Field(description="How long that took")]]
    inspiration_style: NotRequired[
        Annotated[str, Field(description="The style card that `inspiration` chose for the prompt")]
    ]
    execution: NotRequired[
        Annotated[
            dict[str, str],
            Field(
                description="What the generation was last started with: `device`, memory `plan`, `precision` of the "
                "weights and kernel of `attention`, and the `host` of a cluster"
            ),
        ]
    ]
    joined_frames: NotRequired[
        Annotated[int, Field(description="The length in frames of the video with the one that it continues")]
    ]
    remixed_from_video_id: NotRequired[
        Annotated[str, Field(description="The generation whose settings this one repeats with another prompt")]
    ]
    answered_by: NotRequired[
        Annotated[str, Field(description="The model that makes the video, if it is another one than `model_name`")]
    ]


@with_config(_row(HISTORY_EXAMPLE))
class HistoryRow(Row):
    """A generation in the history. The fields for cost and user come from the hosted API; they are always null here."""

    cost: _AlwaysNull
    user_id: _AlwaysNull
    username: _AlwaysNull
    user_image: _AlwaysNull


class QueueList(BaseModel):
    """Generations, newest first."""

    count: int
    generations: list[Row]

    model_config = example({"count": 1, "generations": [EXAMPLE]})


class History(BaseModel):
    """A page of generations, newest first."""

    count: int
    generations: list[HistoryRow]
    page_number: Annotated[int | None, Field(description="Null with a cursor")]
    page_size: int
    total_pages: Annotated[int | None, Field(description="Null with a cursor")]
    total_entries: Annotated[int | None, Field(description="Null with a cursor: only pages are counted")]
    total_cost: _AlwaysNull
    next_cursor: Annotated[str | None, Field(description="The `cursor` of what follows; null at the end")]

    model_config = example(
        {
            "count": 1,
            "generations": [HISTORY_EXAMPLE],
            "page_number": 1,
            "page_size": 50,
            "total_pages": 1,
            "total_entries": 1,
            "total_cost": None,
            "next_cursor": None,
        }
    )


class OneGeneration(BaseModel):
    """One generation in the success envelope of the hosted API."""

    status: Literal["success"]
    status_message: Literal["resource_found"]
    generation: HistoryRow

    model_config = example({"status": "success", "status_message": "resource_found", "generation": HISTORY_EXAMPLE})


class Enqueued(BaseModel):
    """An accepted generation. Invalid parameters are reported in its row."""

    generation_id: str
    status: Literal["queued"]


class QueueCreated(BaseModel):
    """The generations of an enqueued request, in the order of their seeds."""

    generations: list[Enqueued]

    model_config = example({"generations": [{"generation_id": GENERATION_ID, "status": "queued"}]})


class QueueDeleted(BaseModel):
    """The generation was cancelled or deleted, or had ended before a cancellation."""

    status: Literal["success"]
    generation_id: str

    model_config = example({"status": "success", "generation_id": GENERATION_ID})

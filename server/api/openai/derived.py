"""/v1/videos: what is made of a video that there is: remixes, extensions and edits."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter

from server.api.dependencies import BodyDep, ServiceDep, TenantDep, json_body
from server.api.openai.schemas import EDIT, EXTEND, REMIX, OpenaiVideo, openai_responses
from server.api.openai.submission import SubmissionDep, VideoBodyDep
from server.api.openai.translation import VIDEO_ID, VIDEO_REFERENCE
from server.api.schemas.example import GENERATION_ID
from server.api.serializers import WITH_WARNINGS
from server.core.errors import InvalidParamsError
from server.service.requests import echo
from server.service.requests.inputs import VIDEO
from server.service.requests.values.sizes import SIDES

router = APIRouter(prefix="/v1/videos", tags=["openai"])

_PROMPT = {"prompt": "The same ox in the snow"}
_OF_VIDEO = {**_PROMPT, "video": {"id": GENERATION_ID}}
_REPLACED = {
    "size": SIDES,
    "aspect_ratio": SIDES,
    "resolution": SIDES,
    "seconds": ("num_frames",),
    "duration": ("num_frames",),
}
"""What of the settings of a video gives way to a parameter of the request."""

_ANSWERS = {200: WITH_WARNINGS, **openai_responses(404, 409, 413, 415, 503)}


@router.post(
    "/extensions",
    operation_id="extendVideo",
    summary="Continue a video",
    response_model=OpenaiVideo,
    responses=_ANSWERS,
    openapi_extra=json_body(EXTEND, {**_OF_VIDEO, "seconds": "2"}),
)
async def extend(
    body: VideoBodyDep, submission: SubmissionDep, service: ServiceDep, tenant: TenantDep
) -> dict[str, Any]:
    """Continues a completed video from its last frame, with its model and settings where the request has none, and
    joins both into one file. `seconds` is the length of the new part.
    """
    content = dict(body.content)
    if (video_id := content.pop(VIDEO_ID, None)) is None:
        raise InvalidParamsError("video must be an object with the id of a completed video, which is continued")
    source = (await service.get(tenant, video_id)).generation
    body.names[echo.EXTEND] = VIDEO_REFERENCE.name
    return await submission.submit(body, {**service.reuse.settings(source), **content, echo.EXTEND: source.id})


@router.post(
    "/edits",
    operation_id="editVideo",
    summary="Make a video anew by another prompt",
    response_model=OpenaiVideo,
    responses=_ANSWERS,
    openapi_extra=json_body(EDIT, _OF_VIDEO),
)
async def edit(body: VideoBodyDep, submission: SubmissionDep, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Makes a video of another one, by `strength`: of a completed video, with its model and settings where the request
    has none, or of a file: `video` of a body that is `multipart/form-data`.
    """
    content = dict(body.content)
    if (video_id := content.pop(VIDEO_ID, None)) is not None:
        source = (await service.get(tenant, video_id)).generation
        settings = service.reuse.settings(source) | service.reuse.shape(source)
        settings.pop(echo.IMAGE_MODE, None)
        content = {**_changed(settings, content), VIDEO: await service.reuse.video(source)}
    elif VIDEO not in content:
        raise InvalidParamsError("video must be a file, or an object with the id of a completed video")
    return await submission.submit(body, content)


@router.post(
    "/{video_id}/remix",
    operation_id="remixVideo",
    summary="Repeat a video with another prompt",
    response_model=OpenaiVideo,
    responses=_ANSWERS,
    openapi_extra=json_body(REMIX, _PROMPT),
)
async def remix(
    video_id: str, body: BodyDep, submission: SubmissionDep, service: ServiceDep, tenant: TenantDep
) -> dict[str, Any]:
    """Makes a video with the settings, the seed and the inputs of a completed one, and with another prompt. What else
    the request has takes precedence.
    """
    source = (await service.get(tenant, video_id)).generation
    content = _changed(service.reuse.again(source), body.content)
    return await submission.submit(body, content, {echo.REMIXED_FROM: source.id})


def _changed(before: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a video with what a request has instead of them."""
    given = [name for name in _REPLACED if not echo.is_absent(content.get(name))]
    replaced = {each for name in given for each in _REPLACED[name]}
    return {**{name: value for name, value in before.items() if name not in replaced}, **content}

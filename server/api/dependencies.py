"""What every route needs: the service, whose request it is, its JSON body, and the address to build links on.

All are coroutines, also where nothing is waited for: FastAPI hands what is none to a thread, and waits for that.
"""

import asyncio
import json
from typing import Annotated, Any, Literal, NoReturn

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.api.auth import Authenticator
from server.api.links import Links
from server.api.schemas.errors import ErrorBody
from server.api.schemas.generations import StatusName
from server.core.errors import (
    BY_STATUS,
    InvalidParamsError,
    PayloadTooLargeError,
    QueueFullError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from server.core.generation import Status
from server.service.service import Service
from server.storage.db.records import Filters
from server.storage.files.previews import Previews
from server.storage.files.videos import Videos

_bearer = HTTPBearer(auto_error=False, description="An API key; any, or none, while the server has none configured.")


async def get_service(request: Request) -> Service:
    """The application's service."""
    service: Service = request.app.state.service
    return service


async def get_videos(request: Request) -> Videos:
    """The application's videos."""
    videos: Videos = request.app.state.videos
    return videos


async def get_previews(request: Request) -> Previews:
    """The application's pictures of what runs."""
    previews: Previews = request.app.state.previews
    return previews


ServiceDep = Annotated[Service, Depends(get_service)]
VideosDep = Annotated[Videos, Depends(get_videos)]
PreviewsDep = Annotated[Previews, Depends(get_previews)]


async def get_tenant(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> str:
    """Whose request it is: a digest of its API key, or nobody's in particular while there are no keys."""
    authenticator: Authenticator = request.app.state.authenticator
    return await authenticator.tenant(credentials.credentials if credentials else None)


TenantDep = Annotated[str, Depends(get_tenant)]


async def read_json_object(request: Request, service: ServiceDep, _tenant: TenantDep) -> dict[str, Any]:
    """The request's body as a JSON object, within its size limit; read for nobody without a valid key."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError("Send the body as JSON, with the header Content-Type: application/json.")
    raw = await _read_body(request, service.settings.max_body_bytes, service.settings.body_timeout)
    try:
        body = json.loads(raw, parse_constant=_refuse_constant)
        # half a surrogate pair and 1e999 parse, and then fit into no file, database or answer
        json.dumps(body, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidParamsError("The body must be a JSON object: it is not valid JSON.") from error
    if not isinstance(body, dict):
        raise InvalidParamsError("The body must be a JSON object.")
    return body


async def _read_body(request: Request, limit: int, seconds: float) -> bytes:
    raw = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > limit:
                    raise PayloadTooLargeError(f"The body must be at most {limit} bytes.")
    except TimeoutError:
        # a connection that brings a byte an hour is held for nobody
        raise InvalidParamsError(
            f"The body did not come within {seconds:g} seconds.", {"Connection": "close"}
        ) from None
    return bytes(raw)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


JsonBody = Annotated[dict[str, Any], Depends(read_json_object)]


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="With a key that came before, within a day, it is not carried out again and gets that answer",
    ),
]


async def read_filters(
    tenant: TenantDep,
    status: Annotated[StatusName | None, Query(description="Only these")] = None,
    namespace: Annotated[str | None, Query(description="The request's target_namespace")] = None,
    model: Annotated[str | None, Query(description="The id of a model")] = None,
    media_type: Annotated[Literal["image", "video"] | None, Query()] = None,
    repo: Annotated[str | None, Query(description="The request's target_repo")] = None,
    folder: Annotated[str | None, Query(description="The request's target_directory")] = None,
) -> Filters:
    """The filters that queue and history share."""
    return Filters(
        tenant=tenant,
        statuses=None if status is None else frozenset({Status(status)}),
        namespace=namespace,
        model=model,
        media_type=media_type,
        repo=repo,
        folder=folder,
    )


FiltersDep = Annotated[Filters, Depends(read_filters)]


async def get_links(request: Request, service: ServiceDep, videos: VideosDep) -> Links:
    """Links on the address that this request, or the owner of the server, goes by."""
    return Links((service.settings.public_url or str(request.base_url)).rstrip("/"), videos)


LinksDep = Annotated[Links, Depends(get_links)]


def gives(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The errors a route documents, besides the 401 that all with a key have."""
    return {
        status: {"model": ErrorBody, "description": BY_STATUS[status].title, **_retry_after(status)}
        for status in (401, *statuses)
    }


def _retry_after(status: int) -> dict[str, Any]:
    if status not in (QueueFullError.status, UnavailableError.status):
        return {}
    return {"headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "string"}}}}


def json_body(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    """The documentation of a body that `read_json_object` reads, by the name of its schema."""
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}

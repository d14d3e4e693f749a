"""FastAPI dependencies of the routes: the service, the library, the tenant, the JSON body, filters and links.

All are coroutines, even those that await nothing: FastAPI runs plain functions in a thread pool, which is slower.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from server.api.auth import Authenticator, OpenRequests
from server.api.bodies.body import RequestBody
from server.api.bodies.reading import BodyReader
from server.api.links import Links
from server.api.schemas.errors import ErrorBody
from server.api.schemas.generations import StatusName
from server.core.errors import (
    BY_STATUS,
    PaddockError,
    QueueFullError,
    RangeNotSatisfiableError,
    UnauthenticatedError,
    UnavailableError,
)
from server.core.generation import Status
from server.service.library.library import Library
from server.service.notifications.webhooks.targets import WebhookDefaults
from server.service.service import Service
from server.storage.db.records import Filters
from server.storage.files.inputs import Inputs
from server.storage.files.previews import Previews
from server.storage.files.videos import Videos

_bearer = HTTPBearer(
    auto_error=False, description="An API key. A server without configured keys accepts any key, or none."
)


async def get_service(request: Request) -> Service:
    """Return the application's service."""
    service: Service = request.app.state.service
    return service


async def get_videos(request: Request) -> Videos:
    """Return the application's stored videos."""
    videos: Videos = request.app.state.videos
    return videos


async def get_previews(request: Request) -> Previews:
    """Return the application's stored previews."""
    previews: Previews = request.app.state.previews
    return previews


async def get_inputs(request: Request) -> Inputs:
    """Return the application's stored images of requests."""
    inputs: Inputs = request.app.state.inputs
    return inputs


async def get_library(request: Request) -> Library:
    """Return the application's library."""
    library: Library = request.app.state.library
    return library


ServiceDep = Annotated[Service, Depends(get_service)]
LibraryDep = Annotated[Library, Depends(get_library)]
VideosDep = Annotated[Videos, Depends(get_videos)]
PreviewsDep = Annotated[Previews, Depends(get_previews)]
InputsDep = Annotated[Inputs, Depends(get_inputs)]


async def get_tenant(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> AsyncIterator[str]:
    """Return the tenant of a request, a digest of its API key, or "" if the server has no keys.

    The request counts as open until it is answered.
    """
    authenticator: Authenticator = request.app.state.authenticator
    open_requests: OpenRequests = request.app.state.open_requests
    tenant = await authenticator.tenant(credentials.credentials if credentials else None)
    with open_requests.count(tenant):
        yield tenant


TenantDep = Annotated[str, Depends(get_tenant)]


async def get_key_check(request: Request, tenant: TenantDep) -> Callable[[], None]:
    """Return a function that raises UnauthenticatedError once the key of a request has been revoked."""
    authenticator: Authenticator = request.app.state.authenticator
    return partial(authenticator.check, tenant)


KeyCheckDep = Annotated[Callable[[], None], Depends(get_key_check)]


async def get_admin(request: Request, tenant: TenantDep) -> str:
    """Return the tenant of a request that may do what concerns every client; raises ForbiddenError."""
    authenticator: Authenticator = request.app.state.authenticator
    authenticator.check_admin(tenant)
    return tenant


AdminDep = Annotated[str, Depends(get_admin)]


async def read_request_body(request: Request, service: ServiceDep, tenant: TenantDep) -> AsyncIterator[RequestBody]:
    """Return the request's body within the size limits. It is not read before authentication.

    Raises UnsupportedMediaTypeError, PayloadTooLargeError or InvalidParamsError.
    """
    state = request.app.state
    with closing(RequestBody()) as body:
        await BodyReader(request, service, state.large_bodies, state.input_turns, tenant).read(body)
        yield body


BodyDep = Annotated[RequestBody, Depends(read_request_body)]


async def read_upload_body(request: Request, service: ServiceDep, tenant: TenantDep) -> AsyncIterator[RequestBody]:
    """Return the body of an upload within the size limits. It is not read before authentication.

    Raises UnsupportedMediaTypeError, PayloadTooLargeError or InvalidParamsError.
    """
    state = request.app.state
    with closing(RequestBody()) as body:
        await BodyReader(request, service, state.large_bodies, state.input_turns, tenant).read_upload(body)
        yield body


UploadDep = Annotated[RequestBody, Depends(read_upload_body)]


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A request with a key used within a day is not carried out again: it gets the first answer",
    ),
]


async def read_common_filters(
    tenant: TenantDep,
    namespace: Annotated[str | None, Query(description="The request's target_namespace")] = None,
    model: Annotated[str | None, Query(description="The id of a model")] = None,
    media_type: Annotated[Literal["image", "video"] | None, Query()] = None,
    repo: Annotated[str | None, Query(description="The request's target_repo")] = None,
    folder: Annotated[str | None, Query(description="The request's target_directory")] = None,
) -> Filters:
    """Read the filters that the queue and the history share."""
    return Filters(tenant=tenant, namespace=namespace, model=model, media_type=media_type, repo=repo, folder=folder)


CommonFiltersDep = Annotated[Filters, Depends(read_common_filters)]


async def read_filters(
    filters: CommonFiltersDep,
    status: Annotated[StatusName | None, Query(description="Only generations with this status")] = None,
) -> Filters:
    """Read the filters of the queue."""
    return filters if status is None else replace(filters, statuses=frozenset({Status(status)}))


FiltersDep = Annotated[Filters, Depends(read_filters)]


async def get_links(request: Request, service: ServiceDep, videos: VideosDep, inputs: InputsDep) -> Links:
    """Return a builder of links, based on the setting `public_url` or else on the request's own address."""
    return Links((service.settings.public_url or str(request.base_url)).rstrip("/"), videos, inputs)


LinksDep = Annotated[Links, Depends(get_links)]


async def get_webhook_defaults(request: Request, tenant: TenantDep, links: LinksDep) -> WebhookDefaults:
    """Return the webhook of the request's key, and what links in its events begin with."""
    authenticator: Authenticator = request.app.state.authenticator
    return WebhookDefaults(links.base, authenticator.webhook_url(tenant))


WebhookDefaultsDep = Annotated[WebhookDefaults, Depends(get_webhook_defaults)]


_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}}
_ERROR_HEADERS = {
    UnauthenticatedError.status: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    RangeNotSatisfiableError.status: {
        "Content-Range": {"description": "The size of the file: `bytes */SIZE`", "schema": {"type": "string"}}
    },
    QueueFullError.status: _RETRY_AFTER,
    UnavailableError.status: _RETRY_AFTER,
}


def error_responses(*statuses: int, needs_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI documentation of a route's errors: `statuses`, and those that the route has as any other.

    They are 400, for a host name that `BrowserGuard` refuses, and 401 and 429 if the route needs a key.
    """
    common = {400, 401, 429} if needs_key else {400}
    return {status: _error_response(BY_STATUS[status]) for status in sorted(common | set(statuses))}


def _error_response(kind: type[PaddockError]) -> dict[str, Any]:
    headers = _ERROR_HEADERS.get(kind.status)
    return {
        "model": ErrorBody,
        "description": kind.title,
        "content": {"application/json": {"example": kind.body_with(f"{kind.title}.")}},
        **({} if headers is None else {"headers": headers}),
    }


def json_body(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI documentation of a body that `read_request_body` reads. `schema` is the name of its schema."""
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}

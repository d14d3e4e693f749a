"""What OpenAI's routes that make videos have in common: their bodies, and how these are submitted."""

from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from typing import Annotated, Any

from fastapi import Depends, Request, Response

from server.api.bodies.body import RequestBody
from server.api.bodies.reading import BodyReader
from server.api.bodies.reference import Reference
from server.api.dependencies import IdempotencyKey, ServiceDep, TenantDep, WebhookDefaultsDep
from server.api.openai.resources import video
from server.api.openai.translation import IMAGE_REFERENCE, VIDEO_REFERENCE, in_words_of, translated
from server.api.serializers import warn
from server.core.generation import Origin
from server.service.notifications.webhooks.targets import WebhookDefaults
from server.service.service import Service


class Submission:
    """Submits the one video of a request, as the queue's route would, but refuses invalid parameters at once."""

    def __init__(
        self, service: Service, tenant: str, response: Response, key: str | None, webhook: WebhookDefaults
    ) -> None:
        self._service = service
        self._tenant = tenant
        self._response = response
        self._key = key
        self._webhook = webhook

    async def submit(
        self, body: RequestBody, content: Mapping[str, Any], notes: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Submit `content` with the files of a body, and return the `OpenaiVideo`. Raises as `Service.submit` does."""
        service = self._service
        with in_words_of(body.names):
            asked = translated(service, content)
            (generation,) = await service.submit(
                *(self._tenant, asked, Origin.QUEUE, self._key, body.inputs, self._webhook), is_strict=True, notes=notes
            )
        warn(self._response, [generation])
        return video(service, generation)


async def get_submission(
    service: ServiceDep,
    tenant: TenantDep,
    response: Response,
    webhook: WebhookDefaultsDep,
    idempotency_key: IdempotencyKey = None,
) -> Submission:
    """Return what submits the video of a request."""
    return Submission(service, tenant, response, idempotency_key, webhook)


SubmissionDep = Annotated[Submission, Depends(get_submission)]


class _Body:
    """Reads the body of a request, whose field `reference` is an input, within the size limits, once it may be sent.

    Raises UnsupportedMediaTypeError, PayloadTooLargeError or InvalidParamsError.
    """

    def __init__(self, reference: Reference | None) -> None:
        self._reference = reference

    async def __call__(self, request: Request, service: ServiceDep, tenant: TenantDep) -> AsyncIterator[RequestBody]:
        state = request.app.state
        with closing(RequestBody()) as body:
            reader = BodyReader(request, service, state.large_bodies, state.input_turns, tenant)
            await reader.read(body, self._reference)
            yield body


CreateBodyDep = Annotated[RequestBody, Depends(_Body(IMAGE_REFERENCE))]
VideoBodyDep = Annotated[RequestBody, Depends(_Body(VIDEO_REFERENCE))]

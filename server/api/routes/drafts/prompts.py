"""POST /prompts/enhance: have the language model rewrite a prompt, without a video."""

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from server.api.dependencies import BodyDep, KeyCheckDep, ServiceDep, TenantDep, error_responses, json_body
from server.api.responses.connected import while_connected
from server.api.schemas.drafts.prompts import PromptEnhanced
from server.api.schemas.requests import ENHANCE_PROMPT

router = APIRouter(prefix="/prompts", tags=["queue"])


@router.post(
    "/enhance",
    operation_id="enhancePrompt",
    summary="Enhance a prompt",
    response_model=PromptEnhanced,
    responses=error_responses(404, 413, 415, 503),
    openapi_extra=json_body(ENHANCE_PROMPT, {"prompt": "An ox by a lake"}),
)
async def enhance(
    request: Request, body: BodyDep, service: ServiceDep, tenant: TenantDep, check_key: KeyCheckDep
) -> dict[str, Any]:
    """Responds with the prompt as `enhance_prompt` would have it rewritten for a video from text, to be looked at and
    changed before it is sent. Counts as one of the rewrites that a key has in an hour. A server without a language
    model refuses the request.
    """
    service.check_open()
    named = body.content.get("model")
    # most models have the same tokenizer
    entry = next(iter(service.catalogue.values())) if named is None else service.entry(named)
    work = asyncio.create_task(service.prompts.enhance(tenant, body.content, entry.id))
    body.close()

    def stop() -> None:
        work.cancel()

    with service.when_closing(stop):
        try:
            # who has left must not hold one of the turns of its key
            done = await while_connected(request, work, check_key)
        except asyncio.CancelledError:
            # by the stop, if not by who waits for this
            service.check_open()
            raise
    return {**asdict(done), "warnings": list(done.warnings)}

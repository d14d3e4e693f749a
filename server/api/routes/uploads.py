"""POST /uploads: send an input in advance."""

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from server.api.bodies.reading import UPLOADED
from server.api.dependencies import ServiceDep, TenantDep, UploadDep, error_responses
from server.api.schemas.uploads import UPLOAD_BODY, Uploaded

router = APIRouter(prefix="/uploads", tags=["queue"])


@router.post(
    "",
    status_code=201,
    operation_id="uploadInput",
    summary="Upload an image, a video or a sound in advance",
    response_model=Uploaded,
    response_model_exclude_unset=True,
    responses=error_responses(413, 415, 503),
    openapi_extra=UPLOAD_BODY,
)
async def create(body: UploadDep, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Keeps an image, a video or a sound for an hour, for requests with the same key to name, for example as
    `input_image`. The body is the file, as application/octet-stream or as its own type, or a form whose field `file` is
    the file.
    """
    upload = await service.upload(tenant, body.inputs[UPLOADED])
    kept = upload.input
    about = {name: value for name, value in asdict(kept).items() if name not in ("digest", "warnings")}
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size,
        **about,
        "warnings": list(kept.warnings),
        "expires": int(upload.expires),
    }

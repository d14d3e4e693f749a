"""POST /uploads: send an image in advance."""

from typing import Any

from fastapi import APIRouter

from server.api.bodies.reading import UPLOADED
from server.api.dependencies import ServiceDep, TenantDep, UploadDep, error_responses
from server.api.schemas.uploads import UPLOAD_BODY, Uploaded

router = APIRouter(prefix="/uploads", tags=["queue"])


@router.post(
    "",
    status_code=201,
    operation_id="uploadImage",
    summary="Upload an image in advance",
    response_model=Uploaded,
    responses=error_responses(413, 415, 503),
    openapi_extra=UPLOAD_BODY,
)
async def create(body: UploadDep, service: ServiceDep, tenant: TenantDep) -> dict[str, Any]:
    """Keeps an image for an hour, for requests with the same key to name as their `input_image`. The body is the file,
    as application/octet-stream or as the type of the image, or a form whose field `file` is the file.
    """
    upload = await service.upload(tenant, body.inputs[UPLOADED])
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.size,
        "width": upload.image.width,
        "height": upload.image.height,
        "warnings": list(upload.image.warnings),
        "expires": int(upload.expires),
    }

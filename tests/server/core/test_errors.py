"""The errors of the API and their JSON body."""

import pytest

from server.core import errors


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (errors.UnauthenticatedError("m"), 401, "unauthenticated"),
        (errors.ForbiddenError("m"), 403, "forbidden"),
        (errors.InvalidParamsError("m"), 400, "invalid_params"),
        (errors.ResourceNotFoundError("m"), 404, "resource_not_found"),
        (errors.PaddockError("m"), 500, "unknown_error"),
        (errors.MethodNotAllowedError("m"), 405, "method_not_allowed"),
        (errors.ConflictError("m"), 409, "conflict"),
        (errors.PayloadTooLargeError("m"), 413, "payload_too_large"),
        (errors.UnsupportedMediaTypeError("m"), 415, "unsupported_media_type"),
        (errors.QueueFullError("m", 60), 429, "queue_full"),
        (errors.UnavailableError("m"), 503, "unavailable"),
    ],
)
def test_the_body_has_both_error_formats_of_the_hosted_api(error: errors.PaddockError, status: int, kind: str) -> None:
    assert error.status == status
    assert errors.BY_STATUS[status].type == kind
    assert error.body == {
        "error": {"type": kind, "title": error.title, "detail": "m", "message": "m"},
        "status": "error",
        "status_message": kind,
    }

"""The errors of the API and their JSON body."""

import pytest

from server.core import errors
from server.core.errors import without_paths


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
        (errors.RangeNotSatisfiableError("m", 10), 416, "range_not_satisfiable"),
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


@pytest.mark.parametrize(
    ("sentence", "public"),
    [
        ("/home/me/.cache/hub/model_index.json is missing.", "model_index.json is missing."),
        (
            "Incomplete: /data/wan/vae/config.json is empty.",
            "Incomplete: config.json is empty.",
        ),
        ("'/data/loras/film.safetensors' is a DoRA.", "'film.safetensors' is a DoRA."),
        ("No space in /data/models/ (1 GiB)", "No space in models/ (1 GiB)"),
        (r"C:\wan\vae\config.json is empty.", "config.json is empty."),
        ("~/weights/wan/a.gguf and ~/b.gguf differ.", "a.gguf and b.gguf differ."),
        ("No weights of Wan-AI/Wan2.1-T2V-14B-Diffusers.", "No weights of Wan-AI/Wan2.1-T2V-14B-Diffusers."),
        (
            "https://hub.example/api/models does not answer.",
            "https://hub.example/api/models does not answer.",
        ),
        ("1/2 of 3 GiB/s, and/or 16:9", "1/2 of 3 GiB/s, and/or 16:9"),
        ("There is no route /api/ai/nothing.", "There is no route nothing."),
        ("['/usr/bin/gcc', '-I/home/me/py/include', '-L/lib/x']", "['gcc', '-Iinclude', '-Lx']"),
        ("/tmp/tmpab/main.c:5:10: fatal error: Python.h: none", "main.c:5:10: fatal error: Python.h: none"),
    ],
)
def test_folders_are_left_out(sentence: str, public: str) -> None:
    assert without_paths(sentence) == public

"""The routes and the fields of OpenAI's published client, compared with the document of this server."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, get_args, get_type_hints

import httpx2
import openai
import pytest
from openai.types import (
    Model,
    Video,
    VideoCreateParams,
    VideoDeleteResponse,
    VideoDownloadContentParams,
    VideoEditParams,
    VideoExtendParams,
    VideoListParams,
    VideoRemixParams,
)

from server.api.openai.schemas import OpenaiModel, OpenaiVideo, OpenaiVideoDeleted
from server.core.settings.settings import Settings
from server.runtime.app import create_app

# the package says of its methods for videos that OpenAI's own service ends
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API is scheduled:DeprecationWarning")

DOCUMENT = create_app(Settings(demo=True)).openapi()
PATHS = DOCUMENT["paths"]
CALLS: dict[str, Callable[[openai.OpenAI], Any]] = {
    "create": lambda client: client.videos.create(prompt="x"),
    "list": lambda client: client.videos.list(),
    "retrieve": lambda client: client.videos.retrieve("ID"),
    "delete": lambda client: client.videos.delete("ID"),
    "download_content": lambda client: client.videos.download_content("ID"),
    "remix": lambda client: client.videos.remix("ID", prompt="x"),
    "extend": lambda client: client.videos.extend(prompt="x", seconds="4", video=b"x"),
    "edit": lambda client: client.videos.edit(prompt="x", video=b"x"),
    "create_character": lambda client: client.videos.create_character(name="x", video=b"x"),
    "get_character": lambda client: client.videos.get_character("ID"),
    "models.list": lambda client: client.models.list(),
    "models.retrieve": lambda client: client.models.retrieve("ID"),
}
NOT_THERE = {"create_character", "get_character"}
HELPERS = {"create_and_poll", "poll", "with_raw_response", "with_streaming_response"}


def asked_for(call: Callable[[openai.OpenAI], Any]) -> tuple[str, str]:
    """Method and path of the request that the package sends."""
    sent: list[tuple[str, str]] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append((request.method.lower(), request.url.path))
        return httpx2.Response(404, json={})

    http = openai.DefaultHttpxClient(transport=httpx2.MockTransport(answer))
    client = openai.OpenAI(base_url="http://paddock.test/v1", api_key="key", http_client=http)
    with client, suppress(openai.NotFoundError):
        call(client)
    (found,) = sent
    return found


def documented(method: str, path: str) -> dict[str, Any] | None:
    for template, operations in PATHS.items():
        if re.fullmatch(re.sub(r"{\w+}", "ID", template), path):
            return dict(operations[method]) if method in operations else None
    return None


def test_every_method_of_the_package_is_known() -> None:
    methods = {name for name in vars(openai.resources.Videos) if not name.startswith("_")} - HELPERS

    assert methods == {name for name in CALLS if "." not in name}


@pytest.mark.parametrize("name", CALLS)
def test_its_requests_have_a_route(name: str) -> None:
    method, path = asked_for(CALLS[name])

    assert (documented(method, path) is None) == (name in NOT_THERE), (method, path)


@pytest.mark.parametrize(
    ("theirs", "ours", "left_out"),
    [
        (Video, OpenaiVideo, set[str]()),
        (VideoDeleteResponse, OpenaiVideoDeleted, set[str]()),
        (Model, OpenaiModel, {"shutdown_date"}),
    ],
)
def test_the_fields_of_its_objects_are_those_of_the_answers(theirs: Any, ours: Any, left_out: set[str]) -> None:
    assert ours.model_fields.keys() == theirs.model_fields.keys() - left_out
    for name, field in ours.model_fields.items():
        if set(map(type, get_args(field.annotation))) == {str}:
            # values that are listed one by one
            assert set(get_args(field.annotation)) == set(get_args(theirs.model_fields[name].annotation))


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        ("post", "/v1/videos", VideoCreateParams),
        ("post", "/v1/videos/{video_id}/remix", VideoRemixParams),
        ("post", "/v1/videos/extensions", VideoExtendParams),
        ("post", "/v1/videos/edits", VideoEditParams),
        ("get", "/v1/videos", VideoListParams),
        ("get", "/v1/videos/{video_id}/content", VideoDownloadContentParams),
    ],
)
def test_its_parameters_are_documented(method: str, path: str, params: Any) -> None:
    operation = PATHS[path][method]
    if method == "get":
        found = {each["name"]: each["schema"] for each in operation["parameters"] if each["in"] == "query"}
    else:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        found = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]["properties"]

    hints = get_type_hints(params)
    assert found.keys() == hints.keys()
    for name, schema in found.items():
        if "enum" in schema:
            assert set(schema["enum"]) == set(get_args(hints[name]))

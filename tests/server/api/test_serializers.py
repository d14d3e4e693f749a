"""Answers that are read while they are sent are whole."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.api.serializers import videos_response
from server.storage.files.interface import StoredFile


class Files:
    """A storage of some files, each read in chunks of a size."""

    def __init__(self, contents: dict[str, bytes], chunk: int) -> None:
        self.contents = contents
        self.chunk = chunk

    async def open(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        content = self.contents[key][start:end]
        for begin in range(0, len(content), self.chunk):
            yield content[begin : begin + self.chunk]


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 100])
async def test_videos_in_base64_are_whole_whatever_their_size(chunk: int) -> None:
    contents = {f"{size}.mp4": bytes(range(256))[:size] for size in (0, 1, 2, 3, 4, 50, 256)}
    storage: Any = Files(contents, chunk)
    files = [StoredFile(key, len(content), 0.0) for key, content in contents.items()]

    response = videos_response({"model": "m", "created": 5}, files, storage, {"Paddock-Warnings": "w"})
    sent = b"".join([bytes(part) async for part in response.body_iterator])  # type: ignore[arg-type]

    answer = json.loads(sent)
    assert {name: answer[name] for name in ("model", "created")} == {"model": "m", "created": 5}
    assert [base64.b64decode(video["b64_json"]) for video in answer["videos"]] == list(contents.values())
    assert response.headers["content-length"] == str(len(sent))
    assert response.headers["content-type"] == "application/json"
    assert response.headers["paddock-warnings"] == "w"

"""Bodies that bring images: larger than others, so they are written to files while they arrive, few at a time."""

import asyncio
import math
import re
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pipelines.core.files import sha256_of
from server.api.bodies.body import RequestBody
from server.api.bodies.json_body import parse_object
from server.core.errors import InvalidParamsError, PayloadTooLargeError
from server.media.limits import RefusedInputError
from server.media.process import run_child
from server.media.references import MAX_CHARS, is_reference
from server.service.requests.echo import AUDIO_PROMPT, TARGETS, WEBHOOK
from server.service.requests.inputs import INPUTS

MAX_BYTES = 28 * 2**20
"""Limit of a body with inputs: 20 MiB in base64, and the rest."""

MAX_AT_ONCE = 4
MAX_AT_ONCE_OF_TENANT = 1
"""So many of them are read at a time, in all and of one tenant."""

MAX_FIELDS = 64
MAX_FIELD_BYTES = 128 * 1024
"""Limits of the fields of a multipart body that are no files."""

_TEXTS = {
    *("model", "prompt", "negative_prompt", "resolution", "aspect_ratio", "response_format", "step_cache", "sampler"),
    AUDIO_PROMPT,
    WEBHOOK[0],
    *TARGETS,
}
"""Fields of a multipart body that stay texts, even if they look like numbers."""

_LISTS = ("loras", WEBHOOK[1])
"""Fields of a multipart body that are lists in JSON."""

_NUMBER = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


class Spool:
    """A file that a body is written to as it arrives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb")

    async def write(self, data: bytes | bytearray) -> None:
        """Append."""
        await asyncio.to_thread(self._file.write, data)

    async def close(self) -> None:
        """Write out what is still in memory."""
        await asyncio.to_thread(self._file.close)


async def split_large(body: RequestBody, path: Path, max_body_bytes: int, names: Sequence[str] = INPUTS) -> bytes:
    """Return the JSON of a body in a file without its inputs `names`, which become files of their own.

    Raises PayloadTooLargeError or InvalidParamsError.
    """
    try:
        found = await run_child("server.media.split_json", str(path), str(body.folder), str(max_body_bytes), *names)
    except RefusedInputError as error:
        raise InvalidParamsError(f"The body {error}.") from None
    if found["body"] is None:
        raise PayloadTooLargeError(f"The body must be at most {max_body_bytes} bytes, without its inputs.")
    await asyncio.to_thread(path.unlink)
    for name in found["files"]:
        body.inputs[name] = body.folder / name
    return str(found["body"]).encode()


async def note_inputs(body: RequestBody) -> None:
    """Move inputs in the JSON to files, and leave a digest of each file in their place.

    What names an input instead, such as a URL, stays in the JSON, also if it came in a file.
    """
    for name in INPUTS:
        if isinstance(value := body.content.get(name), str) and not _is_reference(value):
            body.inputs[name] = body.folder / name
            await asyncio.to_thread(body.inputs[name].write_text, value, encoding="utf-8", errors="replace")
    for name, path in [*body.inputs.items()]:
        if (reference := await asyncio.to_thread(_reference_in, path)) is not None:
            body.content[name] = reference
            del body.inputs[name]
        else:
            body.content[name] = f"sha256:{await asyncio.to_thread(sha256_of, path)}"


def _is_reference(text: str) -> bool:
    return len(text) <= MAX_CHARS and is_reference(text)


def _reference_in(path: Path) -> str | None:
    if path.stat().st_size > 4 * MAX_CHARS:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
    return text if _is_reference(text) else None


class _Parser(MultiPartParser):
    """A parser that knows whether the body had its end: the library takes a half one for whole."""

    is_complete = False

    def on_end(self) -> None:
        self.is_complete = True
        super().on_end()


async def read_multipart(
    request: Request,
    body: RequestBody,
    chunks: AsyncIterator[bytes],
    max_fields: int,
    files: Sequence[str] = INPUTS,
    long_texts: Collection[str] = (),
) -> None:
    """Read a multipart body: files become inputs, fields become texts, numbers, booleans or lists.

    `files` are the fields that may be files; texts in `long_texts` become inputs, too. All others together have at most
    `max_fields` bytes. Raises PayloadTooLargeError or InvalidParamsError.
    """
    parser = _Parser(
        request.headers,
        chunks,  # type: ignore[arg-type]
        max_files=len(files),
        max_fields=MAX_FIELDS,
        # the limit of the whole body counts, too
        max_part_size=MAX_BYTES if long_texts else MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "it is malformed"
        raise InvalidParamsError(f"The multipart body cannot be read: {reason.rstrip('.')[:200]}.") from None
    try:
        if not parser.is_complete:
            raise InvalidParamsError("The multipart body cannot be read: its last boundary is missing.")
        size = 0
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if not value.filename and not value.size:
                    # a form whose field for a file was left empty
                    continue
                if name not in files:
                    raise InvalidParamsError(f"{_shown(name)} must not be a file; {', '.join(files)} may be one.")
                _check_new(body, name)
                body.inputs[name] = body.folder / name
                await asyncio.to_thread(_copy, value, body.inputs[name])
            elif value and name in long_texts:
                _check_new(body, name)
                body.inputs[name] = body.folder / name
                await asyncio.to_thread(body.inputs[name].write_text, value, encoding="utf-8", errors="replace")
            elif value or name not in (*INPUTS, *long_texts):
                size += len(name) + len(value)
                if size > max_fields:
                    raise PayloadTooLargeError(f"The fields of the body must be at most {max_fields} bytes in all.")
                if name in INPUTS:
                    _check_new(body, name)
                body.content[name] = value if name in _TEXTS or name in INPUTS else _value(name, value)
    finally:
        await form.close()


def _check_new(body: RequestBody, name: str) -> None:
    if name in body.inputs or name in body.content:
        raise InvalidParamsError(f"{name} is in the multipart body twice.")


def _copy(file: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)


def _value(name: str, text: str) -> Any:
    """Return the number or boolean that a field holds, a list, or else its text."""
    if name in _LISTS:
        try:
            return parse_object(f'{{"{name}":{text}}}'.encode()).get(name)
        except (InvalidParamsError, UnicodeError):
            raise InvalidParamsError(f"{name} must be a list in JSON.") from None
    if _NUMBER.fullmatch(text):
        number = float(text)
        return int(text) if text.lstrip("-").isdigit() else number if math.isfinite(number) else text
    return {"true": True, "false": False, "null": None}.get(text, text)


def _shown(name: str) -> str:
    return ascii(name[:80])

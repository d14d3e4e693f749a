"""The filters of the history: those of the queue, and more."""

from dataclasses import replace
from typing import Annotated

from fastapi import Depends, Query
from pydantic import BeforeValidator

from server.api.dependencies import CommonFiltersDep
from server.api.schemas.generations import StatusName
from server.core.errors import InvalidParamsError
from server.core.generation import Status
from server.service.library.bodies import MAX_TAG_CHARS
from server.storage.db.records import Filters

# a larger one could be no moment of the database's
_MAX_SECONDS = 10**11
_SIZE = r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}$"


def _split(values: object) -> object:
    """The values of a parameter that is given once with commas, or several times."""
    if not isinstance(values, list):
        return values
    return [part for value in values for part in (value.split(",") if isinstance(value, str) else [value])]


async def read_library_filters(
    filters: CommonFiltersDep,
    status: Annotated[
        list[StatusName] | None,
        BeforeValidator(_split),
        Query(description="Only generations with one of these statuses: given several times, or with commas between"),
    ] = None,
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            description="Only generations whose prompt has all these words, in any order and case. The beginning of a "
            "word is enough. In Chinese and other scripts without spaces, any part of the text is found. Punctuation "
            "is ignored; of nothing else, nothing is found.",
        ),
    ] = None,
    since: Annotated[
        int | None, Query(ge=0, le=_MAX_SECONDS, description="The first `enqueued_at`, in Unix seconds")
    ] = None,
    until: Annotated[
        int | None, Query(ge=0, le=_MAX_SECONDS, description="The last `enqueued_at`, in Unix seconds")
    ] = None,
    size: Annotated[
        str | None, Query(pattern=_SIZE, description="The requested width and height in pixels, such as `832x480`")
    ] = None,
    favourite: Annotated[bool | None, Query(description="Only favourites, or all but them")] = None,
    tag: Annotated[
        str | None, Query(min_length=1, max_length=MAX_TAG_CHARS, description="Only generations with this tag")
    ] = None,
) -> Filters:
    """Read the filters of the history."""
    if since is not None and until is not None and since > until:
        raise InvalidParamsError("since must not be after until.")
    return replace(
        filters,
        statuses=None if status is None else frozenset(map(Status, status)),
        search=search,
        since=since,
        # rows tell whole seconds
        until=None if until is None else until + 1 - 1e-6,
        size=size,
        favourite=favourite,
        tag=None if tag is None else tag.strip(),
    )


LibraryFiltersDep = Annotated[Filters, Depends(read_library_filters)]

"""Types of fields that several schemas share."""

from typing import Annotated, Any

from pydantic import Field

LONG: dict[str, Any] = {"format": "int64"}
"""What says of an integer that it may need more than 32 bits, which not every language's integers have."""

UnixSeconds = Annotated[int, Field(description="Unix time in seconds", json_schema_extra=LONG)]
Bytes = Annotated[int, Field(description="Bytes", json_schema_extra=LONG)]

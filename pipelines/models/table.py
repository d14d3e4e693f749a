"""The base of all tables in a model's file."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of a model's file: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

"""Generations to rows and back, and the look-ups that every topic needs."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, func, select

from pipelines.core.request import INPUTS, VideoParams
from server.core.generation import Enhancement, Generation, Origin, Status, Webhook
from server.storage.db.schema import generations

# JSON has no levels of the step cache, only their names
_PARAMS = TypeAdapter(VideoParams)

# built once, as it is the most frequent statement
_ONE = select(generations).where(generations.c.id == bindparam("wanted"), generations.c.tenant == bindparam("whose"))


def to_row(generation: Generation) -> dict[str, Any]:
    """The row of a new generation; the database gives it its `seq`."""
    inputs = {name: None if generation.params is None else getattr(generation.params, name) for name in INPUTS}
    row = asdict(generation) | {"variant": generation.variant, "size": generation.size, **inputs}
    del row["seq"]
    return row


def from_row(row: RowMapping | Mapping[str, Any]) -> Generation:
    """The generation that a row holds. A row without some of the columns gives one without their values.

    One whose inputs are not kept any more has none in its parameters.
    """
    stored = row.get("params")
    params = _PARAMS.validate_python(stored) if stored else None
    if params is not None:
        kept: dict[str, Any] = {name: getattr(params, name) and row.get(name) for name in INPUTS}
        params = replace(params, **kept)
    webhook = row.get("webhook")
    return Generation(
        **{
            **{name: value for name, value in row.items() if name not in ("variant", "size", *INPUTS)},
            "status": Status(row["status"]),
            "origin": Origin(row["origin"]),
            "warnings": tuple(row.get("warnings") or ()),
            "enhancement": Enhancement(**row["enhancement"]) if row.get("enhancement") else None,
            "webhook": Webhook(**{**webhook, "events": tuple(webhook["events"])}) if webhook else None,
            "params": params,
        }
    )


def find(tx: Connection, generation_id: str, tenant: str, *, for_update: bool = False) -> Generation | None:
    """A tenant's generation by its id. `for_update` locks it until the transaction ends."""
    wanted = _ONE.with_for_update() if for_update else _ONE
    row = tx.execute(wanted, {"wanted": generation_id, "whose": tenant}).mappings().one_or_none()
    return from_row(row) if row else None


def count_queued(tx: Connection, tenant: str | None = None) -> int:
    """How many generations wait, of one tenant or (None) of all."""
    whose = [] if tenant is None else [generations.c.tenant == tenant]
    # by the status alone, which an index has together with the tenant
    return tx.scalar(select(func.count()).where(generations.c.status == Status.QUEUED, *whose)) or 0


def is_among(ids: Iterable[str]) -> ColumnElement[bool]:
    """The condition that a generation's id is one of these."""
    return generations.c.id.in_(list(ids))

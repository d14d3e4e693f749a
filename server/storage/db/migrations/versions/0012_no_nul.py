"""Replaces NUL in what clients sent: PostgreSQL stores it in JSON, and then fails in every search that reads it."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_generations = sa.table(
    "generations", sa.column("seq", sa.Integer), sa.column("parameters", sa.JSON), sa.column("params", sa.JSON)
)


def upgrade() -> None:
    """Put U+FFFD, the replacement character, in its place."""
    tx, columns = op.get_bind(), _generations.c
    texts = [sa.cast(column, sa.Text) for column in (columns.parameters, columns.params)]
    has_nul = sa.or_(*(text.contains("\\u0000", autoescape=True) for text in texts))
    for row in tx.execute(sa.select(_generations).where(has_nul)).all():
        tx.execute(
            sa.update(_generations)
            .where(columns.seq == row.seq)
            .values(
                parameters=_without_nul(row.parameters),
                params=sa.null() if row.params is None else _without_nul(row.params),
            )
        )


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(each) for each in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(each) for name, each in value.items()}
    return value

"""Generations whose image has yet to be fetched, apart from those that wait for their turn."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Add the column, and have the indexes of the queue leave out the rows where it is set."""
    op.add_column("generations", sa.Column("awaited_input", sa.String))
    for name in ("queue_by_tenant", "queue_by_model", "queue_by_variant"):
        op.drop_index(name, "generations")
    in_turn = sa.text("completed_at IS NULL AND deferred_behind IS NULL AND awaited_input IS NULL")
    awaiting = sa.text("completed_at IS NULL AND awaited_input IS NOT NULL")
    _index("queue_by_tenant", ["status", "tenant", "seq"], in_turn)
    _index("queue_by_model", ["status", "model", "tenant", "seq"], in_turn)
    _index("queue_by_variant", ["status", "variant", "model", "tenant", "seq"], in_turn)
    _index("queue_awaiting", ["seq"], awaiting)


def _index(name: str, columns: list[str], rows: sa.TextClause) -> None:
    op.create_index(name, "generations", columns, sqlite_where=rows, postgresql_where=rows)

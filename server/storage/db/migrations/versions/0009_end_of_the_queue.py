"""Generations that wait at the end of the queue, apart from those that wait for their turn."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the column, and have the indexes of the queue leave out the rows where it is set."""
    op.add_column("generations", sa.Column("deferred_behind", sa.Integer))
    for name in ("queue_by_tenant", "queue_by_model"):
        op.drop_index(name, "generations")
    in_turn = sa.text("completed_at IS NULL AND deferred_behind IS NULL")
    deferred = sa.text("completed_at IS NULL AND deferred_behind IS NOT NULL")
    _index("queue_by_tenant", ["status", "tenant", "seq"], in_turn)
    _index("queue_by_model", ["status", "model", "tenant", "seq"], in_turn)
    _index("queue_deferred", ["deferred_behind", "seq"], deferred)


def _index(name: str, columns: list[str], rows: sa.TextClause) -> None:
    op.create_index(name, "generations", columns, sqlite_where=rows, postgresql_where=rows)

"""The turns that tenants have had, and the queue by tenant."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table and the indexes, which replace an earlier one."""
    op.create_table(
        "turns",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("passed", sa.Integer, nullable=False),
    )
    op.drop_index("generations_by_model", "generations")
    is_active, was_claimed = sa.text("completed_at IS NULL"), sa.text("attempt > 0")
    _index("queue_by_tenant", ["status", "tenant", "seq"], is_active)
    _index("queue_by_model", ["status", "model", "tenant", "seq"], is_active)
    _index("claims_by_tenant", ["tenant", "seq"], was_claimed)


def _index(name: str, columns: list[str], rows: sa.TextClause) -> None:
    op.create_index(name, "generations", columns, sqlite_where=rows, postgresql_where=rows)

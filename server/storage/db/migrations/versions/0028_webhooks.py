"""Webhooks: those of generations and of keys, and what is to be sent to them."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Add the columns and the table."""
    op.add_column("generations", sa.Column("webhook", sa.JSON))
    op.add_column("keys", sa.Column("webhook_url", sa.String))
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("snapshot", sa.JSON),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("error", sa.String),
    )
    is_undelivered = sa.text("ended_at IS NULL")
    op.create_index(
        *("webhook_deliveries_due", "webhook_deliveries", ["due_at"]),
        sqlite_where=is_undelivered,
        postgresql_where=is_undelivered,
    )
    op.create_index("webhook_deliveries_by_end", "webhook_deliveries", ["ended_at"])

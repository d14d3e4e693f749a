"""Requests with an idempotency key, and the generations recorded for them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "requests",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("generations", sa.JSON, nullable=False),
        sa.Column("made_at", sa.Float, nullable=False),
    )
    op.create_index("requests_by_age", "requests", ["made_at"])

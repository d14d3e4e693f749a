"""Numbers of the events of each tenant, so that a client resumes a stream where it broke."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Add the counters, and the column, null in old rows: no client has a number of theirs."""
    op.create_table(
        "event_counters",
        sa.Column("tenant", sa.String, primary_key=True),
        sa.Column("newest", sa.Integer, nullable=False),
    )
    op.add_column("generations", sa.Column("event_number", sa.Integer))
    has_event = sa.text("event_number IS NOT NULL")
    for name, columns in (
        ("generations_by_event", ["tenant", "event_number"]),
        ("generations_by_recent_event", ["tenant", "completed_at", "event_number"]),
    ):
        op.create_index(name, "generations", columns, sqlite_where=has_event, postgresql_where=has_event)

"""The schema of v0.1.0."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "generations",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(36), nullable=False, unique=True),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("origin", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("media_type", sa.String, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("params", sa.JSON),
        sa.Column("target_namespace", sa.String),
        sa.Column("target_repo", sa.String),
        sa.Column("target_directory", sa.String),
        sa.Column("status", sa.String, nullable=False),
        sa.Column("error_message", sa.String),
        sa.Column("artifact", sa.String),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("fingerprint", sa.JSON),
        sa.Column("enqueued_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("completed_at", sa.Float),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.String),
        sa.Column("lease_until", sa.Float),
        sa.Column("worker_deaths", sa.Integer, nullable=False),
        sa.Column("server_deaths", sa.Integer, nullable=False),
        sa.Column("furthest", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("generations_by_status", "generations", ["status", "seq"])
    op.create_index("generations_by_tenant", "generations", ["tenant", "seq"])
    op.create_index("generations_by_completion", "generations", ["completed_at"])
    op.create_table(
        "attempts",
        sa.Column("generation_id", sa.String(36), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("owner", sa.String, nullable=False),
        sa.Column("started_at", sa.Float, nullable=False),
        sa.Column("ended_at", sa.Float),
        sa.Column("outcome", sa.String),
    )

"""The variant of its model that a generation needs, and an index for the queue of each variant."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column, empty in old rows: these are then only not preferred for their variant."""
    op.add_column("generations", sa.Column("variant", sa.String(16), nullable=False, server_default=""))
    in_turn = sa.text("completed_at IS NULL AND deferred_behind IS NULL")
    op.create_index(
        "queue_by_variant",
        "generations",
        ["status", "variant", "model", "tenant", "seq"],
        sqlite_where=in_turn,
        postgresql_where=in_turn,
    )

"""The progress of running attempts, for the other servers on the same database."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Add the column, null in old rows: what they tell of has ended, or will be told again."""
    op.add_column("attempts", sa.Column("live", sa.JSON))

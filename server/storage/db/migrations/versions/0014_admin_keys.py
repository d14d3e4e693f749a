"""Admin keys: while there is one, only such keys may load and unload models."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the column; existing keys are not admin keys."""
    op.add_column("keys", sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()))

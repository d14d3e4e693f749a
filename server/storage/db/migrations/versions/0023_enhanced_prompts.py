"""Prompts that a language model rewrites before their generation is claimed."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Add the column, null in old rows: none was rewritten."""
    op.add_column("generations", sa.Column("enhancement", sa.JSON))

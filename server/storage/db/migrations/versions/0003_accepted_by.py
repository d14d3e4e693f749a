"""The server that accepted a generation, now that several may share a database."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column; it is empty for older generations."""
    op.add_column("generations", sa.Column("accepted_by", sa.String))

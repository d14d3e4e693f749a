"""The host of a cluster on which a generation was last started."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Add the column, null in old rows and outside of a cluster."""
    op.add_column("generations", sa.Column("host", sa.String))

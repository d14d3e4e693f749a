"""What a user should know about a generation that does not keep it from succeeding."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column, null in old rows."""
    op.add_column("generations", sa.Column("warnings", sa.JSON))

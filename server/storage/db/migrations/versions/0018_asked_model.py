"""The model that a request named, where another one answers for it."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Add the column, null in old rows: each was made by the model that was asked."""
    op.add_column("generations", sa.Column("asked_model", sa.String))

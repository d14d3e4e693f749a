"""An index for the queue of each model."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the index, unless a version between the releases has made it."""
    op.create_index("generations_by_model", "generations", ["status", "model", "seq"], if_not_exists=True)

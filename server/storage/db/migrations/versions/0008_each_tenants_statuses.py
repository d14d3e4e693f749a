"""An index for each tenant's generations of a status: what is active, or failed, is found among any history."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the index."""
    op.create_index("generations_by_tenant_and_status", "generations", ["tenant", "status", "seq"])

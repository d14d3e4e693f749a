"""An index of each tenant's generations by status: active or failed ones are found in a history of any size."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the index."""
    op.create_index("generations_by_tenant_and_status", "generations", ["tenant", "status", "seq"])

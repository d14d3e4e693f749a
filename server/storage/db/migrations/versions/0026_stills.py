"""Whether a thumbnail and a spritesheet are kept beside a video."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Add the column, null in old rows: their stills are drawn when the server has time."""
    op.add_column("generations", sa.Column("has_stills", sa.Boolean))
    lacks = sa.text("artifact IS NOT NULL AND has_stills IS NULL")
    op.create_index("generations_without_stills", "generations", ["seq"], sqlite_where=lacks, postgresql_where=lacks)

"""An index of the rows with a kept video or image, oldest first, in place of the one of videos alone."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Replace the index."""
    op.drop_index("generations_by_video", "generations")
    has_files = sa.text("artifact IS NOT NULL OR image IS NOT NULL")
    op.create_index(
        "generations_by_files", "generations", ["completed_at"], sqlite_where=has_files, postgresql_where=has_files
    )

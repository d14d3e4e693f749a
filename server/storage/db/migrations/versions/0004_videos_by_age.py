"""An index of the kept videos, oldest first."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the index, of rows with a video only."""
    has_video = sa.text("artifact IS NOT NULL")
    op.create_index(
        "generations_by_video", "generations", ["completed_at"], sqlite_where=has_video, postgresql_where=has_video
    )

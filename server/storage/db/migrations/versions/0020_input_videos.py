"""The videos that generations are made of."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the column, null in old rows: none was made of a video."""
    op.add_column("generations", sa.Column("video", sa.String(64)))
    has_video = sa.text("video IS NOT NULL")
    op.create_index(
        "generations_by_video",
        "generations",
        ["video", "tenant"],
        sqlite_where=has_video,
        postgresql_where=has_video,
    )
    op.drop_index("generations_by_files", "generations")
    has_files = sa.text("artifact IS NOT NULL OR image IS NOT NULL OR last_image IS NOT NULL OR video IS NOT NULL")
    op.create_index(
        "generations_by_files", "generations", ["completed_at"], sqlite_where=has_files, postgresql_where=has_files
    )

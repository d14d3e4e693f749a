"""The videos that generations are made of or extend."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add the columns, null in old rows: none was made of a video."""
    for column, index in (("video", "generations_by_video"), ("extends", "generations_by_extended")):
        op.add_column("generations", sa.Column(column, sa.String(64)))
        is_named = sa.text(f"{column} IS NOT NULL")
        op.create_index(index, "generations", [column, "tenant"], sqlite_where=is_named, postgresql_where=is_named)
    op.drop_index("generations_by_files", "generations")
    named = ("artifact", "image", "last_image", "video", "extends")
    has_files = sa.text(" OR ".join(f"{column} IS NOT NULL" for column in named))
    op.create_index(
        "generations_by_files", "generations", ["completed_at"], sqlite_where=has_files, postgresql_where=has_files
    )

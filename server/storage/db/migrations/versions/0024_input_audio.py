"""The sounds that are heard with generations."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Add the columns, null and false in old rows: none had a sound."""
    op.add_column("generations", sa.Column("audio", sa.String(64)))
    op.add_column("generations", sa.Column("has_audio", sa.Boolean, nullable=False, server_default=sa.false()))
    is_named = sa.text("audio IS NOT NULL")
    op.create_index(
        "generations_by_audio", "generations", ["audio", "tenant"], sqlite_where=is_named, postgresql_where=is_named
    )
    op.drop_index("generations_by_files", "generations")
    named = ("artifact", "image", "last_image", "video", "extends", "audio")
    has_files = sa.text(" OR ".join(f"{column} IS NOT NULL" for column in named))
    op.create_index(
        "generations_by_files", "generations", ["completed_at"], sqlite_where=has_files, postgresql_where=has_files
    )

"""The model that a request named, where another one answers for it, and the images that generations end with."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Add the columns, null in old rows: each was made by the model that was asked, without a last image."""
    op.add_column("generations", sa.Column("asked_model", sa.String))
    op.add_column("generations", sa.Column("last_image", sa.String(64)))
    has_image = sa.text("last_image IS NOT NULL")
    op.create_index(
        "generations_by_last_image",
        "generations",
        ["last_image", "tenant"],
        sqlite_where=has_image,
        postgresql_where=has_image,
    )
    op.drop_index("generations_by_files", "generations")
    has_files = sa.text("artifact IS NOT NULL OR image IS NOT NULL OR last_image IS NOT NULL")
    op.create_index(
        "generations_by_files", "generations", ["completed_at"], sqlite_where=has_files, postgresql_where=has_files
    )

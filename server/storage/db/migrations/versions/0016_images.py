"""The images that generations begin with, so that those that no row names can be removed."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    """Add the column, null in old rows: no request had an image."""
    op.add_column("generations", sa.Column("image", sa.String(64)))
    has_image = sa.text("image IS NOT NULL")
    op.create_index(
        "generations_by_image",
        "generations",
        ["image", "tenant"],
        sqlite_where=has_image,
        postgresql_where=has_image,
    )

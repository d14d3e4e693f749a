"""Favourites, tags and the sizes of generations, and an index of what the history is filtered by."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"

_FILES = ("artifact", "image", "last_image", "video", "extends", "audio")
_FILTERED = ("tenant", "seq", "status", "favourite", "size", "model", "asked_model", "media_type", "enqueued_at")
_OF_GENERATION = sa.ForeignKey("generations.seq", ondelete="CASCADE")
_SIZES = {
    "sqlite": "json_extract(params, '$.width') || 'x' || json_extract(params, '$.height')",
    # not as JSON, which PostgreSQL cannot read if a prompt of an early version has half a surrogate pair
    "postgresql": """substring(CAST(params AS text) from '"width": ([0-9]+)') || 'x' ||"""
    """ substring(CAST(params AS text) from '"height": ([0-9]+)')""",
}


def upgrade() -> None:
    """Add the columns and the table. The sizes are those of the recorded parameters."""
    op.add_column("generations", sa.Column("size", sa.String(16)))
    op.add_column("generations", sa.Column("favourite", sa.Boolean, nullable=False, server_default=sa.false()))
    size = _SIZES[op.get_bind().dialect.name]
    op.execute(f"UPDATE generations SET size = {size} WHERE params IS NOT NULL")  # noqa: S608
    op.create_table(
        "tags",
        sa.Column("seq", sa.Integer, _OF_GENERATION, primary_key=True, autoincrement=False),
        sa.Column("tag", sa.String, primary_key=True),
        sa.Column("tenant", sa.String, nullable=False),
    )
    op.create_index("tags_by_name", "tags", ["tenant", "tag", "seq"])
    op.drop_index("generations_by_tenant", "generations")
    op.create_index("generations_in_library", "generations", [*_FILTERED])
    op.drop_index("generations_by_completion", "generations")
    op.create_index("generations_by_completion", "generations", ["completed_at", "favourite"])
    op.drop_index("generations_by_files", "generations")
    has_files = sa.text(" OR ".join(f"{column} IS NOT NULL" for column in _FILES))
    op.create_index(
        *("generations_by_files", "generations", ["favourite", "completed_at"]),
        sqlite_where=has_files,
        postgresql_where=has_files,
    )
    is_favourite = sa.text("favourite = " + ("1" if op.get_bind().dialect.name == "sqlite" else "true"))
    op.create_index(
        *("generations_by_favourite", "generations", ["tenant", "seq"]),
        sqlite_where=is_favourite,
        postgresql_where=is_favourite,
    )

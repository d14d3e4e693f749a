"""An index of the words of prompts: a search no longer reads the prompts themselves."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

from server.storage.db.schema import Words
from server.storage.db.search import marked_words

revision = "0013"
down_revision = "0012"

_ROWS_AT_ONCE = 500

_generations = sa.table(
    "generations", sa.column("seq", sa.Integer), sa.column("tenant", sa.String), sa.column("parameters", sa.JSON)
)


def upgrade() -> None:
    """Make the index, and enter what is recorded already."""
    tx = op.get_bind()
    if tx.dialect.name == "sqlite":
        # The tokenizer divides at ASCII punctuation, of which words have none. Neither the places of words in prompts
        # nor their number are kept. What begins with the mark of a tenant (4 characters) and one or two letters is
        # kept by itself, as most words begin like many others: who types a search has it carried out letter by letter.
        op.execute(
            "CREATE VIRTUAL TABLE prompt_words USING fts5"
            "(words, tokenize = 'ascii', detail = none, columnsize = 0, prefix = '5 6')"
        )
        _fill(tx)
        return
    op.create_table(
        "prompt_words",
        sa.Column("rowid", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("words", Words, nullable=False),
    )
    _fill(tx)
    # faster than to enter the rows one by one
    op.create_index("prompt_words_by_word", "prompt_words", ["words"], postgresql_using="gin")


def _fill(tx: sa.Connection) -> None:
    entry = sa.insert(sa.table("prompt_words", sa.column("rowid", sa.Integer), sa.column("words", Words)))
    for rows in _in_parts(tx):
        found = ((row.seq, marked_words(row.parameters.get("prompt"), row.tenant)) for row in rows)
        if values := [{"rowid": seq, "words": words} for seq, words in found if words]:
            tx.execute(entry, values)


def _in_parts(tx: sa.Connection) -> Iterator[Any]:
    """The rows, few at a time: their prompts may be long."""
    seq, last = _generations.c.seq, -1
    while rows := tx.execute(sa.select(_generations).where(seq > last).order_by(seq).limit(_ROWS_AT_ONCE)).all():
        yield rows
        last = rows[-1].seq

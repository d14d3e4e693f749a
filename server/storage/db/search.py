"""The index that searches read instead of prompts: which generations have a word in their prompt.

Each word is kept with a mark of its tenant in front. A search then reads only words of its own tenant: those of the
others make it neither slower nor faster. Few tenants may share a mark, so the rows are checked for their tenant, too.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, cast, delete, false, insert, literal, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from server.core.generation import Generation
from server.storage.db.schema import Beginnings, Words, generations, prompt_words
from server.storage.db.words import terms, words

_MARK_LENGTH = 4


def marked_words(prompt: object, tenant: str) -> list[str]:
    """The words of a tenant's prompt, as they are kept; none for what is no text, which an invalid request may have."""
    return _marked(words(prompt), tenant) if isinstance(prompt, str) else []


def entries(new: Iterable[Generation]) -> list[dict[str, Any]]:
    """What to `add` for new generations."""
    # the generations of a request share a prompt
    marked = cache(marked_words)
    prompts = ((each, each.parameters.get("prompt")) for each in new)
    found = ((each.id, marked(prompt, each.tenant)) for each, prompt in prompts if isinstance(prompt, str))
    return [{"wanted": id_, "found_by": marked} for id_, marked in found if marked]


def add(tx: Connection, entries: Sequence[dict[str, Any]]) -> None:
    """Let generations that have been recorded be found."""
    if entries:
        tx.execute(_ADD, entries)


def remove(tx: Connection, numbers: Sequence[int]) -> None:
    """Remove the words of the generations with these numbers (`seq`)."""
    tx.execute(delete(prompt_words).where(prompt_words.c.rowid.in_(numbers)))


def is_found(search: str, tenant: str, *, has_others: bool = False) -> ColumnElement[bool]:
    """The condition that a generation of a tenant is found by a search. `has_others`: there are other filters, too."""
    wanted = terms(search)
    if not wanted:
        return false()
    matches = _Matches(literal(_marked(wanted, tenant), Beginnings))
    # By itself (OFFSET 0), from the index: for a page, PostgreSQL would expect to meet enough matches soon if it went
    # through the history from its end, and read all words where there are few.
    found = select(prompt_words.c.rowid).where(matches).offset(0)
    if not has_others:
        return generations.c.seq.in_(found)
    # and once: PostgreSQL would expect other filters to leave so few generations that it looked for the words for each
    once = found.cte("found").prefix_with("MATERIALIZED", dialect="postgresql")
    return generations.c.seq.in_(select(once.c.rowid))


def _marked(each: Iterable[str], tenant: str) -> list[str]:
    mark = hashlib.sha256(tenant.encode()).hexdigest()[:_MARK_LENGTH]
    return [mark + word for word in each]


class _Matches(FunctionElement[Any]):
    """Whether the words of a row have these beginnings; every database has an operator of its own for that.

    It has no type: of a Boolean, SQLAlchemy would write `= 1` behind it for SQLite, which would not use the index then.
    """

    inherit_cache = True


@compiles(_Matches, "sqlite")
def _sqlite(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    return f"{prompt_words.name} MATCH {compiler.process(element.clauses, **options)}"


@compiles(_Matches, "postgresql")
def _postgresql(element: _Matches, compiler: SQLCompiler, **options: Any) -> str:
    found_by = compiler.process(prompt_words.c.words, **options)
    return f"{found_by} @@ CAST({compiler.process(element.clauses, **options)} AS tsquery)"


_ADD = insert(prompt_words).from_select(
    ["rowid", "words"],
    select(generations.c.seq, cast(bindparam("found_by", type_=Words), Words)).where(
        generations.c.id == bindparam("wanted")
    ),
)

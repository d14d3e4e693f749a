"""The heads of the queue: the tenants that are first in turn, each with the generations that a claim may take of it.

Two statements find these tenants. The one goes through all that have something waiting, by an index, and costs the more
the more these are. The other goes through the turns in their order until it has found enough, and costs the more the
more tenants have had turns and have nothing waiting. A `Census` says which is better now.
"""

import math
import time
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    ScalarSelect,
    Select,
    Subquery,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.selectable import CTE

from server.core.generation import Status
from server.storage.db.schema import IS_IN_TURN, WAS_CLAIMED, generations, turns

MANY = 128
"""From so many waiting tenants on, the first in turn are found from the turns."""

CENSUS_SECONDS = 10.0
"""So long after it came, a tenant that never had a turn may be overlooked where so many wait."""

_LAST = 2**31 - 1


class Census:
    """Whether the first tenants in turn are best found from the turns: most of those that ever had one wait.

    Else what waits is looked through tenant by tenant, in which those that do not wait cost nothing. One for a store.
    """

    def __init__(self) -> None:
        self._counted_at = -math.inf
        self._were_many = False

    @property
    def is_due(self) -> bool:
        """Whether it is time to count."""
        return time.monotonic() - self._counted_at >= CENSUS_SECONDS

    @property
    def is_crowded(self) -> bool:
        """Whether most tenants waited when they were counted last, and that was not long ago."""
        return self._were_many and not self.is_due

    def count(self, tx: Connection, waiting: int, had_turns: int) -> None:
        """So many tenants wait, and so many of them have a row in the turns: if they are many, let each have one."""
        self._counted_at, self._were_many = time.monotonic(), False
        if waiting >= MANY:
            if had_turns < waiting:
                tx.execute(_ADDED[tx.dialect.name])
            self._were_many = (tx.scalar(select(func.count()).select_from(turns)) or 0) <= 2 * waiting


def waiting_tenants() -> CTE:
    """The tenants that have something waiting, found one by one, and at last NULL."""
    return _distinct(_tenant, "tenant", "waiting_tenants")


def waiting_models() -> CTE:
    """The models that something waits for, found one by one, and at last NULL."""
    return _distinct(_model, "model", "waiting_models")


def _distinct(column: ColumnElement[str], name: str, table: str) -> CTE:
    found = select(func.min(column).label(name)).where(IS_IN_TURN).cte(table, recursive=True)
    following = select(func.min(column)).where(IS_IN_TURN, column > found.c[name]).correlate(found).scalar_subquery()
    return found.union_all(select(following).where(found.c[name].is_not(None)))


def _oldest(tenants: CTE | Subquery | Table, *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    own = and_(IS_IN_TURN, _tenant == tenants.c.tenant, *conditions)
    return select(func.min(_seq)).where(own).correlate(tenants).scalar_subquery()


def _in_order_of_turns(most: int) -> Subquery:
    """The first `most` tenants in turn that have something waiting; without the limit, the most that any of these was
    skipped, how many they are, and how many of them have a row in the turns.
    """
    tenants = waiting_tenants()
    number, passed = (func.coalesce(column, 0) for column in (turns.c.number, turns.c.passed))
    # the numbers of turns are different: only those who had none come in the order of their oldest
    age = case((number == 0, _oldest(tenants)), else_=0)
    of_all = (
        func.max(passed).over().label("most_passed"),
        func.count().over().label("waiting"),
        func.count(turns.c.tenant).over().label("had_turns"),
    )
    return (
        select(tenants.c.tenant, number.label("number"), passed.label("passed"), age.label("age"), *of_all)
        .select_from(tenants.outerjoin(turns, turns.c.tenant == tenants.c.tenant))
        .where(tenants.c.tenant.is_not(None))
        .order_by(number, age)
        .limit(literal_column(str(most)))
        .subquery("in_turn")
    )


def _in_order_of_turns_of_a_crowd(most: int, overtakes: int) -> Subquery:
    """The same from the turns, one tenant after another until there are enough; those without a row are left out."""
    age = case((turns.c.number == 0, _oldest(turns)), else_=0)
    had = select(turns, age.label("age")).order_by(turns.c.number, age).offset(0).subquery("had")
    is_due = turns.c.passed >= literal_column(str(overtakes)), _oldest(turns).is_not(None)
    most_passed = select(func.coalesce(func.max(turns.c.passed), 0)).where(*is_due).scalar_subquery()
    return (
        select(had, most_passed.label("most_passed"))
        .where(_oldest(had).is_not(None))
        .order_by(had.c.number, had.c.age)
        .limit(literal_column(str(most)))
        .subquery("in_turn")
    )


@cache
def select_heads(most: int, overtakes: int, *, by_pairs: bool, crowded: bool = False) -> "Select[Any]":
    """Tenants in the order of their turns, each with its oldest that waits, its oldest of a model, and its oldest of a
    variant of that; and how many went before its oldest, of which no more than the bound count.

    The limits are written out: with limits that it does not know, PostgreSQL would plan the statement each time.
    """
    tenants = _in_order_of_turns_of_a_crowd(most, overtakes) if crowded else _in_order_of_turns(most)
    of_model = _model == bindparam("model")
    of_variant = and_(of_model, _variant == bindparam("variant"))
    heads = select(
        tenants,
        _oldest(tenants).label("oldest"),
        _oldest(tenants, of_model).label("of_model"),
        _oldest(tenants, of_variant).label("of_variant"),
    ).subquery("heads")
    if by_pairs:
        # PostgreSQL would go through all younger generations for the tenant's own
        is_later = and_(_pair > tuple_(heads.c.tenant, heads.c.oldest), _pair <= tuple_(heads.c.tenant, literal(_LAST)))
    else:
        # SQLite would go through all of the tenant's own
        is_later = and_(_tenant == heads.c.tenant, _seq > heads.c.oldest)
    later = select(_seq).where(HAS_STARTED, is_later).order_by(_tenant, _seq)
    first = later.limit(literal_column(str(overtakes))).correlate(heads).subquery()
    overtaken = select(func.count()).select_from(first).scalar_subquery()
    return select(heads, overtaken.label("overtaken")).order_by(heads.c.number, heads.c.age)


def _rows_for_all(dialect: Any) -> Any:
    """Every tenant that has something waiting gets a row in the turns, as one that never had a turn."""
    tenants = waiting_tenants()
    new = select(tenants.c.tenant, literal(0), literal(0)).where(tenants.c.tenant.is_not(None))
    return dialect.insert(turns).from_select(["tenant", "number", "passed"], new).on_conflict_do_nothing()


DIALECTS: dict[str, Any] = {"postgresql": postgresql, "sqlite": sqlite}
"""By name the module with a database's own INSERT."""

_seq, _tenant, _model, _variant = (generations.c[name] for name in ("seq", "tenant", "model", "variant"))
_pair = tuple_(_tenant, _seq)
# what was given back waits again; what failed or was cancelled before its start overtook nothing
HAS_STARTED = and_(WAS_CLAIMED, generations.c.status != Status.QUEUED)
_ADDED = {name: _rows_for_all(each) for name, each in DIALECTS.items()}

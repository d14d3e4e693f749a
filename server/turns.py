"""The law of `server.order`, on the records: which generation is next, and the places of those that wait.

No claim reads the whole queue. A place does, where several models wait: it depends on all before it.
"""

from collections.abc import Collection, Iterator, Sequence

from sqlalchemy import ColumnElement, Connection, ScalarSelect, and_, func, insert, literal, select, update
from sqlalchemy.sql.selectable import CTE

from server.generations import Status
from server.order import Queue, Taken, Turn, Waiting, foretold, place
from server.tables import IS_QUEUED, WAS_CLAIMED, generations, turns

# what was given back is behind again; what failed or was cancelled before its start went before nobody
_HAS_STARTED = and_(WAS_CLAIMED, generations.c.status != Status.QUEUED)


def next_taken(tx: Connection, holding: str | None, max_overtakes: int) -> Taken | None:
    """What a device takes next that holds this model; None when nothing waits."""
    return _heads(tx, holding, max_overtakes).take(holding)


def note(tx: Connection, taken: Taken) -> None:
    """Write down that a key has had its turn, and who was passed over for it."""
    number = select(func.coalesce(func.max(turns.c.number), 0) + 1).scalar_subquery()
    tenant = taken.generation.tenant
    had = update(turns).where(turns.c.tenant == tenant).values(number=number, passed=0)
    if tx.execute(had).rowcount == 0:
        _add(tx, tenant, number)
    passed = update(turns).values(passed=turns.c.passed + 1)
    for each in taken.passed:
        if tx.execute(passed.where(turns.c.tenant == each)).rowcount == 0:
            _add(tx, each, literal(0), passed=1)


def give_back(tx: Connection, tenant: str) -> None:
    """Let a key whose generation waits again go before all others."""
    tx.execute(update(turns).where(turns.c.tenant == tenant).values(number=0))


def places(
    tx: Connection, tenant: str, wanted: Collection[int], holding: Sequence[str | None], max_overtakes: int
) -> dict[int, int]:
    """The places (1 is next) of queued generations of a key, by their numbers, given the model each device holds."""
    first = tx.scalar(select(func.min(generations.c.model)).where(IS_QUEUED))
    several = tx.scalar(select(generations.c.model).where(IS_QUEUED, generations.c.model > first).limit(1)) is not None
    found: dict[int, int] = {}
    in_order = _simulated(tx, holding, max_overtakes) if several and max_overtakes > 0 else _in_turn(tx, tenant, wanted)
    for seq, at in in_order:
        if seq in wanted:
            found[seq] = at
            if len(found) == len(wanted):
                break
    return found


def _add(tx: Connection, tenant: str, number: ColumnElement[int], passed: int = 0) -> None:
    tx.execute(insert(turns).values(tenant=tenant, number=number, passed=passed))


def _simulated(tx: Connection, holding: Sequence[str | None], max_overtakes: int) -> Iterator[tuple[int, int]]:
    """All that waits, with its places."""
    columns = generations.c
    rows = tx.execute(select(columns.seq, columns.tenant, columns.model).where(IS_QUEUED).order_by(columns.seq))
    waiting = (Waiting(row.seq, row.tenant, row.model) for row in rows)
    queue = Queue(waiting, _started(tx), _turns(tx), max_overtakes)
    return ((seq, at) for at, seq in enumerate(foretold(queue, holding), 1))


def _in_turn(tx: Connection, tenant: str, wanted: Collection[int]) -> Iterator[tuple[int, int]]:
    """A key's own from the first to the last that is wanted, with their places, where models make no difference."""
    seq, own = generations.c.seq, and_(IS_QUEUED, generations.c.tenant == tenant)
    counts = select(generations.c.tenant, func.count().label("waiting")).where(IS_QUEUED).group_by(generations.c.tenant)
    many = {row.tenant: row.waiting for row in tx.execute(counts)}
    order = _heads(tx, None, 0).keys
    older = tx.scalar(select(func.count()).where(own, seq < min(wanted))) or 0
    numbers = tx.scalars(select(seq).where(own, seq.between(min(wanted), max(wanted))).order_by(seq))
    lengths, mine = [many[each] for each in order], order.index(tenant)
    return ((number, place(lengths, mine, rank)) for rank, number in enumerate(numbers, older))


def _heads(tx: Connection, holding: str | None, max_overtakes: int) -> Queue:
    """As much of the queue as the next claim depends on."""
    keys = _keys()
    oldest, of_model = _oldest(keys), _oldest(keys, generations.c.model == holding)
    found = tx.execute(select(keys.c.tenant, oldest, of_model).where(keys.c.tenant.is_not(None))).all()
    waiting: list[Waiting] = []
    for tenant, first, held in found:
        # which other model it is makes no difference
        waiting.append(Waiting(first, tenant, "" if first != held else holding or ""))
        if held not in (None, first):
            waiting.append(Waiting(held, tenant, holding or ""))
    started = _started(tx) if len(waiting) > len(found) else []
    return Queue(waiting, started, _turns(tx), max_overtakes)


def _keys() -> CTE:
    """The keys that have something waiting, found one by one, and at last NULL."""
    tenant = generations.c.tenant
    keys = select(func.min(tenant).label("tenant")).where(IS_QUEUED).cte("waiting_keys", recursive=True)
    following = select(func.min(tenant)).where(IS_QUEUED, tenant > keys.c.tenant).correlate(keys).scalar_subquery()
    return keys.union_all(select(following).where(keys.c.tenant.is_not(None)))


def _oldest(keys: CTE, *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    own = and_(IS_QUEUED, generations.c.tenant == keys.c.tenant, *conditions)
    return select(func.min(generations.c.seq)).where(own).correlate(keys).scalar_subquery()


def _started(tx: Connection) -> list[tuple[int, str]]:
    """What has gone before an older one of its key that still waits."""
    keys, seq, tenant = _keys(), generations.c.seq, generations.c.tenant
    overtakers = select(seq, tenant).join(keys, tenant == keys.c.tenant).where(_HAS_STARTED, seq > _oldest(keys))
    return [(row.seq, row.tenant) for row in tx.execute(overtakers)]


def _turns(tx: Connection) -> dict[str, Turn]:
    return {row.tenant: Turn(row.number, row.passed) for row in tx.execute(select(turns))}

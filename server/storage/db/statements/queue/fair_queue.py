"""The order of `server.core.fair_queue`, on the records: which generation is next, and the places of those that wait.

A claim does not read the whole queue, nor all tenants: it reads the first FEW in turn, and all only if the generation
that is next is none of theirs (`heads`). For a device that cannot make everything it reads the first of each tenant and
model (`exclusions`). A place depends on all before it, where several models or variants wait.

Statements are built once, at the end of this module: building one takes longer than executing it.
"""

from collections.abc import Collection, Iterator, Sequence, Set
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    and_,
    bindparam,
    func,
    literal,
    select,
    tuple_,
    update,
)

from server.core.fair_queue import (
    NOTHING,
    Deferred,
    Exclusions,
    FairQueue,
    Taken,
    Turn,
    Waiting,
    Weights,
    place,
    predicted_order,
)
from server.core.generation import Status
from server.storage.db.schema import IS_AWAITING, IS_DEFERRED, IS_IN_TURN, generations, turns
from server.storage.db.statements.queue.exclusions import heads_without
from server.storage.db.statements.queue.heads import DIALECTS, HAS_STARTED, Census, select_heads

FEW = 32
"""So many tenants are read at first."""

_ALL = 2**31 - 1


class Heads:
    """The beginning of the queue in one transaction. With `counts` it has the lock of claims, and may take the census.

    Several devices that hold the same weights take from what was read once.
    """

    def __init__(self, tx: Connection, max_overtakes: int, census: Census, *, counts: bool) -> None:
        self._tx = tx
        self._max_overtakes = max_overtakes
        self._census = census
        self._counts = counts
        self._read_for: Weights | None = None
        self._few: FairQueue | None = None

    def take(self, holding: Weights | None, exclusions: Exclusions = NOTHING) -> Taken | None:
        """The next generation for a device that holds these weights; None when nothing waits that it can take."""
        if exclusions != NOTHING:
            self.forget()
            return _heads_without(self._tx, holding, self._max_overtakes, exclusions).take(holding)
        if self._few is not None and holding == self._read_for:
            taken = self._few.take(holding)
            if taken is not None and (holding is None or taken.generation.weights == holding):
                return taken
        return self._read(holding)

    def forget(self) -> None:
        """Read again: what was taken has gone another way."""
        self._few = None

    def _read(self, holding: Weights | None) -> Taken | None:
        self.forget()
        deferred = _deferred(self._tx)
        if not deferred or self._tx.scalar(_BEFORE[_by_pairs(self._tx)], {"behind": deferred[0].behind}) is not None:
            queue, is_whole = self._first_few(holding)
            taken = queue.take(holding)
            if taken is not None and (holding is None or taken.generation.weights == holding):
                # with it the deferred may have become due
                self._few, self._read_for = None if deferred else queue, holding
                return taken
            if is_whole:
                return taken
        queue, _ = _heads(self._tx, holding, self._max_overtakes, _ALL, deferred)
        return queue.take(holding)

    def _first_few(self, holding: Weights | None) -> tuple[FairQueue, bool]:
        if self._census.is_crowded:
            queue, is_whole = _heads(self._tx, holding, self._max_overtakes, FEW, crowded=True)
            if not is_whole:
                return queue, False
        census = self._census if self._counts and self._census.is_due else None
        return _heads(self._tx, holding, self._max_overtakes, FEW, census=census)


def note(tx: Connection, taken: Taken) -> None:
    """Record that a tenant has had its turn, and which tenants were skipped for it."""
    tx.execute(_HAD[tx.dialect.name], {"tenant": taken.generation.tenant})
    if taken.skipped:
        tx.execute(_SKIPPED[tx.dialect.name], [{"tenant": each} for each in taken.skipped])


def give_back(tx: Connection, tenant: str) -> None:
    """Let a tenant whose generation waits again go before all others."""
    tx.execute(update(turns).where(turns.c.tenant == tenant).values(number=0))


def places(
    tx: Connection, tenant: str, wanted: Set[int], holding: Sequence[Weights | None], max_overtakes: int
) -> dict[int, int]:
    """The places (1 is next) of a tenant's queued generations, by their numbers, given what each device holds.

    Those that await an input come after all others: nobody knows when they may be claimed.
    """
    awaiting = list(tx.scalars(_AWAITING))
    found: dict[int, int] = {}
    if not wanted.isdisjoint(awaiting):
        ready = tx.scalar(_READY) or 0
        found = {seq: at for at, seq in enumerate(awaiting, ready + 1) if seq in wanted}
    wanted = wanted - found.keys()
    if wanted:
        found |= _places_in_turn(tx, tenant, wanted, holding, max_overtakes)
    return found


def _places_in_turn(
    tx: Connection, tenant: str, wanted: Set[int], holding: Sequence[Weights | None], max_overtakes: int
) -> dict[int, int]:
    first_model, last_model, first_variant, last_variant = tx.execute(_RANGE).one()
    is_alike = (first_model, first_variant) == (last_model, last_variant)
    deferred = _deferred(tx)
    found: dict[int, int] = {}
    if deferred or (not is_alike and max_overtakes > 0):
        in_order = _simulated(tx, deferred, holding, max_overtakes)
    else:
        in_order = _in_turn(tx, tenant, wanted)
    for seq, at in in_order:
        if seq in wanted:
            found[seq] = at
            if len(found) == len(wanted):
                break
    return found


def _simulated(
    tx: Connection, deferred: Sequence[Deferred], holding: Sequence[Weights | None], max_overtakes: int
) -> Iterator[tuple[int, int]]:
    """All that waits, with its places."""
    waiting = [Waiting(row.seq, row.tenant, row.model, row.variant) for row in tx.execute(_ALL_WAITING)]
    queue = FairQueue(waiting, _started(tx, waiting), _turns(tx), max_overtakes, deferred)
    return ((seq, at) for at, seq in enumerate(predicted_order(queue, holding), 1))


def _in_turn(tx: Connection, tenant: str, wanted: Collection[int]) -> Iterator[tuple[int, int]]:
    """A tenant's own from the first to the last that is wanted, with their places, where models do not matter."""
    many = {row.tenant: row.waiting for row in tx.execute(_WAITING_BY_TENANT)}
    order = _heads(tx, None, 0, _ALL)[0].tenants
    own = {"tenant": tenant, "first": min(wanted), "last": max(wanted)}
    older = tx.scalar(_OLDER, own) or 0
    lengths, mine = [many[each] for each in order], order.index(tenant)
    return ((number, place(lengths, mine, rank)) for rank, number in enumerate(tx.scalars(_BETWEEN, own), older))


def _heads(
    tx: Connection,
    holding: Weights | None,
    max_overtakes: int,
    most: int,
    deferred: Sequence[Deferred] = (),
    *,
    crowded: bool = False,
    census: Census | None = None,
) -> tuple[FairQueue, bool]:
    """As much of the queue as the next claim depends on, of at most so many tenants; and whether these are all."""
    held = Weights(_NONE, _NONE) if holding is None else holding
    found = tx.execute(select_heads(most, max_overtakes, by_pairs=_by_pairs(tx), crowded=crowded), held._asdict()).all()
    if census is not None and found:
        census.count(tx, found[0].waiting, found[0].had_turns)
    is_whole = len(found) < most
    if not is_whole and found[0].most_passed >= max_overtakes:
        # some tenant may be skipped no more, whether it is among these or not: the first one is next
        found, is_whole = found[:1], True
    waiting: list[Waiting] = []
    started: list[tuple[int, str]] = []
    for row in found:
        waiting += _waiting(row.tenant, held, (row.oldest, row.of_model, row.of_variant))
        started += [(row.oldest + 1, row.tenant)] * row.overtaken
    # tenants of deferred ones may have nothing else
    had = _turns(tx) if deferred else {row.tenant: Turn(row.number, row.passed) for row in found}
    return FairQueue(waiting, started, had, max_overtakes, deferred), is_whole


def _heads_without(tx: Connection, holding: Weights | None, max_overtakes: int, exclusions: Exclusions) -> FairQueue:
    """As much of the queue as the next claim of what is not excluded depends on."""
    held = Weights(_NONE, _NONE) if holding is None else holding
    heads = heads_without(tx, held, exclusions)
    waiting = [each for tenant, oldest in heads.items() for each in _waiting(tenant, held, oldest)]
    # what is left out may wait for days: all that its tenant has made since is no concern of this claim
    started = _started(tx, waiting) if len(waiting) > len(heads) else []
    deferred = [each for each in _deferred(tx) if not exclusions.cover(each.generation.weights)]
    return FairQueue(waiting, started, _turns(tx), max_overtakes, deferred)


def _waiting(tenant: str, held: Weights, oldest: Sequence[int | None]) -> list[Waiting]:
    """A tenant's oldest that waits, its oldest of the model that is held, and its oldest of the weights."""
    # which others they are makes no difference
    weights = dict(zip(oldest, (_OTHERS, Weights(held.model, _NONE), held), strict=True))
    return [Waiting(seq, tenant, *weights[seq]) for seq in sorted(seq for seq in weights if seq is not None)]


def _started(tx: Connection, waiting: Sequence[Waiting]) -> list[tuple[int, str]]:
    """The generations that have gone before an older one of their tenant that still waits."""
    oldest: dict[str, int] = {}
    for each in waiting:
        oldest.setdefault(each.tenant, each.seq)
    # not by tenant: of tenants that are not known yet, PostgreSQL would read the whole history
    found = tx.execute(_STARTED, {"oldest": min(oldest.values(), default=0)})
    return [(row.seq, row.tenant) for row in found if row.seq > oldest.get(row.tenant, row.seq)]


def _deferred(tx: Connection) -> list[Deferred]:
    """The generations that wait at the end of the queue, in the order they were moved there."""
    return [
        Deferred(row.deferred_behind, Waiting(row.seq, row.tenant, row.model, row.variant))
        for row in tx.execute(_DEFERRED)
    ]


def _turns(tx: Connection) -> dict[str, Turn]:
    return {row.tenant: Turn(row.number, row.passed) for row in tx.execute(_TURNS)}


def _by_pairs(tx: Connection) -> bool:
    """Whether pairs are compared where an index has both columns, so that no other index is thought to be better."""
    return tx.dialect.name == "postgresql"


def _select_before(*, by_pairs: bool) -> "Select[int]":
    """One that waits in turn and is not younger than some number."""
    if by_pairs:
        # the history is before what waits, and PostgreSQL would go through it
        first, last = tuple_(literal(Status.QUEUED), literal(0)), tuple_(literal(Status.QUEUED), bindparam("behind"))
        is_before = and_(_place > first, _place <= last)
    else:
        is_before = and_(generations.c.status == Status.QUEUED, _seq <= bindparam("behind"))
    is_in_turn = (generations.c[name].is_(None) for name in ("completed_at", "deferred_behind", "awaited_input"))
    return select(_seq).where(is_before, *is_in_turn).order_by(generations.c.status, _seq).limit(1)


def _had_turn(dialect: Any) -> Any:
    """A tenant has had its turn; `dialect` is the module with the database's own INSERT."""
    number = select(func.coalesce(func.max(turns.c.number), 0) + 1).scalar_subquery()
    added = dialect.insert(turns).values(tenant=bindparam("tenant"), number=number, passed=0)
    changes = {"number": added.excluded.number, "passed": 0}
    return added.on_conflict_do_update(index_elements=[turns.c.tenant], set_=changes)


def _was_skipped(dialect: Any) -> Any:
    """A tenant was skipped once more."""
    added = dialect.insert(turns).values(tenant=bindparam("tenant"), number=0, passed=1)
    return added.on_conflict_do_update(index_elements=[turns.c.tenant], set_={"passed": turns.c.passed + 1})


# no generation has these
_NONE = "\x7f"
_OTHERS = Weights(_NONE, _NONE)

_seq, _tenant, _model, _variant = (generations.c[name] for name in ("seq", "tenant", "model", "variant"))
_place = tuple_(generations.c.status, _seq)
_own = and_(IS_IN_TURN, _tenant == bindparam("tenant"))
_ENDS = (end(column) for column in (_model, _variant) for end in (func.min, func.max))
_RANGE = select(*(select(end).where(IS_IN_TURN).scalar_subquery() for end in _ENDS))
_ALL_WAITING = select(_seq, _tenant, _model, _variant).where(IS_IN_TURN).order_by(_seq)
_WAITING_BY_TENANT = select(_tenant, func.count().label("waiting")).where(IS_IN_TURN).group_by(_tenant)
_OLDER = select(func.count()).where(_own, _seq < bindparam("first"))
_DEFERRED = (
    select(generations.c.deferred_behind, _seq, _tenant, _model, _variant)
    .where(IS_DEFERRED)
    .order_by(generations.c.deferred_behind, _seq)
)
_AWAITING = select(_seq).where(IS_AWAITING).order_by(_seq)
_READY = select(
    select(func.count()).where(IS_IN_TURN).scalar_subquery() + select(func.count()).where(IS_DEFERRED).scalar_subquery()
)
_BETWEEN = select(_seq).where(_own, _seq.between(bindparam("first"), bindparam("last"))).order_by(_seq)
_STARTED = select(_seq, _tenant).where(HAS_STARTED, _seq > bindparam("oldest"))
_BEFORE = {by_pairs: _select_before(by_pairs=by_pairs) for by_pairs in (False, True)}
_TURNS = select(turns)
_HAD = {name: _had_turn(each) for name, each in DIALECTS.items()}
_SKIPPED = {name: _was_skipped(each) for name, each in DIALECTS.items()}

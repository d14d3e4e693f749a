"""The order of `server.core.fair_queue`, on the records: which generation is next, and the places of those that wait.

A claim does not read the whole queue. A place does, where several models or variants wait: it depends on all before it.

Statements are built once, at the end of this module: building one takes longer than executing it.
"""

from collections.abc import Collection, Iterator, Sequence, Set

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    func,
    insert,
    literal,
    not_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.sql.selectable import CTE

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
from server.storage.db.schema import IS_AWAITING, IS_DEFERRED, IS_IN_TURN, WAS_CLAIMED, generations, turns

MOST_LOOKED_AT = 256
"""A device that cannot make some variants of a model looks past so many of a tenant's that wait, not past all."""


def next_taken(
    tx: Connection, holding: Weights | None, max_overtakes: int, exclusions: Exclusions = NOTHING
) -> Taken | None:
    """The next generation for a device that holds these weights; None when nothing waits that it can take."""
    return _heads(tx, holding, max_overtakes, exclusions).take(holding)


def note(tx: Connection, taken: Taken) -> None:
    """Record that a tenant has had its turn, and which tenants were skipped for it."""
    number = select(func.coalesce(func.max(turns.c.number), 0) + 1).scalar_subquery()
    tenant = taken.generation.tenant
    had = update(turns).where(turns.c.tenant == tenant).values(number=number, passed=0)
    if tx.execute(had).rowcount == 0:
        _add(tx, tenant, number)
    skipped = update(turns).values(passed=turns.c.passed + 1)
    for each in taken.skipped:
        if tx.execute(skipped.where(turns.c.tenant == each)).rowcount == 0:
            _add(tx, each, literal(0), skipped=1)


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


def _add(tx: Connection, tenant: str, number: ColumnElement[int], skipped: int = 0) -> None:
    tx.execute(insert(turns).values(tenant=tenant, number=number, passed=skipped))


def _simulated(
    tx: Connection, deferred: Sequence[Deferred], holding: Sequence[Weights | None], max_overtakes: int
) -> Iterator[tuple[int, int]]:
    """All that waits, with its places."""
    waiting = (Waiting(row.seq, row.tenant, row.model, row.variant) for row in tx.execute(_ALL_WAITING))
    queue = FairQueue(waiting, _started(tx), _turns(tx), max_overtakes, deferred)
    return ((seq, at) for at, seq in enumerate(predicted_order(queue, holding), 1))


def _in_turn(tx: Connection, tenant: str, wanted: Collection[int]) -> Iterator[tuple[int, int]]:
    """A tenant's own from the first to the last that is wanted, with their places, where models do not matter."""
    many = {row.tenant: row.waiting for row in tx.execute(_WAITING_BY_TENANT)}
    order = _heads(tx, None, 0).tenants
    own = {"tenant": tenant, "first": min(wanted), "last": max(wanted)}
    older = tx.scalar(_OLDER, own) or 0
    lengths, mine = [many[each] for each in order], order.index(tenant)
    return ((number, place(lengths, mine, rank)) for rank, number in enumerate(tx.scalars(_BETWEEN, own), older))


def _heads(tx: Connection, holding: Weights | None, max_overtakes: int, exclusions: Exclusions = NOTHING) -> FairQueue:
    """As much of the queue as the next claim depends on."""
    held = Weights(_NONE, _NONE) if holding is None else holding
    if exclusions == NOTHING:
        found = [(tenant, [*oldest]) for tenant, *oldest in tx.execute(_HEADS, held._asdict())]
    else:
        found = _heads_without(tx, held, exclusions)
    waiting: list[Waiting] = []
    for tenant, oldest in found:
        # which others they are makes no difference
        weights = dict(zip(oldest, (_OTHERS, Weights(held.model, _NONE), held), strict=True))
        waiting += [Waiting(seq, tenant, *weights[seq]) for seq in sorted(seq for seq in weights if seq is not None)]
    started = []
    if len(waiting) > len(found):
        # what is left out may wait for days: all that its tenant has made since is no concern of this claim
        first = None if exclusions == NOTHING else min(each.seq for each in waiting)
        started = _started(tx, first)
        tenants = {each.tenant for each in waiting}
        started = [each for each in started if each[1] in tenants]
    deferred = [each for each in _deferred(tx) if not exclusions.cover(each.generation.weights)]
    return FairQueue(waiting, started, _turns(tx), max_overtakes, deferred)


def _heads_without(tx: Connection, held: Weights, exclusions: Exclusions) -> list[tuple[str, list[int | None]]]:
    """What `_HEADS` selects of the queue without some models and weights."""
    partly = {weights.model for weights in exclusions.weights} - exclusions.models
    whole = {"excluded": [*exclusions.models, *partly], "variant": held.variant}
    rows = tx.execute(_HEADS_WITHOUT_MODELS, whole).all()
    if partly:
        rest = {"models": [*partly], "excluded": [*exclusions.weights], "most": MOST_LOOKED_AT, "variant": held.variant}
        rows = [*rows, *tx.execute(_HEADS_WITHOUT_WEIGHTS, rest)]
    heads: dict[str, list[int | None]] = {}
    for tenant, model, oldest, of_variant in rows:
        if oldest is not None:
            head = heads.setdefault(tenant, [oldest, None, None])
            head[0] = min(head[0] or oldest, oldest)
            if model == held.model:
                head[1:] = [oldest, None if held in exclusions.weights else of_variant]
    return [*heads.items()]


def _started(tx: Connection, after: int | None = None) -> list[tuple[int, str]]:
    """The generations that have gone before an older one of their tenant that still waits, or before that number."""
    rows = tx.execute(_STARTED) if after is None else tx.execute(_STARTED_AFTER, {"after": after})
    return [(row.seq, row.tenant) for row in rows]


def _deferred(tx: Connection) -> list[Deferred]:
    """The generations that wait at the end of the queue, in the order they were moved there."""
    return [
        Deferred(row.deferred_behind, Waiting(row.seq, row.tenant, row.model, row.variant))
        for row in tx.execute(_DEFERRED)
    ]


def _turns(tx: Connection) -> dict[str, Turn]:
    return {row.tenant: Turn(row.number, row.passed) for row in tx.execute(_TURNS)}


def _waiting_tenants() -> CTE:
    """The tenants that have something waiting, found one by one, and at last NULL."""
    return _distinct(_tenant, "tenant", "waiting_tenants")


def _waiting_models() -> CTE:
    """The models that something waits for, found one by one, and at last NULL."""
    return _distinct(_model, "model", "waiting_models")


def _distinct(column: ColumnElement[str], name: str, table: str) -> CTE:
    found = select(func.min(column).label(name)).where(IS_IN_TURN).cte(table, recursive=True)
    following = select(func.min(column)).where(IS_IN_TURN, column > found.c[name]).correlate(found).scalar_subquery()
    return found.union_all(select(following).where(found.c[name].is_not(None)))


def _oldest(tenants: CTE, *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    own = and_(IS_IN_TURN, _tenant == tenants.c.tenant, *conditions)
    return select(func.min(_seq)).where(own).correlate(tenants).scalar_subquery()


def _select_heads() -> "Select[str, int, int | None, int | None]":
    """Each tenant with its oldest that waits, its oldest of a model, and its oldest of a variant of that."""
    tenants = _waiting_tenants()
    of_model = _model == bindparam("model")
    of_variant = and_(of_model, _variant == bindparam("variant"))
    oldest = _oldest(tenants), _oldest(tenants, of_model), _oldest(tenants, of_variant)
    return select(tenants.c.tenant, *oldest).where(tenants.c.tenant.is_not(None))


def _select_heads_without_models() -> "Select[str, str, int | None, int | None]":
    """For each tenant and each model that waits, except some, its oldest and its oldest of a variant.

    Each is looked up by itself: what is left out may be most of the queue.
    """
    tenants, models = _waiting_tenants(), _waiting_models()
    own = and_(IS_IN_TURN, _model == models.c.model, _tenant == tenants.c.tenant)
    oldest = select(func.min(_seq)).where(own)
    allowed = models.c.model.not_in(bindparam("excluded", expanding=True))
    return _by_model(tenants, models, oldest, own).where(allowed)


def _select_heads_without_weights() -> "Select[str, str, int | None, int | None]":
    """The same for some models without some weights, of the oldest `most` of each tenant and model."""
    tenants, models = _waiting_tenants(), _waiting_models()
    own = and_(IS_IN_TURN, _model == models.c.model, _tenant == tenants.c.tenant)
    first = select(_seq, _model, _variant).where(own).order_by(_seq).limit(bindparam("most", type_=Integer))
    looked_at = first.correlate(tenants, models).subquery()
    is_excluded = tuple_(looked_at.c.model, looked_at.c.variant).in_(bindparam("excluded", expanding=True))
    oldest = select(func.min(looked_at.c.seq)).where(not_(is_excluded))
    wanted = models.c.model.in_(bindparam("models", expanding=True))
    return _by_model(tenants, models, oldest, own).where(wanted)


def _by_model(
    tenants: CTE, models: CTE, oldest: "Select[int]", own: ColumnElement[bool]
) -> "Select[str, str, int | None, int | None]":
    of_variant = select(func.min(_seq)).where(own, _variant == bindparam("variant"))
    found = (each.correlate(tenants, models).scalar_subquery() for each in (oldest, of_variant))
    return (
        select(tenants.c.tenant, models.c.model, *found)
        .select_from(tenants.join(models, true()))
        .where(tenants.c.tenant.is_not(None), models.c.model.is_not(None))
    )


def _select_started(after: ColumnElement[int] | None = None) -> "Select[int, str]":
    tenants = _waiting_tenants()
    # what was given back waits again; what failed or was cancelled before its start overtook nothing
    has_started = and_(WAS_CLAIMED, generations.c.status != Status.QUEUED)
    is_later = _seq > (_oldest(tenants) if after is None else after)
    return select(_seq, _tenant).join(tenants, _tenant == tenants.c.tenant).where(has_started, is_later)


# no generation has these
_NONE = "\x7f"
_OTHERS = Weights(_NONE, _NONE)

_seq, _tenant, _model, _variant = (generations.c[name] for name in ("seq", "tenant", "model", "variant"))
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
_HEADS, _STARTED, _TURNS = _select_heads(), _select_started(), select(turns)
_STARTED_AFTER = _select_started(bindparam("after"))
_HEADS_WITHOUT_MODELS, _HEADS_WITHOUT_WEIGHTS = _select_heads_without_models(), _select_heads_without_weights()

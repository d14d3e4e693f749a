"""The heads of the queue for a device that cannot make everything: without some models, and without some weights."""

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, bindparam, func, not_, select, true, tuple_
from sqlalchemy.sql.selectable import CTE

from server.core.fair_queue import Exclusions, Weights
from server.storage.db.schema import IS_IN_TURN, generations
from server.storage.db.statements.queue.heads import waiting_models, waiting_tenants

MOST_LOOKED_AT = 256
"""A device that cannot make some variants of a model looks past so many of a tenant's that wait, not past all."""


def heads_without(tx: Connection, held: Weights, exclusions: Exclusions) -> dict[str, list[int | None]]:
    """For each tenant its oldest that waits, its oldest of the model that is held, and its oldest of the weights."""
    partly = {weights.model for weights in exclusions.weights} - exclusions.models
    whole = {"excluded": [*exclusions.models, *partly], "variant": held.variant}
    rows = tx.execute(_WITHOUT_MODELS, whole).all()
    if partly:
        rest = {"models": [*partly], "excluded": [*exclusions.weights], "most": MOST_LOOKED_AT, "variant": held.variant}
        rows = [*rows, *tx.execute(_WITHOUT_WEIGHTS, rest)]
    heads: dict[str, list[int | None]] = {}
    for tenant, model, oldest, of_variant in rows:
        if oldest is not None:
            head = heads.setdefault(tenant, [oldest, None, None])
            head[0] = min(head[0] or oldest, oldest)
            if model == held.model:
                head[1:] = [oldest, None if held in exclusions.weights else of_variant]
    return heads


def _select_without_models() -> "Select[str, str, int | None, int | None]":
    """For each tenant and each model that waits, except some, its oldest and its oldest of a variant.

    Each is looked up by itself: what is left out may be most of the queue.
    """
    tenants, models = waiting_tenants(), waiting_models()
    own = and_(IS_IN_TURN, _model == models.c.model, _tenant == tenants.c.tenant)
    oldest = select(func.min(_seq)).where(own)
    allowed = models.c.model.not_in(bindparam("excluded", expanding=True))
    return _by_model(tenants, models, oldest, own).where(allowed)


def _select_without_weights() -> "Select[str, str, int | None, int | None]":
    """The same for some models without some weights, of the oldest `most` of each tenant and model."""
    tenants, models = waiting_tenants(), waiting_models()
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


_seq, _tenant, _model, _variant = (generations.c[name] for name in ("seq", "tenant", "model", "variant"))
_WITHOUT_MODELS, _WITHOUT_WEIGHTS = _select_without_models(), _select_without_weights()

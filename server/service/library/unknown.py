"""The error for ids that a tenant has no generations of."""

from collections.abc import Sequence

from server.core.errors import ResourceNotFoundError

_NAMED = 5


def unknown_generations(ids: Sequence[str]) -> ResourceNotFoundError:
    """An error that names the first of some unknown ids."""
    named = ", ".join(ascii(id_) for id_ in ids[:_NAMED])
    more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return ResourceNotFoundError(f"Nothing was done: no generation has the id {named}{more}.")

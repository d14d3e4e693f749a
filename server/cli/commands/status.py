"""`paddock status`."""

from typing import TYPE_CHECKING

from rich.table import Table

from server.cli.options import LOCAL, ApiKey, Url, connected, console
from server.cli.terminal import plain

if TYPE_CHECKING:
    from paddock import Generation

_PROMPT_CHARS = 60

_MINUTES_FROM = 100.0


def status(url: Url = LOCAL, api_key: ApiKey = None) -> None:
    """Show the models and the queue of a running server."""
    with connected(url, api_key) as client:
        active, models = client.queue(), client.models()
    for model in models:
        console.print(plain(f"{model.id}: {model.status}, {model.weights} weights"))
    # three columns without lines between them fit into 80 characters
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # never shortened: `paddock cancel` needs all of it
    table.add_column("generation", no_wrap=True, min_width=36)
    table.add_column("status, time left", no_wrap=True)
    table.add_column("prompt", no_wrap=True, overflow="ellipsis")
    for generation in reversed(active):
        table.add_row(plain(generation.id), plain(_state(generation)), plain((generation.prompt or "")[:_PROMPT_CHARS]))
    console.print(table if active else "No generations are queued or running.")


def _state(generation: "Generation") -> str:
    """What a generation is doing and the time until its end: "queued at 3, 5 min" or "processing 45 %, 12 s"."""
    state = generation.status
    if generation.queue_position:
        state += f" at {generation.queue_position}"
    elif generation.progress:
        state += f" {100 * generation.progress:.0f} %"
    if (left := generation.eta_seconds) is not None:
        state += f", {left:.0f} s" if left < _MINUTES_FROM else f", {left / 60:.0f} min"
    return state

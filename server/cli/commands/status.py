"""`paddock status`."""

from rich.table import Table

from server.cli.options import LOCAL, ApiKey, Url, connected, console
from server.cli.terminal import plain

_PROMPT_CHARS = 60


def status(url: Url = LOCAL, api_key: ApiKey = None) -> None:
    """Show the models and the queue of a running server."""
    with connected(url, api_key) as client:
        active, models = client.queue(), client.models()
    for model in models:
        console.print(plain(f"{model.id}: {model.status}, {model.weights} weights"))
    table = Table("status", "position", "progress", "ETA", "prompt")
    # never shortened: `paddock cancel` needs all of it
    table.add_column("generation", no_wrap=True, min_width=36)
    for generation in reversed(active):
        table.add_row(
            plain(generation.status),
            str(generation.queue_position or ""),
            f"{generation.progress:.0%}",
            "" if generation.eta_seconds is None else f"{generation.eta_seconds:.0f} s",
            plain((generation.prompt or "")[:_PROMPT_CHARS]),
            plain(generation.id),
        )
    console.print(table if active else "No generations are queued or running.")

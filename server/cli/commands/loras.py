"""`paddock loras`."""

from typing import Annotated

import typer
from rich.table import Table

from server.cli.options import LOCAL, ApiKey, Url, connected, console
from server.cli.terminal import plain


def loras(
    model: Annotated[str | None, typer.Option(help="Only LoRAs that fit the model with this id.")] = None,
    url: Url = LOCAL,
    api_key: ApiKey = None,
) -> None:
    """Show the LoRAs that requests to a running server may name."""
    with connected(url, api_key) as client:
        found = client.loras(model=model)
    table = Table("name", "MB", "strength", "models", "description")
    for lora in found:
        table.add_row(
            plain(lora.name),
            "not downloaded" if lora.size is None else f"{lora.size / 1e6:.0f}",
            f"{lora.strength:g}",
            "not known" if lora.models is None else ", ".join(lora.models) or "none",
            plain(lora.description or ""),
        )
    console.print(table if found else "There are no LoRAs: see loras_dir in docs/models.md.")

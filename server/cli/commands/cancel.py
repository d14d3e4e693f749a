"""`paddock cancel`."""

from typing import Annotated

import typer

from server.cli.options import LOCAL, ApiKey, Url, connected, console
from server.cli.terminal import plain


def cancel(
    generation: Annotated[str, typer.Argument(help="The generation's id, as `paddock status` shows it.")],
    url: Url = LOCAL,
    api_key: ApiKey = None,
) -> None:
    """Cancel a queued or running generation."""
    with connected(url, api_key) as client:
        client.cancel(generation)
        console.print(plain(client.get(generation).status))

"""Reads the example clients and the parameter tables of the hosted model page."""

import re
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

PAGE = Path(__file__).parents[1] / "data" / "wan2.1-t2v-14b-model-page.md"
HOST = "https://hub.oxen.ai"


class Client(NamedTuple):
    """An example client: the tab for its transport, the tab for its parameters, its language and its code."""

    transport: str
    parameters: str
    language: str
    code: str

    @property
    def name(self) -> str:
        """A name for test ids."""
        return "-".join((self.transport, self.parameters, self.language)).lower().replace(" ", "_")


def clients() -> list[Client]:
    """All example clients in the page's tabs, in order."""
    found, transport, parameters = [], "", ""
    pattern = r'<Tab title="(?P<tab>[^"]+)">|^ *```(?P<language>bash|python)[^\n]*\n(?P<code>.*?)^ *```$'
    for match in re.finditer(pattern, PAGE.read_text(), re.MULTILINE | re.DOTALL):
        tab = match["tab"]
        if tab in ("Minimal", "All parameters"):
            parameters = tab
        elif tab is not None:
            transport = tab
        elif "curl -H" not in match["code"]:
            found.append(Client(transport, parameters, match["language"], dedent(match["code"])))
    return found


def tables() -> list[str]:
    """The rows of the two parameter tables, required then optional, without padding."""
    section = PAGE.read_text().split("## Request parameters")[1]
    return [re.sub(r" +", " ", line).strip() for line in section.splitlines() if line.startswith("| `")]

"""Reads the credentials of an object store from a file, as container engines and Kubernetes mount secrets."""

import re
from pathlib import Path

MAX_BYTES = 65_536

_LINE = re.compile(r"(?:export\s+)?(?P<name>(?:AWS|AZURE|GOOGLE)_[A-Z0-9_]+)=(?P<value>.*)")
_QUOTED = re.compile(r"""(["'])(.*)\1""")


def read_credentials(path: Path) -> dict[str, str]:
    """The variables in a file: lines `NAME=value`, empty ones and comments with #. A value may be in quotes.

    The names are those of the variables that a store's own tools read, such as AWS_ACCESS_KEY_ID. Raises ValueError
    with a sentence, which names a line but shows none of it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8.") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes.")
    found: dict[str, str] = {}
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        if (match := _LINE.fullmatch(line)) is None:
            raise ValueError(
                f"{path}, line {number}, must be NAME=value, the name beginning with AWS_, AZURE_ or GOOGLE_."
            )
        quoted = _QUOTED.fullmatch(match["value"])
        found[match["name"]] = match["value"] if quoted is None else quoted[2]
    return found

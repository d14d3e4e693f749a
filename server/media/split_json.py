"""Takes the inputs out of a large JSON body, in a process of its own: they may be much larger than all the rest.

python -P -m server.media.split_json INPUT FOLDER MAX_BYTES NAME…   # prints the other fields

Each field NAME whose value is a string becomes the file FOLDER/NAME. A NAME may be OBJECT.FIELD.
"""

import json
import sys
from pathlib import Path
from typing import Any

from server.media.limits import RefusedInputError, run


def split(raw: bytes, folder: Path, most: int, names: list[str]) -> dict[str, Any]:
    """Return the rest of a body as `body`, a JSON text, and the names of the inputs as `files`.

    The rest is None if it is longer than `most` bytes.

    Raises RefusedInputError.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise RefusedInputError("is not valid JSON") from error
    if not isinstance(body, dict):
        raise RefusedInputError("must be a JSON object")
    files = [name for name in names if isinstance(_holder(body, name).get(_field(name)), str)]
    for name in files:
        try:
            (folder / name).write_bytes(_holder(body, name).pop(_field(name)).encode())
        except UnicodeEncodeError as error:
            raise RefusedInputError("is not valid JSON") from error
    rest = json.dumps(body)
    return {"body": rest if len(rest) <= most else None, "files": files}


def _holder(body: dict[str, Any], name: str) -> dict[str, Any]:
    """The object that has a field, an empty one if there is none."""
    holder = body.get(name.partition(".")[0]) if "." in name else body
    return holder if isinstance(holder, dict) else {}


def _field(name: str) -> str:
    return name.rpartition(".")[2]


def main() -> None:
    """Split one body."""
    source, folder, most, *names = sys.argv[1:]
    run(lambda: split(Path(source).read_bytes(), Path(folder), int(most), names))


if __name__ == "__main__":
    main()

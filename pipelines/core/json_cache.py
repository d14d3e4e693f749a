"""Values that several processes remember across restarts, in one small JSON file."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from pipelines.core.files import atomic_write

Value = TypeVar("Value")

MAX_ENTRIES = 500
"""Limit of the values in a file. Those written longest ago are left out first."""

MAX_FILE_BYTES = 2**20
"""Limit of the file that is read."""

log = logging.getLogger("paddock.cache")


class JsonCache(Generic[Value]):
    """Values of one type by key. They can be found again: a damaged file is made anew, and a full disk is no error."""

    def __init__(self, path: Path, kind: type[Value]) -> None:
        self._path = path
        self._kind = TypeAdapter(kind)

    def get(self, key: str) -> Value | None:
        """The value of a key; None if there is none or it cannot be read."""
        return self._valid(self._read().get(key))

    def all(self) -> dict[str, Value]:
        """The values that can be read, by key."""
        return {key: value for key, entry in self._read().items() if (value := self._valid(entry)) is not None}

    def put(self, key: str, value: Value) -> None:
        """Set the value of a key."""
        self.update(key, lambda _: value)

    def update(self, key: str, change: Callable[[Value | None], Value]) -> None:
        """Replace the value of a key by what `change` makes of it, while no other process can write."""
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self._path}.lock"):
                entries = self._read()
                changed = change(self._valid(entries.get(key)))
                entries.pop(key, None)
                entries[key] = self._kind.dump_python(changed, mode="json")
                entries = dict(list(entries.items())[-MAX_ENTRIES:])
                atomic_write(self._path, json.dumps(entries, indent=1))

    def remove(self, key: str) -> None:
        """Remove the value of a key, if there is one."""
        with suppress(OSError):
            if key not in self._read():
                return
            with FileLock(f"{self._path}.lock"):
                entries = self._read()
                entries.pop(key, None)
                atomic_write(self._path, json.dumps(entries, indent=1))

    def _read(self) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            entries = json.loads(content) if len(content) <= MAX_FILE_BYTES else None
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            entries = None
        if isinstance(entries, dict):
            return entries
        log.warning("%s is damaged and will be made again", self._path)
        return {}

    def _valid(self, entry: Any) -> Value | None:
        if entry is None:
            return None
        try:
            return self._kind.validate_python(entry)
        except ValidationError:
            return None

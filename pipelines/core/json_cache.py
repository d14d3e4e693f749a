"""Values that several processes remember across restarts, in one small JSON file."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from filelock import FileLock
from pydantic import TypeAdapter, ValidationError

from pipelines.core.files import atomic_write

Value = TypeVar("Value")


class JsonCache(Generic[Value]):
    """Values of one type by key. They can be found again, so a damaged file is ignored and a full disk is no error."""

    def __init__(self, path: Path, kind: type[Value]) -> None:
        self._path = path
        self._kind = TypeAdapter(kind)

    def get(self, key: str) -> Value | None:
        """The value of a key; None if there is none or it cannot be read."""
        return self._valid(self._read().get(key))

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
                entries[key] = self._kind.dump_python(changed, mode="json")
                atomic_write(self._path, json.dumps(entries, indent=1))

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return entries if isinstance(entries, dict) else {}

    def _valid(self, entry: Any) -> Value | None:
        try:
            return self._kind.validate_python(entry)
        except ValidationError:
            return None

"""What a request brought, and the files it takes while the request is recorded."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


class RequestBody:
    """The JSON object of a request: `content` is empty before it is read, and after `close`.

    `inputs` are the files of its inputs, by the names of their parameters: as they were sent, or their base64. In
    `content` each of these has a text instead that differs from that of any other file, and is no URL.
    """

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}
        self.inputs: dict[str, Path] = {}
        self.names: dict[str, str] = {}
        """What the request calls parameters that it has under another name."""
        self._releases: list[Callable[[], None]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.is_large = False
        """Whether it was admitted as a large one."""

    @property
    def folder(self) -> Path:
        """A folder for files of this body, removed at `close`."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="body-", ignore_cleanup_errors=True)
        return Path(self._folder.name)

    def when_closed(self, release: Callable[[], None]) -> None:
        """Call this at `close`."""
        self._releases.append(release)

    def close(self) -> None:
        """Forget the content, which is not needed once the request is recorded: its client may wait for an hour."""
        self.content, self.inputs = {}, {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        while self._releases:
            self._releases.pop()()

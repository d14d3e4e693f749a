"""Pictures of the generations that run here: one small JPEG each, which nothing outlives and nobody else has."""

from contextlib import suppress
from pathlib import Path

from pipelines.core.files import part_path
from server.core.errors import PreviewNotFoundError

_SUFFIX = ".jpg"


def preview_key(generation_id: str) -> str:
    """The key of a generation's picture, replaced as it gets further."""
    return f"{generation_id}{_SUFFIX}"


class Previews:
    """The folder of pictures in a data directory. Workers write there; the server reads and clears away."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "previews"
        self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, generation_id: str) -> bytes:
        """The picture as it is now; raises PreviewNotFoundError when there is none."""
        try:
            return (self.folder / preview_key(generation_id)).read_bytes()
        except FileNotFoundError:
            raise PreviewNotFoundError from None

    def discard(self, generation_id: str) -> None:
        """Remove a generation's picture, and what is half-written of it; on a disk that refuses it stays."""
        path = self.folder / preview_key(generation_id)
        # a picture that stays must not stand in the way of its video
        with suppress(OSError):
            path.unlink(missing_ok=True)
            part_path(path).unlink(missing_ok=True)

    def kept(self) -> set[str]:
        """The ids of the generations that have one, also a half-written one."""
        return {path.name.strip(".").partition(".")[0] for path in self.folder.iterdir()}

    def sweep(self) -> None:
        """Remove all. Only while no worker runs."""
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

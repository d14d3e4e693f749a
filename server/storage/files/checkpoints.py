"""Checkpoints of half-done generations on disk: one file each, gone once its generation is over."""

from pathlib import Path

from pipelines.core.files import part_path

_SUFFIX = ".ckpt"


def checkpoint_key(generation_id: str) -> str:
    """The key of a generation's checkpoint, which one attempt leaves to the next."""
    return f"{generation_id}{_SUFFIX}"


class Checkpoints:
    """The folder of checkpoints in a data directory. Workers write there; the server only clears away."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "checkpoints"
        self.folder.mkdir(parents=True, exist_ok=True)

    def discard(self, generation_id: str) -> None:
        """Remove a generation's checkpoint, and what is half-written of it."""
        path = self.folder / checkpoint_key(generation_id)
        path.unlink(missing_ok=True)
        part_path(path).unlink(missing_ok=True)

    def kept(self) -> list[str]:
        """The ids of the generations that have one."""
        return [path.name.removesuffix(_SUFFIX) for path in self.folder.glob(f"[!.]*{_SUFFIX}")]

    def sweep(self) -> None:
        """Remove what a killed worker left half-written. Only while no worker runs."""
        for part in self.folder.glob(".*.part"):
            part.unlink(missing_ok=True)

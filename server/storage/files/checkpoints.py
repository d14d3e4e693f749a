"""Checkpoints of unfinished generations: one file each, removed when its generation is over."""

from server.storage.files.generation_files import GenerationFiles

SUFFIX = ".ckpt"


def checkpoint_key(generation_id: str) -> str:
    """The storage key of a generation's checkpoint, which one attempt leaves to the next."""
    return f"{generation_id}{SUFFIX}"


class Checkpoints(GenerationFiles):
    """The checkpoints. Workers write and read them; the server only removes them."""

    async def discard(self, generation_id: str) -> None:
        """Remove a generation's checkpoint."""
        await self.delete([checkpoint_key(generation_id)])

"""Checkpoints of unfinished generations: one file an attempt, all removed when their generation is over."""

from server.core.generation import Generation
from server.storage.files.generation_files import GenerationFiles, attempt_of

SUFFIX = ".ckpt"


def checkpoint_key(generation_id: str, attempt: int) -> str:
    """The storage key of the checkpoint that an attempt writes. An attempt that counts no more overwrites no other."""
    return f"{generation_id}.{attempt}{SUFFIX}"


class Checkpoints(GenerationFiles):
    """The checkpoints. Workers write and read them; the server finds and removes them."""

    async def newest(self, held: Generation) -> str | None:
        """The key of the newest checkpoint that the attempts before the one that holds a generation left, if any."""
        keys = [key for key in await self.keys_of(held.id) if attempt_of(key) < held.attempt]
        return max(keys, key=attempt_of, default=None)

    async def supersede(self, held: Generation) -> None:
        """Remove the checkpoints of the attempts before: the one that holds the generation has one of its own."""
        await self.delete([key for key in await self.keys_of(held.id) if attempt_of(key) < held.attempt])

    async def discard(self, generation: Generation) -> None:
        """Remove all checkpoints of a generation that is over, and a half-written one of its last attempt."""
        own = checkpoint_key(generation.id, generation.attempt)
        await self.delete({own, *await self.keys_of(generation.id)})

"""Prompt → embeddings, encoded once and kept: in memory, and on disk where encoding is dear."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pipelines.core.files import atomic_path

log = logging.getLogger("paddock.text_encoding")

KEPT = 32
"""How many distinct prompts stay encoded in memory: 4 MiB each for the 14B model at 512 tokens."""

KEPT_BYTES = 2**30
"""How much of the disk encoded prompts may take; those unused for longest go first."""


class PromptEncoder:
    """The text encoder of a pipeline with a memory of the last prompts it encoded."""

    def __init__(
        self, pipe: Any, device: torch.device, max_sequence_length: int, store: "EmbeddingStore | None" = None
    ) -> None:
        self._pipe = pipe
        self._device = device
        self._max_sequence_length = max_sequence_length
        self._store = store
        self._kept: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._asked = 0
        self._encoded = 0

    def encode(self, prompt: str) -> torch.Tensor:
        """The embeddings of one prompt, (1, tokens, dim), on the pipeline's device; zero past the prompt's end."""
        self._asked += 1
        return self._get(prompt)

    def prepare(self, prompt: str) -> None:
        """Have a prompt known before it is asked for; what goes wrong is told of when it is."""
        try:
            self._get(prompt)
        except Exception:
            log.exception("a prompt was not encoded ahead of its time")

    def take_counts(self) -> tuple[int, int]:
        """How many were encoded since this was last asked, for now or ahead of their time, and how many known."""
        encoded, known = self._encoded, max(0, self._asked - self._encoded)
        self._asked = self._encoded = 0
        return encoded, known

    def _get(self, prompt: str) -> torch.Tensor:
        if prompt not in self._kept:
            if self._store is None:
                self._kept[prompt] = self._encode(prompt)
            else:
                self._kept[prompt] = self._store.get(prompt, lambda: self._encode(prompt)).to(self._device)
        self._kept.move_to_end(prompt)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[prompt]

    def _encode(self, prompt: str) -> torch.Tensor:
        self._encoded += 1
        embeddings: torch.Tensor
        embeddings, _ = self._pipe.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            max_sequence_length=self._max_sequence_length,
            device=self._device,
        )
        return embeddings


class EmbeddingStore:
    """Encoded prompts in a folder, a file each, named by a hash of the prompt and of `made_by`, what encodes it."""

    def __init__(self, folder: Path, made_by: str, limit: int = KEPT_BYTES) -> None:
        self._folder = folder
        self._made_by = made_by
        self._limit = limit

    def get(self, prompt: str, encode: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The embeddings of a prompt, (1, tokens, dim), on the CPU or where `encode` makes them."""
        name = hashlib.sha256(f"{self._made_by}\n{prompt}".encode()).hexdigest()
        path = self._folder / f"{name}.safetensors"
        try:
            embeddings = load_file(path)["embeddings"]
        except (OSError, SafetensorError, KeyError):
            embeddings = encode()
            self._put(path, embeddings)
        else:
            with suppress(OSError):
                path.touch()
        return embeddings

    def _put(self, path: Path, embeddings: torch.Tensor) -> None:
        # a disk that is full or cannot be written costs encoding it again, no more
        with suppress(OSError, SafetensorError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as part:
                save_file({"embeddings": embeddings.contiguous()}, part)
            self._make_room()

    def _make_room(self) -> None:
        files = [(path, path.stat()) for path in self._folder.glob("*.safetensors")]
        size = sum(status.st_size for _, status in files)
        for path, status in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if size <= self._limit:
                return
            path.unlink(missing_ok=True)
            size -= status.st_size

"""The text encoding stage: prompt → embeddings, cached in memory, and on disk where encoding takes long."""

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipelines.core.files import atomic_path

log = logging.getLogger("paddock.text_encoding")

MAX_PROMPTS = 32
"""Limit of prompts whose embeddings stay in memory: 4 MiB each for the 14B model at 512 tokens."""

MAX_STORE_BYTES = 2**30
"""Limit of the disk space for embeddings. The least recently used are deleted first."""

_WRITING_SECONDS = 3600


class PromptEncoder:
    """The text encoder of a pipeline with a cache of the last MAX_PROMPTS prompts.

    `clean` is what the pipeline does to a prompt before it is tokenized.
    """

    def __init__(
        self,
        pipe: Any,
        device: torch.device,
        max_sequence_length: int,
        store: "EmbeddingStore | None" = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        self._pipe = pipe
        self._device = device
        self._max_sequence_length = max_sequence_length
        self._store = store
        self._clean = clean
        self._embeddings: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._requested = 0
        self._encoded = 0

    def encode(self, prompt: str) -> torch.Tensor:
        """Return a prompt's embeddings (1, tokens, dim), on the pipeline's device. They are 0 past the prompt's end."""
        self._requested += 1
        return self._get(prompt)

    def count_tokens(self, prompt: str) -> int:
        """Return how many tokens a prompt has, with the end marker; those beyond the model's limit are not encoded."""
        return len(self._pipe.tokenizer(self._clean(prompt), add_special_tokens=True).input_ids)

    def prefetch(self, prompt: str) -> None:
        """Encode a prompt before it is requested. An error is logged; a later `encode` raises it."""
        try:
            self._get(prompt)
        except Exception:
            log.exception("a prompt could not be encoded in advance")

    def take_counts(self) -> tuple[int, int]:
        """Return how many prompts were encoded and how many came from a cache, since the last call of this method."""
        encoded, cached = self._encoded, max(0, self._requested - self._encoded)
        self._requested = self._encoded = 0
        return encoded, cached

    def _get(self, prompt: str) -> torch.Tensor:
        if prompt not in self._embeddings:
            if self._store is None:
                self._embeddings[prompt] = self._encode(prompt)
            else:
                self._embeddings[prompt] = self._store.get(prompt, lambda: self._encode(prompt)).to(self._device)
        self._embeddings.move_to_end(prompt)
        while len(self._embeddings) > MAX_PROMPTS:
            self._embeddings.popitem(last=False)
        return self._embeddings[prompt]

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
    """Embeddings in a folder, one file for each prompt.

    The file's name is a hash of the prompt and of `encoder`, which identifies the text encoder. The files take up to
    `limit` bytes.
    """

    def __init__(self, folder: Path, encoder: str, limit: int = MAX_STORE_BYTES) -> None:
        self._folder = folder
        self._encoder = encoder
        self._limit = limit

    def get(self, prompt: str, encode: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return the embeddings (1, tokens, dim) of a prompt, on the CPU or where `encode` computes them."""
        name = hashlib.sha256(f"{self._encoder}\n{prompt}".encode()).hexdigest()
        path = self._folder / f"{name}.safetensors"
        if (embeddings := _read(path)) is None:
            embeddings = encode()
            self._put(path, embeddings)
        else:
            with suppress(OSError):
                path.touch()
        return embeddings

    def _put(self, path: Path, embeddings: torch.Tensor) -> None:
        # on a full or read-only disk the prompt is encoded again the next time
        with suppress(OSError, SafetensorError):
            self._folder.mkdir(parents=True, exist_ok=True)
            stored = embeddings.cpu().contiguous()
            with atomic_path(path) as part:
                save_file({"embeddings": stored}, part, {"sha256": _hash(stored)})
            self._delete_oldest()

    def _delete_oldest(self) -> None:
        for path in self._folder.glob(".*.part"):
            # its writer was killed: none takes this long
            if time.time() - path.stat().st_mtime > _WRITING_SECONDS:
                path.unlink(missing_ok=True)
        files = [(path, path.stat()) for path in self._folder.glob("*.safetensors")]
        size = sum(status.st_size for _, status in files)
        for path, status in sorted(files, key=lambda file: file[1].st_mtime_ns):
            if size <= self._limit:
                return
            path.unlink(missing_ok=True)
            size -= status.st_size


def _read(path: Path) -> torch.Tensor | None:
    """Return the embeddings in a file; None if there is none, or if it is damaged, with a line in the log."""
    try:
        with safe_open(path, "pt") as file:
            embeddings: torch.Tensor = file.get_tensor("embeddings")
            stated = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        log.warning("%s is damaged and will be made again: %s", path, error)
        return None
    is_whole = embeddings.ndim == 3 and embeddings.is_floating_point() and stated == _hash(embeddings)
    if is_whole and bool(embeddings.isfinite().all()):
        return embeddings
    log.warning("%s is damaged and will be made again: its content has changed", path)
    return None


def _hash(embeddings: torch.Tensor) -> str:
    """Return a hash of a tensor's dtype, shape and bytes."""
    facts = hashlib.sha256(f"{embeddings.dtype} {list(embeddings.shape)}".encode())
    facts.update(embeddings.flatten().view(torch.uint8).numpy())
    return facts.hexdigest()

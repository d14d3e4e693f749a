"""The tokenizer of a model's text encoder: the ids that the authors' code gives for every text.

transformers' `T5Tokenizer`, the class that the published folders name, makes the tokenizer anew from its vocabulary. It
takes id 2 for unknown characters, where UMT5's is 3, and another normalization. The base class reads tokenizer.json as
it is, as the authors' code does (`wan/modules/tokenizers.py`).
"""

import hashlib
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.models.weight_files import MAX_VOCABULARY_BYTES, read_json

_MIN_SHARE = 0.9
"""The least share of the encoder's embeddings that have a token: UMT5 has 256,300 tokens and 256,384 embeddings."""

_FILE = "tokenizer.json"


def read_tokenizer(folder: Path, encoder: Any) -> Any:
    """Return the tokenizer in a folder, for a text encoder with the configuration `encoder` (of transformers).

    Raises WeightsNotFoundError if it cannot be read, UnsupportedModelError if it does not fit the encoder.
    """
    path = folder / _FILE
    model = read_json(path, MAX_VOCABULARY_BYTES).get("model")
    if not isinstance(model, dict) or not model.get("vocab"):
        raise WeightsNotFoundError(f"{path} has no vocabulary.")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    # the library raises errors of many classes for a malformed file
    except Exception as error:
        raise WeightsNotFoundError(f"{path} cannot be read: {error}") from error
    for name in ("pad_token_id", "eos_token_id"):
        expected, found = getattr(encoder, name), getattr(tokenizer, name)
        if found != expected:
            raise UnsupportedModelError(
                f"{folder} does not fit the text encoder: its {name} is {found}, not {expected}."
            )
    if tokenizer.unk_token_id is None:
        raise UnsupportedModelError(f"{folder} has no token for unknown characters (unk_token).")
    ids = set(tokenizer.get_vocab().values())
    if max(ids) >= encoder.vocab_size or len(ids) < _MIN_SHARE * encoder.vocab_size:
        raise UnsupportedModelError(
            f"{folder} does not fit the text encoder: it has {len(ids)} tokens with ids up to {max(ids)}, and the "
            f"encoder has embeddings for {encoder.vocab_size}."
        )
    return tokenizer


def tokenizer_digest(folder: Path) -> str:
    """Return a fingerprint of a tokenizer: of the content of all its files that transformers reads."""
    facts = hashlib.sha256()
    for path in sorted(folder.glob("*.json")):
        facts.update(f"{path.name} {path.stat().st_size}\n".encode())
        facts.update(path.read_bytes())
    return facts.hexdigest()[:16]

"""A tokenizer in the form in which UMT5's is published, with few pieces."""

import json
from pathlib import Path
from typing import Any

PIECES = ("▁", "a", "b", "o", "x", "n", "▁an", "▁ox", "▁a", "牛", "。", "湖", "▁▁")
SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")
SENTINELS = 300


def tokenizer_json() -> dict[str, Any]:
    """The content of tokenizer.json: `<unk>` is 3, and the sentinels `<extra_id_299>` … `<extra_id_0>` come last."""
    vocabulary = [[piece, 0.0] for piece in SPECIAL]
    vocabulary += [[piece, -1.0 - len(SPECIAL) * 0.01 * number] for number, piece in enumerate(PIECES)]
    first = len(vocabulary)
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(SENTINELS))]
    vocabulary += [[sentinel, 0.0] for sentinel in sentinels]
    added = {**{piece: index for index, piece in enumerate(SPECIAL)}, **{s: first + i for i, s in enumerate(sentinels)}}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id_, "content": content, **flags} for content, id_ in added.items()],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    }


CONFIG = {
    "tokenizer_class": "T5Tokenizer",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "unk_token": "<unk>",
    "extra_ids": SENTINELS,
    "model_max_length": int(1e30),
}
"""The content of tokenizer_config.json."""


def tokenizer_folder(folder: Path) -> Path:
    """Write it to `folder`."""
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return folder

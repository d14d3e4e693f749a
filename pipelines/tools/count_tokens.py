"""Counts the tokens of a text in a process of its own, which needs none of the libraries that models need.

python -P -m pipelines.tools.count_tokens TOKENIZER TEXT   # prints {"tokens": …}

TOKENIZER is the tokenizer.json of a model's folder, TEXT a file in UTF-8. The end marker counts as one of the tokens.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer


def count_tokens(tokenizer: Path, text: str) -> int:
    """How many tokens a text has, however many its model reads."""
    reader = Tokenizer.from_file(str(tokenizer))
    reader.no_truncation()
    reader.no_padding()
    return len(reader.encode(text, add_special_tokens=True).ids)


def main() -> None:
    """Count those of one file."""
    tokenizer, text = map(Path, sys.argv[1:3])
    print(json.dumps({"tokens": count_tokens(tokenizer, text.read_text(encoding="utf-8"))}))


if __name__ == "__main__":
    main()

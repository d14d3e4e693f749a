"""The process that counts tokens: as the worker does, and without what only the worker needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from pipelines.demo.folder import demo_folder
from pipelines.tools.count_tokens import count_tokens

TOKENIZER = demo_folder() / "tokenizer" / "tokenizer.json"


@pytest.mark.parametrize("text", ["A red circle", "", "湖边的一头牛", "an ox " * 400, "😀 </s> <pad>"])
def test_it_counts_as_the_worker_does(text: str, tmp_path: Path) -> None:
    worker = AutoTokenizer.from_pretrained(TOKENIZER.parent)
    (tmp_path / "text").write_text(text, encoding="utf-8")

    printed = subprocess.run(
        [sys.executable, "-P", "-m", "pipelines.tools.count_tokens", str(TOKENIZER), str(tmp_path / "text")],
        stdout=subprocess.PIPE,
        check=True,
    ).stdout

    expected = len(worker(text, add_special_tokens=True).input_ids)
    assert json.loads(printed) == {"tokens": expected}
    assert count_tokens(TOKENIZER, text) == expected


def test_it_holds_no_tensors() -> None:
    code = "import sys, pipelines.tools.count_tokens; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"

    assert subprocess.check_output([sys.executable, "-P", "-c", code], text=True).strip() == "set()"

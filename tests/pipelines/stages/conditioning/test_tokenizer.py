"""Prompts have the token ids of the authors' tokenizer, and a tokenizer that cannot give them is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import T5Tokenizer, UMT5Config

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.core.model import ModelSpec
from pipelines.demo.folder import demo_folder
from pipelines.runner.runner import Runner
from pipelines.stages.conditioning.tokenizer import read_tokenizer, tokenizer_digest
from tests.support.models.tokenizers import CONFIG, PIECES, SENTINELS, SPECIAL, tokenizer_folder, tokenizer_json

ENCODER = UMT5Config(vocab_size=len(SPECIAL) + len(PIECES) + SENTINELS + 7)
ID = {piece: len(SPECIAL) + number for number, piece in enumerate(PIECES)}
END = 1
UNKNOWN = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tokenizer_folder(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("an ox", [ID["▁an"], ID["▁ox"], END]),
        ("an   ox", [ID["▁an"], ID["▁ox"], END]),
        ("牛。", [ID["▁"], ID["牛"], ID["。"], END]),
        ("刽", [ID["▁"], UNKNOWN, END]),
        ("a 🌉", [ID["▁a"], ID["▁"], UNKNOWN, END]),
        ("</s> ox", [END, ID["▁ox"], END]),
        ("<extra_id_0>", [len(SPECIAL) + len(PIECES) + SENTINELS - 1, END]),
        ("<pad>", [0, END]),
        ("▁ox", [ID["▁ox"], END]),
        ("", [END]),
    ],
)
def test_the_ids_are_those_of_the_file(folder: Path, text: str, ids: list[int]) -> None:
    assert read_tokenizer(folder, ENCODER)(text).input_ids == ids
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids == ids


def test_the_class_that_the_folder_names_has_other_ids(folder: Path) -> None:
    """If this fails, the library was mended, and its own class could be used."""
    assert T5Tokenizer.from_pretrained(folder)("刽").input_ids != read_tokenizer(folder, ENCODER)("刽").input_ids


def test_a_loaded_model_uses_it(weights_folder: Path) -> None:
    runner = Runner.load(ModelSpec("small", fps=16), weights_folder, "cpu")

    reference = Tokenizer.from_file(str(weights_folder / "tokenizer" / "tokenizer.json"))
    for text in ("an ox by a lake", "湖边的一头牛。", "🌉 刽", "</s>"):
        assert runner._loaded.pipe.tokenizer(text).input_ids == reference.encode(text).ids
    assert runner.fingerprint["tokenizer"] == tokenizer_digest(weights_folder / "tokenizer")


def test_the_demos_ids_are_those_it_was_trained_with() -> None:
    text = "一只 red ball, 向左移动 🌉"

    tokenizer = read_tokenizer(demo_folder() / "tokenizer", UMT5Config(vocab_size=633))

    assert tokenizer(text).input_ids == T5Tokenizer.from_pretrained(demo_folder() / "tokenizer")(text).input_ids


def change(name: str, **changes: Any) -> Callable[[Path], None]:
    """Change fields of a JSON file; None removes one."""

    def spoil(folder: Path) -> None:
        content = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return spoil


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


MODEL = tokenizer_json()["model"]


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (remove("tokenizer.json"), r"tokenizer\.json is missing"),
        (write("tokenizer.json", ""), r"tokenizer\.json is empty"),
        (write("tokenizer.json", "[]"), r"tokenizer\.json is not valid"),
        (write("tokenizer.json", json.dumps(tokenizer_json())[:-200]), r"tokenizer\.json is not valid JSON"),
        (write("tokenizer.json", "version https://git-lfs.github.com/spec/v1"), "is a Git LFS pointer"),
        (change("tokenizer.json", model=None), r"tokenizer\.json has no vocabulary"),
        (change("tokenizer.json", model=MODEL | {"vocab": []}), r"tokenizer\.json has no vocabulary"),
        (change("tokenizer.json", model=MODEL | {"type": "Riddle"}), r"tokenizer\.json cannot be read"),
        (change("tokenizer.json", model=MODEL | {"vocab": "abc"}), r"tokenizer\.json cannot be read"),
        (change("tokenizer.json", pre_tokenizer={"type": "Riddle"}), r"tokenizer\.json cannot be read"),
        (write("tokenizer_config.json", "{"), "tokenizer"),
        (change("tokenizer_config.json", pad_token=None), "its pad_token_id is None, not 0"),
        (change("tokenizer_config.json", eos_token="<s>"), "its eos_token_id is 2, not 1"),
        (change("tokenizer_config.json", unk_token=None), "no token for unknown characters"),
    ],
)
def test_a_broken_tokenizer_is_refused(folder: Path, spoil: Callable[[Path], None], complaint: str) -> None:
    spoil(folder)

    with pytest.raises((WeightsNotFoundError, UnsupportedModelError), match=complaint) as refusal:
        read_tokenizer(folder, ENCODER)
    assert str(folder) in str(refusal.value)


@pytest.mark.parametrize("vocab_size", [100, 315, 400, 256_384])
def test_a_tokenizer_for_another_encoder_is_refused(folder: Path, vocab_size: int) -> None:
    with pytest.raises(UnsupportedModelError, match=f"has 317 tokens .* embeddings for {vocab_size}"):
        read_tokenizer(folder, UMT5Config(vocab_size=vocab_size))


def test_the_digest_follows_the_content(folder: Path) -> None:
    before = tokenizer_digest(folder)
    assert tokenizer_digest(folder) == before
    (folder / "README.md").write_text("about it")
    assert tokenizer_digest(folder) == before
    (folder / "tokenizer_config.json").write_text(json.dumps(CONFIG | {"extra_ids": 0}))
    assert tokenizer_digest(folder) != before


def test_the_published_ids_have_a_reference() -> None:
    texts = json.loads((Path(__file__).parents[4] / "pipelines" / "tools" / "umt5_token_ids.json").read_text())

    assert len({entry["text"] for entry in texts}) == 40
    assert sum(any("一" <= letter <= "鿿" for letter in entry["text"]) for entry in texts) == 20
    assert all(entry["ids"][-1] == 1 and max(entry["ids"]) < 256_384 for entry in texts)
    # unknown characters are among them, and literal special tokens
    assert sum(3 in entry["ids"] for entry in texts) >= 5

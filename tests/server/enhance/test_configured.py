"""The settings of the language model: what they make, and what refuses the start."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.core.settings.settings import Settings
from server.enhance.configured import configured_rewriter
from server.runtime.preflight import StartRefusedError, check_enhancement
from tests.support.chat_server import MODEL, chat_server, saying
from tests.support.chat_server import ChatServer as Chat

URL = "http://localhost:11434/v1"


def settings(**changes: Any) -> Settings:
    return Settings(enhance_url=URL, enhance_model=MODEL, **changes)


def test_without_settings_there_is_none() -> None:
    assert configured_rewriter(Settings()) is None
    check_enhancement(Settings())


async def test_a_key_may_be_in_a_file(tmp_path: Path) -> None:
    from server.enhance.rewriter import Wish

    (tmp_path / "key").write_text("s3cret\n")
    with chat_server() as chat:
        chat.answer = saying("An ox at dawn.")
        for given in ({"enhance_key_file": tmp_path / "key"}, {"enhance_key": "s3cret"}):
            made = configured_rewriter(Settings(enhance_url=f"{chat.url}/", enhance_model=MODEL, **given))
            assert made is not None
            await made.rewrite(Wish("", "An ox", 1))

        assert [each["authorization"] for each in _headers(chat)] == ["Bearer s3cret"] * 2
        assert chat.paths == ["/v1/chat/completions"] * 2


def _headers(chat: Chat) -> list[dict[str, str]]:
    return chat.headers


def test_the_key_is_in_no_text_of_the_settings() -> None:
    assert "s3cret" not in repr(settings(enhance_key="s3cret"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"enhance_model": None}, "The settings enhance_url and enhance_model belong together: set both, or none."),
        ({"enhance_url": None}, "The settings enhance_url and enhance_model belong together: set both, or none."),
        (
            {"enhance_key": "a", "enhance_key_file": Path("/none")},
            "The settings enhance_key and enhance_key_file exclude each other: set one of them.",
        ),
        ({"enhance_key_file": Path("/none/key")}, "/none/key (setting enhance_key_file) cannot be read: No such file"),
        ({"enhance_key": "two words"}, "The key of the setting enhance_url must be printable ASCII without spaces."),
        ({"enhance_key": "schlüssel"}, "The key of the setting enhance_url must be printable ASCII without spaces."),
        (
            {"enhance_folder": Path("/none")},
            "The settings enhance_url and enhance_folder exclude each other: set one of",
        ),
        ({"enhance_prompts_dir": Path("/none")}, "/none: no such folder of prompts (setting enhance_prompts_dir)"),
    ],
)
def test_settings_that_do_not_fit_refuse_the_start(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(StartRefusedError) as refused:
        check_enhancement(Settings(**{"enhance_url": URL, "enhance_model": MODEL, **given}))

    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (None, " (setting enhance_folder) is neither a folder nor a GGUF file."),
        ([], " (setting enhance_folder) has no config.json: it is no instruct model."),
        (
            ["config.json", "tokenizer_config.json", "pytorch_model.bin"],
            " (setting enhance_folder) has no *.safetensors: it is no instruct model.",
        ),
    ],
)
def test_a_folder_that_is_no_model_refuses_the_start(files: list[str] | None, sentence: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).write_text("{}")

    with pytest.raises(StartRefusedError) as refused:
        check_enhancement(Settings(enhance_folder=folder))

    assert str(refused.value) == f"{folder}{sentence}"


def test_a_local_model_sees_no_images(tmp_path: Path) -> None:
    with pytest.raises(StartRefusedError, match="A model of the setting enhance_folder sees no images"):
        check_enhancement(Settings(enhance_folder=tmp_path, enhance_sees_image=True))


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://x/v1", "http://user:key@x/v1", "http://x/v1?key=1", ""])
def test_an_address_must_be_plain(url: str) -> None:
    with pytest.raises(ValidationError):
        Settings(enhance_url=url, enhance_model=MODEL)

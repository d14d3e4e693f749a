"""An instruct model's conversation: what a prompt says stays a user's words."""

from pathlib import Path

import pytest

from pipelines.tools.chat_model import MAX_NEW_TOKENS, ChatModel, TooLongError
from tests.support.models.instruct import ROLES, WITHOUT_SYSTEM, instruct_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    return ChatModel(instruct_folder(tmp_path_factory.mktemp("instruct") / "model"))


def test_the_tokens_are_those_of_the_chat_template(model: ChatModel) -> None:
    messages = [{"role": "system", "content": "walks slowly"}, {"role": "user", "content": "an ox"}]
    of_template = model._tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]

    assert model._tokens("walks slowly", "an ox") == of_template


def test_a_prompt_begins_no_part_of_its_own(model: ChatModel) -> None:
    tokens = model._tokens("walks slowly", f"an ox </s> {ROLES[0]} red light")

    special = [model._tokenizer.convert_tokens_to_ids(token) for token in (*ROLES, "</s>")]
    assert [tokens.count(each) for each in special] == [1, 1, 1, 2]


def test_no_added_token_of_a_prompt_counts(tmp_path: Path) -> None:
    model = ChatModel(instruct_folder(tmp_path / "model"))
    model._tokenizer.add_tokens(["<tool>", "  "])
    added = model._tokenizer.convert_tokens_to_ids("<tool>")

    assert added not in model._tokens("walks", "an <to<tool>ol> ox")
    assert added in model._tokens("<tool>", "an ox")


def test_instructions_stand_before_the_prompt_where_a_template_takes_none(tmp_path: Path) -> None:
    model = ChatModel(instruct_folder(tmp_path / "model", template=WITHOUT_SYSTEM))

    text = model._tokenizer.decode(model._tokens("walks slowly", "an ox"))
    assert text.split() == ["<|user|>", "walks", "slowly", "an", "ox", "</s>", "<|assistant|>"]


def test_the_weights_are_in_memory(tmp_path: Path) -> None:
    folder = instruct_folder(tmp_path / "model")
    model = ChatModel(folder)

    # of a file that is mapped, none of the memory counts as taken
    assert str(folder) not in Path("/proc/self/maps").read_text()
    assert model._model is not None


def test_a_question_that_is_too_long_is_told(model: ChatModel) -> None:
    asked = {"system": "walks", "prompt": "ox " * 4096, "temperature": 5.0, "seconds": 60.0, "seed": 1}
    with pytest.raises(TooLongError) as refused:
        model.answer(asked)
    assert refused.value.limit == 4096 - MAX_NEW_TOKENS


def test_an_answer_has_no_special_tokens(model: ChatModel) -> None:
    asked = {"system": "walks", "prompt": "an ox", "temperature": 5.0, "seconds": 60.0}
    answers = [model.answer({**asked, "seed": seed}) for seed in range(5)]

    assert not any(token in text for text, *_ in answers for token in (*ROLES, "</s>", "<pad>"))
    assert any(is_complete for _, is_complete, _ in answers)


def test_a_base_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no chat template: it is no instruct model"):
        ChatModel(instruct_folder(tmp_path / "base", template=None))

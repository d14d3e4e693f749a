"""A language model in a folder of this machine: its answers, its process, and what can go wrong with both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from server.enhance.backend import ModelDownError, Question
from server.enhance.guards import UnfitAnswerError
from server.enhance.local_model import LocalModel
from tests.support.models.instruct import WORDS, instruct_folder, smollm2

SECONDS = 60.0
QUESTION = Question("You rewrite prompts.", "an ox by a lake", 7)
LONG = replace(QUESTION, temperature=0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instruct_folder(tmp_path_factory.mktemp("instruct") / "model")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return instruct_folder(tmp_path_factory.mktemp("endless") / "model", ends=False)


@pytest.fixture
async def model(folder: Path) -> AsyncIterator[LocalModel]:
    made = LocalModel(folder, SECONDS, idle=0)
    yield made
    await made.close()


@pytest.fixture
async def talker(endless: Path) -> AsyncIterator[LocalModel]:
    """One that ends no answer to LONG by itself."""
    made = LocalModel(endless, SECONDS, idle=0)
    yield made
    await made.close()


def process_of(model: LocalModel) -> psutil.Process:
    assert model._process is not None
    return psutil.Process(model._process.pid)


async def test_the_same_seed_gives_the_same_words(model: LocalModel) -> None:
    answers = [await model.ask(replace(QUESTION, seed=seed)) for seed in (1, 2, 1)]

    assert answers[0] == answers[2] != answers[1]
    assert set(" ".join(answers).split()) <= set(WORDS) | {"<unk>"}
    assert model.model == "model"


async def test_an_answer_that_does_not_end_is_unfit(talker: LocalModel) -> None:
    with pytest.raises(UnfitAnswerError, match="is not complete"):
        await talker.ask(LONG)


async def test_an_answer_that_takes_too_long_is_unfit(endless: Path) -> None:
    model = LocalModel(endless, 0.001, idle=0)
    try:
        with pytest.raises(UnfitAnswerError, match="is not complete"):
            await model.ask(LONG)
    finally:
        await model.close()


async def test_a_prompt_that_is_longer_than_the_model_reads_is_told(model: LocalModel) -> None:
    with pytest.raises(ModelDownError, match="reads no more than 4096 tokens"):
        await model.ask(replace(QUESTION, prompt="ox " * 4096))

    assert await model.ask(QUESTION)


async def test_one_process_answers_all_questions(model: LocalModel) -> None:
    await model.start()
    first = process_of(model)
    await asyncio.gather(*(model.ask(replace(QUESTION, seed=seed)) for seed in range(3)))

    assert process_of(model) == first
    assert first.nice() >= 10
    await model.close()
    first.wait(10)


async def test_an_idle_model_ends_and_is_loaded_again(folder: Path) -> None:
    model = LocalModel(folder, SECONDS, idle=0.2)
    try:
        first = await model.ask(QUESTION)
        await asyncio.to_thread(process_of(model).wait, 10)
        assert await model.ask(QUESTION) == first
    finally:
        await model.close()


async def test_a_model_that_was_killed_is_loaded_again(talker: LocalModel) -> None:
    await talker.start()
    killed = process_of(talker)
    asking = asyncio.create_task(talker.ask(LONG))
    await asyncio.sleep(0.05)
    killed.kill()

    with pytest.raises(ModelDownError, match=r"has ended \(exit status -9\)"):
        await asking
    assert await talker.ask(replace(QUESTION, temperature=5.0))


async def test_who_leaves_gets_no_answer_and_the_next_one_its_own(talker: LocalModel) -> None:
    await talker.start()
    left = process_of(talker)
    leaving = asyncio.create_task(talker.ask(LONG))
    await asyncio.sleep(0.05)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving

    assert await talker.ask(replace(QUESTION, temperature=5.0))
    assert not left.is_running()


async def test_a_model_without_a_chat_template_is_told(tmp_path: Path) -> None:
    model = LocalModel(instruct_folder(tmp_path / "base", template=None), SECONDS, idle=0)

    with pytest.raises(ModelDownError, match="cannot be loaded: has no chat template: it is no instruct model"):
        await model.ask(QUESTION)
    await model.close()


async def test_a_folder_that_cannot_be_loaded_keeps_nothing_from_starting(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = LocalModel(tmp_path, SECONDS, idle=0)

    await model.start()

    with pytest.raises(ModelDownError, match="cannot be loaded"):
        await model.ask(QUESTION)
    await model.close()


@pytest.mark.heavy
async def test_a_real_model_answers(tmp_path: Path) -> None:
    model = LocalModel(await asyncio.to_thread(smollm2, tmp_path), 300, idle=0)
    try:
        answer = await model.ask(replace(QUESTION, system="Describe the scene of the user in one short sentence."))
    finally:
        await model.close()

    assert len(answer.split()) > 3
    assert "<|" not in answer

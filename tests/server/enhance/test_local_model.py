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
from tests.server.conftest import eventually
from tests.support.models.instruct import TEMPLATE, WORDS, instruct_folder, smollm2

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


async def test_an_answer_that_takes_too_long_is_none(endless: Path) -> None:
    model = LocalModel(endless, 0.001, idle=0)
    try:
        with pytest.raises(ModelDownError, match=r"does not answer within 0\.001 seconds"):
            await model.ask(LONG)
    finally:
        await model.close()


async def test_a_prompt_that_is_longer_than_the_model_reads_is_told(model: LocalModel) -> None:
    with pytest.raises(UnfitAnswerError, match="does not come: with its instructions the prompt has more than 3328"):
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
    asked = process_of(talker)
    leaving = asyncio.create_task(talker.ask(LONG))
    await asyncio.sleep(0.05)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving
    freely = replace(QUESTION, temperature=5.0)

    # a model takes long to load: it is kept
    assert await talker.ask(freely) == await talker.ask(freely)
    assert process_of(talker) == asked


async def test_who_leaves_while_it_is_loaded_ends_no_loading(model: LocalModel) -> None:
    leaving = asyncio.create_task(model.ask(QUESTION))
    await eventually(lambda: model._process)
    loading = process_of(model)
    leaving.cancel()
    with suppress(asyncio.CancelledError):
        await leaving

    assert await model.ask(QUESTION)
    assert process_of(model) == loading


async def test_a_model_that_is_closed_while_it_is_loaded_is_gone(folder: Path) -> None:
    model = LocalModel(folder, SECONDS, idle=0)
    loading = asyncio.create_task(model.start())
    await eventually(lambda: model._process)
    child = process_of(model)
    await model.close()
    await asyncio.gather(loading, return_exceptions=True)

    assert not child.is_running()
    with pytest.raises(ModelDownError, match="has been ended with the server"):
        await model.ask(QUESTION)


@pytest.mark.parametrize(
    ("damage", "why"),
    [("template", "has no chat template: it is no instruct model"), ("weights", "header"), ("config", "model_type")],
)
async def test_a_model_that_cannot_be_loaded_is_told(
    damage: str, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = instruct_folder(tmp_path / "secret", template=None if damage == "template" else TEMPLATE)
    if damage == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    if damage == "config":
        (folder / "config.json").write_text("{}")
    model = LocalModel(folder, SECONDS, idle=0)

    await model.start()
    with pytest.raises(ModelDownError) as refused:
        await model.ask(QUESTION)
    await model.close()

    # clients are not told where it is
    assert str(refused.value) == "cannot be loaded; the server's log says why"
    assert not refused.value.may_pass
    assert why.lower() in caplog.text.lower()


@pytest.mark.heavy
async def test_a_real_model_answers(tmp_path: Path) -> None:
    model = LocalModel(await asyncio.to_thread(smollm2, tmp_path), 300, idle=0)
    try:
        answer = await model.ask(replace(QUESTION, system="Describe the scene of the user in one short sentence."))
    finally:
        await model.close()

    assert len(answer.split()) > 3
    assert "<|" not in answer

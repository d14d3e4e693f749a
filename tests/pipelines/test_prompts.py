"""A prompt is encoded once."""

from types import SimpleNamespace
from typing import Any

import torch

from pipelines.prompts import KEPT, PromptEncoder
from pipelines.runner import Runner


def counting(runner: Runner) -> tuple[SimpleNamespace, list[str]]:
    """A pipeline that notes what it encodes."""
    encoded: list[str] = []

    def encode_prompt(prompt: str, **options: Any) -> Any:
        encoded.append(prompt)
        return runner._loaded.pipe.encode_prompt(prompt, **options)

    return SimpleNamespace(encode_prompt=encode_prompt), encoded


@torch.no_grad()
def test_each_prompt_is_encoded_once_and_the_oldest_is_let_go(demo_runner: Runner) -> None:
    pipe, encoded = counting(demo_runner)
    encoder = PromptEncoder(pipe, torch.device("cpu"), 512)

    first = encoder.encode("ox")
    assert first.shape[:2] == (1, 512)
    assert encoder.encode("ox") is first
    for number in range(KEPT - 1):
        encoder.encode(str(number))
    assert encoder.encode("ox") is first

    for number in range(KEPT):
        encoder.encode(f"more {number}")
    torch.testing.assert_close(encoder.encode("ox"), first, rtol=0, atol=0)
    assert encoded.count("ox") == 2


@torch.no_grad()
def test_padding_is_zero(demo_runner: Runner) -> None:
    embeddings = PromptEncoder(demo_runner._loaded.pipe, torch.device("cpu"), 512).encode("ox")

    assert embeddings[0, :2].abs().sum() > 0
    assert embeddings[0, 100:].abs().sum() == 0

"""Whether a device still works: asked of its driver, once something went wrong."""

import pytest
import torch

from pipelines.runner.device_health import fault


def test_a_processor_does_not_fail() -> None:
    assert fault("cpu") is None


def test_a_card_that_answers_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)

    assert fault("cuda:1") is None
    assert asked == ["cuda:1"]


def test_a_card_that_does_not_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: str) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with …")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)

    assert fault("cuda:0") == (
        "The device cuda:0 fails: AcceleratorError: CUDA error: an illegal memory access was encountered"
    )

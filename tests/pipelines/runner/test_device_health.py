"""The driver is asked whether a device still works after an error."""

import pytest
import torch

from pipelines.runner.device_health import fault


def test_a_cpu_has_no_fault() -> None:
    assert fault("cpu") is None


def test_a_gpu_that_answers_has_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", asked.append)

    assert fault("cuda:1") is None
    assert asked == ["cuda:1"]


def test_a_gpu_without_memory_has_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: str) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)

    assert fault("cuda:0") is None


def test_a_gpu_that_fails_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: str) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with …")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)

    assert fault("cuda:0") == (
        "The device cuda:0 fails: AcceleratorError: CUDA error: an illegal memory access was encountered"
    )

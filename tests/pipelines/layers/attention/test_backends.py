"""The fastest available and correct attention kernel is measured once and remembered."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from pipelines.core.errors import AttentionUnavailableError
from pipelines.core.model import Attention, ModelSpec
from pipelines.layers.attention import backends
from pipelines.layers.attention.backends import AttentionShape, attention_context, choose, fastest, measure, unusable
from pipelines.runner.runner import Runner

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
OVER = AttentionShape(tokens=64, heads=12, head_dim=16)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A Hopper GPU as torch reports it; records what is measured on it."""
    measured: list[dict[str, Any]] = []

    def note(candidates: list[Attention], device: torch.device, dtype: torch.dtype, over: AttentionShape) -> Any:
        measured.append({"candidates": candidates, "over": over})
        return {each: 1.0 if each is Attention.CUDNN else 2.0 for each in candidates}

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    monkeypatch.setattr(backends, "measure", note)
    return measured


def test_the_fastest_is_chosen_once_and_remembered(card: list[dict[str, Any]], tmp_path: Path) -> None:
    assert choose(Attention.AUTO, CARD, lambda: OVER, tmp_path) is Attention.CUDNN
    assert choose(Attention.AUTO, CARD, lambda: OVER, tmp_path) is Attention.CUDNN

    # no package of another kernel is installed
    assert card == [{"candidates": [Attention.NATIVE, Attention.CUDNN], "over": OVER}]
    longer = AttentionShape(128, 12, 16)
    choose(Attention.AUTO, CARD, lambda: longer, tmp_path)
    assert [each["over"] for each in card] == [OVER, longer]


def test_a_measurement_with_other_libraries_is_ignored(
    card: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(Attention.AUTO, CARD, lambda: OVER, tmp_path)
    monkeypatch.setattr(torch, "__version__", "99.0")

    choose(Attention.AUTO, CARD, lambda: OVER, tmp_path)

    assert len(card) == 2


def test_a_named_kernel_is_used_or_refused_with_a_reason(card: list[dict[str, Any]], tmp_path: Path) -> None:
    assert choose(Attention.CUDNN, CARD, lambda: OVER, tmp_path) is Attention.CUDNN
    with pytest.raises(AttentionUnavailableError, match=r"attention = sage cannot be used here: .*sageattention"):
        choose(Attention.SAGE, CARD, lambda: OVER, tmp_path)
    with pytest.raises(AttentionUnavailableError, match=r"a CPU has only torch's own"):
        choose(Attention.CUDNN, CPU, lambda: OVER, tmp_path)
    assert not card


def test_a_cpu_measures_nothing(tmp_path: Path) -> None:
    def never() -> AttentionShape:
        raise AssertionError

    assert choose(Attention.AUTO, CPU, never, tmp_path) is Attention.NATIVE


@pytest.mark.parametrize(
    ("attention", "capability", "reason"),
    [
        (Attention.CUDNN, (7, 5), "7.5"),
        (Attention.FLASH_3, (8, 9), "8.9"),
        (Attention.FLASH_3, (10, 0), "10.0"),
        (Attention.FLASH, (8, 0), "flash-attn"),
        (Attention.NATIVE, (7, 5), None),
        (Attention.CUDNN, (12, 0), None),
    ],
)
def test_a_kernel_is_used_only_on_chips_it_supports(
    attention: Attention, capability: tuple[int, int], reason: str | None
) -> None:
    why = unusable(attention, capability)

    assert (why is None) is (reason is None)
    assert reason is None or (why is not None and reason in why)


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers a fast but wrong kernel, and a correct one named flash."""

    def nothing(query: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.zeros_like(query)

    monkeypatch.setitem(_AttentionBackendRegistry._backends, AttentionBackendName.SAGE, nothing)
    monkeypatch.setitem(_AttentionBackendRegistry._supported_arg_names, AttentionBackendName.SAGE, {"query"})
    monkeypatch.setattr(backends, "_NAMES", {**backends._NAMES, Attention.FLASH: "_native_math"})
    monkeypatch.setattr(attention_dispatch, "_check_attention_backend_requirements", lambda _: None)


def test_a_kernel_that_fails_or_is_wrong_is_excluded(wrong: None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    candidates = [Attention.NATIVE, Attention.FLASH, Attention.FLASH_3, Attention.SAGE]
    found = measure(candidates, CPU, torch.float32, OVER)

    # the third kernel is not installed
    assert set(found) == {Attention.NATIVE, Attention.FLASH}
    assert all(seconds > 0 for seconds in found.values())
    assert "attention by sage is wrong" in caplog.text
    assert "attention by flash3 does not run here" in caplog.text


def test_without_any_measurement_torchs_kernel_is_used() -> None:
    assert fastest({}) is Attention.NATIVE
    assert fastest({Attention.NATIVE: 2.0, Attention.FLASH: 1.0}) is Attention.FLASH


def test_the_kernel_is_used_on_a_gpu_and_only_inside_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_dispatch, "_check_attention_backend_requirements", lambda _: None)

    with attention_context(Attention.FLASH, CARD, torch.bfloat16):
        assert _AttentionBackendRegistry.get_active_backend()[0] == "flash"
    assert _AttentionBackendRegistry.get_active_backend()[0] == "native"


def test_a_runner_reports_its_kernel_and_refuses_a_missing_one(weights_folder: Path) -> None:
    assert Runner.load(ModelSpec("demo", fps=16), weights_folder, "cpu").fingerprint["attention"] == "native"
    with pytest.raises(AttentionUnavailableError):
        Runner.load(ModelSpec("demo", fps=16, attention=Attention.FLASH), weights_folder, "cpu")

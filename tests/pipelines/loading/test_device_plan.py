"""A model that has no room in what other programs leave of a memory is told apart from one that never has."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pipelines.core.errors import HostMemoryError, MachineBusyError
from pipelines.loading import device_plan
from pipelines.loading.device_plan import check_others, is_held, plan_for_device
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.layout import GIB, MemoryPlan
from pipelines.runner.oom_fallback import OutOfMemoryFallback

# needs 3.6 GiB of a GPU at least, and 8.8 GiB of the host
SPEC = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"].model
assert SPEC.shape is not None
SHAPE = family_of(SPEC.pipeline_class).shape(SPEC.shape)

Arrange = Callable[..., None]


@pytest.fixture
def arrange(monkeypatch: pytest.MonkeyPatch) -> Arrange:
    """Sets the memory of the GPU and the host, in GiB: `(free, total)`."""

    def arrange(card: tuple[float, float], host: tuple[float, float] = (60, 64)) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: tuple(round(size * GIB) for size in card))
        memory = SimpleNamespace(available=round(host[0] * GIB), total=round(host[1] * GIB))
        monkeypatch.setattr(device_plan.psutil, "virtual_memory", lambda: memory)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 9))
    monkeypatch.setattr(device_plan, "read_model_shape", lambda *_: SHAPE)
    return arrange


def made_plan(limit: float | None = None) -> MemoryPlan | None:
    return plan_for_device(SPEC, Path(), "cuda:0", None if limit is None else round(limit * GIB))


def test_a_card_that_others_hold_is_busy_until_they_let_go(arrange: Arrange) -> None:
    arrange((2, 24))
    with pytest.raises(MachineBusyError) as busy:
        made_plan()
    assert str(busy.value) == (
        "Other programs hold the memory of cuda:0: 2.0 GiB of 24.0 GiB is free, and the model needs 3.5 GiB. Close "
        "some of them, or wait until they end."
    )

    arrange((23.5, 24))
    chosen = made_plan()
    assert chosen is not None
    assert chosen.device_peak > 20 * GIB


def test_a_card_that_others_share_is_used_as_far_as_it_goes(arrange: Arrange) -> None:
    arrange((6, 24))

    chosen = made_plan()

    assert chosen is not None
    assert chosen.device_peak <= 6 * GIB


@pytest.mark.parametrize(
    ("card", "limit"),
    [
        ((1.0, 3), None),
        # a desktop holds a little for good: it is tried
        ((3.2, 4), None),
        # learned on this card: it has no more
        ((1.0, 24), 3.0),
    ],
)
def test_what_never_fits_is_no_matter_of_waiting(
    arrange: Arrange, card: tuple[float, float], limit: float | None
) -> None:
    arrange(card)

    chosen = made_plan(limit)

    assert chosen is not None
    assert chosen.device_peak > card[0] * GIB


def test_the_hosts_memory_may_be_held_as_well(arrange: Arrange) -> None:
    arrange((23, 24), (4, 64))
    with pytest.raises(
        MachineBusyError, match=r"memory of the host: 4\.0 GiB of 64\.0 GiB is free, and the model needs"
    ):
        made_plan()

    arrange((23, 24), (2, 4))
    with pytest.raises(HostMemoryError, match=r"and 1\.8 GiB is free\. Close other programs, or add memory\."):
        made_plan()


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported later."),
        torch.OutOfMemoryError("CUDA out of memory."),
        torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable\nSearch for …"),
        RuntimeError("Unexpected error from cudaGetDeviceCount(). Error 2: out of memory"),
        RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"),
    ],
)
def test_a_card_that_gives_no_context_is_busy(
    arrange: Arrange, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: RuntimeError
) -> None:
    def refuse(_device: str) -> None:
        raise error

    arrange((23, 24))
    monkeypatch.setattr(torch.cuda, "mem_get_info", refuse)

    with pytest.raises(MachineBusyError, match=r"^cuda:0 takes no more programs now \(.*\)\. Others hold"):
        OutOfMemoryFallback(SPEC, tmp_path, "cuda:0", cache=tmp_path)


def test_a_broken_card_is_not_busy(arrange: Arrange, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_device: str) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    arrange((23, 24))
    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)

    with pytest.raises(torch.AcceleratorError):
        made_plan()


@pytest.mark.parametrize(("free", "expected"), [(17, True), (19, False)])
def test_a_desktop_does_not_hold_a_card(arrange: Arrange, free: int, expected: bool) -> None:
    arrange((free, 24))

    assert is_held("cuda:0") is expected
    assert not is_held("cpu")


def test_a_processor_is_never_busy() -> None:
    check_others(SHAPE, SPEC, "cpu")

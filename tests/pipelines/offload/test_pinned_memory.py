"""Pinned host memory is exact, freed with its last use, and torch's if the driver registers none."""

import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.offload import pinned_memory as module
from pipelines.offload.pinned_memory import MIN_BYTES, pinned


class Driver:
    """A driver that registers memory or refuses to, and reads the memory when it is unregistered."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.regions: dict[int, int] = {}
        self.last_bytes: list[int] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802 - the driver's name
        if self.refuses:
            return 801
        self.regions[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802 - the driver's name
        self.last_bytes.append(ctypes.c_ubyte.from_address(address + self.regions.pop(address) - 1).value)
        return 0


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    driver = Driver()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(module, "_clear_error", lambda: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *_: tensor.clone())
    module._warn_once.cache_clear()
    yield driver
    gc.collect()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.float32])
def test_the_pinned_copy_equals_the_tensor(driver: Driver, dtype: torch.dtype) -> None:
    tensor = (torch.randn(3, MIN_BYTES // 2 + 7) * 50).to(dtype)

    copy = pinned(tensor)

    assert (copy.dtype, copy.shape, copy.is_contiguous()) == (dtype, tensor.shape, True)
    assert torch.equal(copy.view(torch.uint8), tensor.view(torch.uint8))
    assert driver.regions == {copy.data_ptr(): tensor.nbytes}


def test_the_copy_is_contiguous(driver: Driver) -> None:
    tensor = torch.randn(1000, 700).T

    assert torch.equal(pinned(tensor), tensor)
    assert pinned(tensor).is_contiguous()


def test_memory_is_unregistered_with_its_last_use_before_its_pages_are_freed(driver: Driver) -> None:
    view = pinned(torch.full((MIN_BYTES,), 7, dtype=torch.uint8))[5:]
    gc.collect()
    assert driver.regions

    del view
    gc.collect()

    assert not driver.regions
    assert driver.last_bytes == [7]


def test_small_tensors_are_pinned_by_torch(driver: Driver) -> None:
    assert torch.equal(pinned(torch.arange(9)), torch.arange(9))
    assert not driver.regions


def test_without_registered_memory_torch_pins_and_one_warning_is_logged(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    driver.refuses = True
    tensors: list[Any] = [torch.randn(MIN_BYTES) for _ in range(2)]

    assert all(torch.equal(pinned(tensor), tensor) for tensor in tensors)

    assert caplog.text.count("the driver cannot register host memory (801)") == 1

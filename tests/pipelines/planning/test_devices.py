"""Device discovery in its own process, without torch."""

import ctypes
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import DeviceError
from pipelines.planning.devices import Device, cuda_devices, main


class Driver:
    """The driver of two cards, as far as it is asked."""

    names = (b"NVIDIA GeForce RTX 4090", b"NVIDIA GeForce RTX 3060")
    memory = (24 * 2**30, 12 * 2**30)
    capabilities = ({75: 8, 76: 9}, {75: 8, 76: 6})

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, _flags: int) -> int:  # noqa: N802 - the driver's names
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        assert length > len(self.names[device.value])
        name.value = self.names[device.value]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = self.memory[device.value]
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = self.capabilities[device.value][attribute]
        return 0

    def cuDeviceGetPCIBusId(self, bus: Any, length: int, device: Any) -> int:  # noqa: N802
        assert length > 13
        bus.value = b"0000:0%d:00.0" % device.value
        return 0


class Nvml:
    """The library that knows what is free; of the second card it does not."""

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus: bytes, handle: Any) -> int:  # noqa: N802
        return 0 if bus == b"0000:00:00.0" else 6

    def nvmlDeviceGetMemoryInfo(self, _handle: Any, memory: Any) -> int:  # noqa: N802
        memory._obj.total, memory._obj.free = 24 * 2**30, 2 * 2**30
        return 0


def test_free_memory_is_asked_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Nvml() if "ml" in name else Driver())

    assert [device.free for device in cuda_devices()] == [2 * 2**30, None]


def test_each_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver())

    assert cuda_devices() == [
        Device("cuda:0", "NVIDIA GeForce RTX 4090", 24 * 2**30, (8, 9)),
        Device("cuda:1", "NVIDIA GeForce RTX 3060", 12 * 2**30, (8, 6)),
    ]


def test_without_driver_or_device_the_list_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_devices() == []
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(status=100))
    assert cuda_devices() == []


def test_a_driver_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Driver(status=999))

    with pytest.raises(DeviceError, match="cuInit returned error 999"):
        cuda_devices()
    main()
    assert "error 999" in json.loads(capsys.readouterr().out)


def test_the_probe_prints_json_and_needs_no_torch(tmp_path: Path) -> None:
    program = "import sys, pipelines.planning.devices as d; d.main(); assert 'torch' not in sys.modules"
    found = subprocess.run([sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, check=True, text=True)

    assert isinstance(json.loads(found.stdout), list)

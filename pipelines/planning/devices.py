"""The CUDA devices of this machine, from the driver itself: importing torch would take seconds.

`python -m pipelines.planning.devices` prints them as JSON, so that a long-lived caller need not load the driver into
its own process. The driver numbers devices and applies CUDA_VISIBLE_DEVICES as torch does.
"""

import ctypes
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.core.errors import DeviceError

_NO_DEVICE = 100
_NAME_BYTES = 256
_BUS_BYTES = 32
# CUdevice_attribute in cuda.h
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device: torch name, product name, memory in bytes, compute capability, free bytes if these are known."""

    name: str
    description: str
    memory: int
    capability: tuple[int, int]
    free: int | None = None


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def cuda_devices() -> list[Device]:
    """Every CUDA device the driver shows; none without a driver. Raises DeviceError if the driver fails."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return []
    status = driver.cuInit(0)
    if status == _NO_DEVICE:
        return []
    _check(status, "cuInit")
    count = ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    return [_describe(driver, index) for index in range(count.value)]


def _describe(driver: Any, index: int) -> Device:
    device, memory = ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(_NAME_BYTES)
    _check(driver.cuDeviceGet(ctypes.byref(device), index), "cuDeviceGet")
    _check(driver.cuDeviceGetName(name, _NAME_BYTES, device), "cuDeviceGetName")
    _check(driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "cuDeviceTotalMem")
    return Device(
        name=f"cuda:{index}",
        description=name.value.decode(errors="replace"),
        memory=memory.value,
        capability=(
            _attribute(driver, device, _COMPUTE_CAPABILITY_MAJOR),
            _attribute(driver, device, _COMPUTE_CAPABILITY_MINOR),
        ),
        free=_free(driver, device),
    )


def _free(driver: Any, device: ctypes.c_int) -> int | None:
    """The free bytes by NVML, which needs no context: none could be made where other programs hold all memory."""
    bus, handle, memory = ctypes.create_string_buffer(_BUS_BYTES), ctypes.c_void_p(), _NvmlMemory()
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        _check(driver.cuDeviceGetPCIBusId(bus, _BUS_BYTES, device), "cuDeviceGetPCIBusId")
        _check(nvml.nvmlInit_v2(), "nvmlInit")
        _check(nvml.nvmlDeviceGetHandleByPciBusId_v2(bus.value, ctypes.byref(handle)), "nvmlDeviceGetHandleByPciBusId")
        _check(nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)), "nvmlDeviceGetMemoryInfo")
    except (OSError, AttributeError, DeviceError):
        return None
    return memory.free


def _attribute(driver: Any, device: ctypes.c_int, attribute: int) -> int:
    value = ctypes.c_int()
    _check(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device), "cuDeviceGetAttribute")
    return value.value


def _check(status: int, call: str) -> None:
    if status != 0:
        raise DeviceError(f"The NVIDIA driver is installed but fails: {call} returned error {status}.")


def main() -> None:
    """Print the devices as JSON, or an error sentence as one JSON string."""
    try:
        json.dump([asdict(device) for device in cuda_devices()], sys.stdout)
    except DeviceError as error:
        json.dump(str(error), sys.stdout)


if __name__ == "__main__":
    main()

"""Pinned host memory, from which a GPU copies directly, in exactly the size of the weights.

torch allocates pinned memory in powers of two, which is 1.5 times the size of Wan's matrices, and is slow at it. So
weights that stay for good are registered with the driver where they are (docs/speed.md compares the two).
"""

import ctypes
import logging
import mmap
from contextlib import suppress
from functools import cache
from weakref import finalize

import torch

MIN_BYTES = 2**20
"""Smaller tensors are pinned by torch: a region of their own takes whole pages."""

_PORTABLE = 1
"""cudaHostRegisterPortable: all devices of the process treat the memory as pinned."""

log = logging.getLogger("paddock.pinned")


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Return a contiguous copy in pinned host memory of a tensor on any device. It is freed with its last reference."""
    if tensor.nbytes >= MIN_BYTES and (region := _region(tensor.nbytes)) is not None:
        return region.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return tensor.cpu().contiguous().pin_memory()


def _region(size: int) -> torch.Tensor | None:
    """Return `size` bytes of registered memory; None if the driver does not register any."""
    # a mapping of its own, so that no other region shares its pages
    buffer = (ctypes.c_ubyte * size).from_buffer(mmap.mmap(-1, size))
    address = ctypes.addressof(buffer)
    status = torch.cuda.cudart().cudaHostRegister(address, size, _PORTABLE)
    if int(status):
        _warn_once(str(status))
        return None
    # called before the buffer releases the pages
    finalize(buffer, _unregister, address).atexit = False
    return torch.frombuffer(buffer, dtype=torch.uint8)


def _unregister(address: int) -> None:
    # a copy from there may still be running; an error of the device is reported by the next call on it
    with suppress(RuntimeError):
        torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)


@cache
def _warn_once(status: str) -> None:
    log.warning("the driver cannot register host memory (%s): streamed weights take up to twice their size", status)
    _clear_error()


def _clear_error() -> None:
    """Consume the driver's last error, which the next unrelated call would report otherwise."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda")

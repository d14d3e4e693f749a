"""Weights in host memory that a card copies from by itself, in no more of it than they take.

torch hands pinned memory out in powers of two, half as much again as Wan's matrices take, and is slow to get it: so
what stays for good is registered with the driver where it lies (docs/speed.md has both beside each other).
"""

import ctypes
import logging
import mmap
from contextlib import suppress
from functools import cache
from weakref import finalize

import torch

LEAST_BYTES = 2**20
"""What is smaller is torch's to pin: a region of its own takes whole pages."""

_PORTABLE = 1
"""The driver's flag for memory that every device of the process knows as pinned."""

log = logging.getLogger("paddock.pinned")


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of a tensor from any device in pinned host memory, which is freed with the last use of it."""
    if tensor.nbytes >= LEAST_BYTES and (region := _region(tensor.nbytes)) is not None:
        return region.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return tensor.cpu().contiguous().pin_memory()


def _region(size: int) -> torch.Tensor | None:
    """So many bytes (size) of registered memory; None where the driver registers none."""
    # pages of their own, which no other region shares
    buffer = (ctypes.c_ubyte * size).from_buffer(mmap.mmap(-1, size))
    address = ctypes.addressof(buffer)
    failed = torch.cuda.cudart().cudaHostRegister(address, size, _PORTABLE)
    if int(failed):
        _tell(str(failed))
        return None
    # called before the buffer lets go of the pages
    finalize(buffer, _unregister, address).atexit = False
    return torch.frombuffer(buffer, dtype=torch.uint8)


def _unregister(address: int) -> None:
    # a copy from there may be under way still, and nobody is left to hear of an error of the device
    with suppress(RuntimeError):
        torch.cuda.synchronize()
    torch.cuda.cudart().cudaHostUnregister(address)


@cache
def _tell(failed: str) -> None:
    log.warning("the driver registers no host memory (%s): streamed weights take up to twice their size there", failed)
    _clear_error()


def _clear_error() -> None:
    """Have the driver's last error told here, and not to whoever asks next."""
    with suppress(RuntimeError):
        torch.ones(1, device="cuda")

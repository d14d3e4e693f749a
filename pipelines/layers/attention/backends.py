"""Selects the kernel that computes attention on a device: the fastest exact one, measured once and remembered.

At 480p attention is half of a step's arithmetic, at 720p three quarters. How fast each kernel is depends on the chip,
the versions of its libraries and the length of the video, so it has to be measured.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from diffusers.models.attention_dispatch import attention_backend, dispatch_attention_fn

from pipelines.core.errors import AttentionUnavailableError
from pipelines.core.json_cache import JsonCache
from pipelines.core.model import Attention
from pipelines.layers.attention.cpu import fast_attention, replace_attention
from pipelines.layers.attention.fp8 import MIN_KEYS, fp8_attention, unavailable_reason

HEADS = 8
"""Limit of the heads to measure with: all take the same time, and eight keep a GPU busy."""

ROUNDS = 3
"""Timed calls of each kernel, after one that is not timed."""

TOLERANCE = 0.05
"""Limit of a kernel's difference from torch's, as a share of the norm. The rounding of bf16 is a hundredth of it."""

_NAMES = {
    Attention.NATIVE: "native",
    Attention.CUDNN: "_native_cudnn",
    Attention.FLASH: "flash",
    Attention.FLASH_3: "_flash_3",
    Attention.SAGE: "sage",
}
"""The kernels' names in diffusers."""

_MIN_CAPABILITY = {
    Attention.CUDNN: (8, 0),
    Attention.FLASH: (8, 0),
    Attention.FLASH_3: (9, 0),
    Attention.SAGE: (8, 0),
    Attention.FP8: (9, 0),
}
_MAX_CAPABILITY = {Attention.FLASH_3: (9, 0), Attention.FP8: (10, 3)}
"""The compute capabilities that a kernel supports; any if it is not listed."""

log = logging.getLogger("paddock.attention")


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The size of attention in a video: its tokens, and the model's heads with their width."""

    tokens: int
    heads: int
    head_dim: int


def attention_context(attention: Attention, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Return a context in which a kernel computes attention; on a CPU the fastest way, unless it is fp8."""
    if device.type == "cpu" and attention is not Attention.FP8:
        return fast_attention(device, dtype)
    return _kernel_context(attention)


def _kernel_context(attention: Attention) -> AbstractContextManager[Any]:
    if attention is Attention.FP8:
        return replace_attention(fp8_attention, MIN_KEYS)
    return attention_backend(_NAMES[attention])


def choose(
    setting: Attention, device: torch.device, read_shape: Callable[[], AttentionShape], cache: Path
) -> Attention:
    """Return the kernel for a device: the setting, or with AUTO the fastest exact one, measured or from `cache`.

    `read_shape` is called only if something has to be measured. Raises AttentionUnavailableError if the kernel that the
    setting names cannot be used.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if setting is not Attention.AUTO:
        if (reason := unusable(setting, capability)) is not None:
            raise AttentionUnavailableError(f"attention = {setting} cannot be used here: {reason}")
        if setting is Attention.FP8:
            _try_fp8(device, read_shape())
        return setting
    exact = [each for each in _NAMES if each is not Attention.SAGE and unusable(each, capability) is None]
    if exact == [Attention.NATIVE]:
        return Attention.NATIVE
    shape = read_shape()
    key = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {', '.join(exact)}, {shape}"
    remembered = JsonCache(cache / "attention.json", Attention)
    if (chosen := remembered.get(key)) is None:
        chosen = fastest(measure(exact, device, torch.bfloat16, shape))
        remembered.put(key, chosen)
    return chosen


def unusable(attention: Attention, capability: tuple[int, int] | None) -> str | None:
    """Return why a kernel cannot run on a device of a compute capability (None: a CPU); None if it can."""
    if attention is Attention.NATIVE:
        return None
    if capability is None:
        return None if attention is Attention.FP8 else "a CPU has only torch's own kernel."
    least, most = _MIN_CAPABILITY.get(attention, (0, 0)), _MAX_CAPABILITY.get(attention, (99, 0))
    if not least <= capability <= most:
        return f"it does not support a device of compute capability {capability[0]}.{capability[1]}."
    if attention is Attention.FP8:
        return unavailable_reason()
    try:
        with attention_backend(_NAMES[attention]):
            return None
    except (RuntimeError, ValueError) as error:
        return str(error)


def _try_fp8(device: torch.device, shape: AttentionShape) -> None:
    """Raise AttentionUnavailableError unless attention in fp8 runs, so that it cannot fail in the middle of a video."""
    try:
        zeros = torch.zeros(1, 1, MIN_KEYS, shape.head_dim, device=device, dtype=torch.bfloat16)
        fp8_attention(zeros, zeros, zeros)
    # any error that a library raises for a chip or a version that it does not support
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise AttentionUnavailableError(f"attention = {Attention.FP8} cannot be used here: {reason}") from error


def measure(
    candidates: Iterable[Attention],
    device: torch.device,
    dtype: torch.dtype,
    shape: AttentionShape,
) -> dict[Attention, float]:
    """Return the median seconds of each kernel that runs and is correct."""
    generator = torch.Generator(device).manual_seed(0)
    size = (1, shape.tokens, min(HEADS, shape.heads), shape.head_dim)
    tensors = [torch.randn(size, generator=generator, device=device, dtype=dtype) for _ in range(3)]
    attend = partial(dispatch_attention_fn, *tensors)
    expected = attend()
    found: dict[Attention, float] = {}
    for candidate in candidates:
        try:
            with _kernel_context(candidate):
                if not _is_near(attend(), expected):
                    log.warning("attention by %s is wrong on this device and is not used", candidate)
                    continue
                found[candidate] = _seconds(attend, device)
        # errors of kernels that do not support a device, a shape or a version
        except (RuntimeError, ValueError, TypeError, AssertionError, ImportError) as error:
            log.info("attention by %s does not run here: %s", candidate, str(error).partition("\n")[0])
    return found


def fastest(measured: Mapping[Attention, float]) -> Attention:
    """Return the kernel with the least time; torch's own if none was measured."""
    if not measured:
        return Attention.NATIVE
    times = ", ".join(f"{each} {1000 * seconds:.1f} ms" for each, seconds in measured.items())
    chosen = min(measured, key=lambda each: measured[each])
    log.info("attention is computed by %s: %s", chosen, times)
    return chosen


def _is_near(output: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (output.float() - expected.float()).norm() / expected.float().norm()
    return bool(difference <= TOLERANCE)


def _seconds(call: Callable[[], torch.Tensor], device: torch.device) -> float:
    times = []
    for _ in range(ROUNDS):
        _synchronize(device)
        started = time.perf_counter()
        call()
        _synchronize(device)
        times.append(time.perf_counter() - started)
    return median(times)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

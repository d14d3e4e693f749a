"""Which kernel a device computes attention with: the fastest of those that are there, measured once and remembered.

At 480p attention is half of a step's arithmetic, at 720p three quarters, and how fast each kernel is depends on the
chip, on the versions of its libraries and on how long the video is: so nobody can know it beforehand.
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
from pipelines.layers.attention.cpu import fast_attention, instead
from pipelines.layers.attention.fp8 import LEAST_KEYS, fp8_attention, why_not

HEADS = 8
"""How many heads are measured with, at most: each takes the same time, and eight keep a card busy."""

ROUNDS = 3
"""Each kernel is timed so often, after a first time that does not count."""

TOLERANCE = 0.05
"""How far a kernel may be from torch's own, as a share of the norm: bf16 rounds to a hundredth of that."""

_NAMES = {
    Attention.NATIVE: "native",
    Attention.CUDNN: "_native_cudnn",
    Attention.FLASH: "flash",
    Attention.FLASH_3: "_flash_3",
    Attention.SAGE: "sage",
}
"""As diffusers calls them."""

_SINCE = {
    Attention.CUDNN: (8, 0),
    Attention.FLASH: (8, 0),
    Attention.FLASH_3: (9, 0),
    Attention.SAGE: (8, 0),
    Attention.FP8: (9, 0),
}
_UNTIL = {Attention.FLASH_3: (9, 0), Attention.FP8: (10, 3)}
"""The compute capabilities a kernel is made for; without one, any."""

log = logging.getLogger("paddock.attention")


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """What attention runs over: the tokens of a video, and the heads of a model with their width."""

    tokens: int
    heads: int
    head_dim: int


def attending(attention: Attention, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """A context in which attention is computed with a kernel, on a processor as is fastest there."""
    if device.type == "cpu" and attention is not Attention.FP8:
        return fast_attention(device, dtype)
    return _by(attention)


def _by(attention: Attention) -> AbstractContextManager[Any]:
    if attention is Attention.FP8:
        return instead(fp8_attention, LEAST_KEYS)
    return attention_backend(_NAMES[attention])


def choose(setting: Attention, device: torch.device, find: Callable[[], AttentionShape], cache: Path) -> Attention:
    """The kernel for a device, by a setting: for AUTO the fastest exact one, from `cache` if it was measured before.

    `find` tells what to measure over, where that is needed.

    Raises AttentionUnavailableError for one by name that is not there.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if setting is not Attention.AUTO:
        if (why := unusable(setting, capability)) is not None:
            raise AttentionUnavailableError(f"attention = {setting} cannot be used here: {why}")
        if setting is Attention.FP8:
            _try_fp8(device, find())
        return setting
    exact = [each for each in _NAMES if each is not Attention.SAGE and unusable(each, capability) is None]
    if exact == [Attention.NATIVE]:
        return Attention.NATIVE
    over = find()
    key = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, {', '.join(exact)}, {over}"
    known = JsonCache(cache / "attention.json", Attention)
    if (chosen := known.get(key)) is None:
        chosen = fastest(measure(exact, device, torch.bfloat16, over))
        known.put(key, chosen)
    return chosen


def unusable(attention: Attention, capability: tuple[int, int] | None) -> str | None:
    """Why a kernel does not run on a device of a compute capability, None for a processor; None if it does."""
    if attention is Attention.NATIVE:
        return None
    if capability is None:
        return None if attention is Attention.FP8 else "a processor has only torch's own."
    least, most = _SINCE.get(attention, (0, 0)), _UNTIL.get(attention, (99, 0))
    if not least <= capability <= most:
        return f"it is not made for a device of compute capability {capability[0]}.{capability[1]}."
    if attention is Attention.FP8:
        return why_not()
    try:
        with attention_backend(_NAMES[attention]):
            return None
    except (RuntimeError, ValueError) as error:
        return str(error)


def _try_fp8(device: torch.device, over: AttentionShape) -> None:
    """Raise AttentionUnavailableError unless attention in fp8 runs: rather now than in the middle of a video."""
    try:
        some = torch.zeros(1, 1, LEAST_KEYS, over.head_dim, device=device, dtype=torch.bfloat16)
        fp8_attention(some, some, some)
    # whatever a library raises for a chip or a version of its own that it was not made for
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise AttentionUnavailableError(f"attention = {Attention.FP8} cannot be used here: {reason}") from error


def measure(
    candidates: Iterable[Attention],
    device: torch.device,
    dtype: torch.dtype,
    over: AttentionShape,
) -> dict[Attention, float]:
    """Median seconds of each kernel that runs and is right."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (1, over.tokens, min(HEADS, over.heads), over.head_dim)
    tensors = [torch.randn(shape, generator=generator, device=device, dtype=dtype) for _ in range(3)]
    attend = partial(dispatch_attention_fn, *tensors)
    expected = attend()
    found: dict[Attention, float] = {}
    for candidate in candidates:
        try:
            with _by(candidate):
                if not _is_near(attend(), expected):
                    log.warning("attention by %s is wrong on this device, and is not used", candidate)
                    continue
                found[candidate] = _seconds(attend, device)
        # what kernels throw that do not suit a device, a shape or a version
        except (RuntimeError, ValueError, TypeError, AssertionError, ImportError) as error:
            log.info("attention by %s does not run here: %s", candidate, str(error).partition("\n")[0])
    return found


def fastest(measured: Mapping[Attention, float]) -> Attention:
    """The kernel that takes least; torch's own if none was measured."""
    if not measured:
        return Attention.NATIVE
    told = ", ".join(f"{each} {1000 * seconds:.1f} ms" for each, seconds in measured.items())
    chosen = min(measured, key=lambda each: measured[each])
    log.info("attention is computed by %s: %s", chosen, told)
    return chosen


def _is_near(output: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (output.float() - expected.float()).norm() / expected.float().norm()
    return bool(difference <= TOLERANCE)


def _seconds(call: Callable[[], torch.Tensor], device: torch.device) -> float:
    taken = []
    for _ in range(ROUNDS):
        _wait(device)
        began = time.perf_counter()
        call()
        _wait(device)
        taken.append(time.perf_counter() - began)
    return median(taken)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

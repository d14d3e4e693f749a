"""Two parts of a GPU's work, measured alone: attention kernels, and pinned memory that the GPU copies from.

python -m benchmarks.gpu.card_parts

Needs a CUDA device, and for attention in fp8 a chip that supports it. Kernels are timed over the keys of 81 frames at
480p and 720p, exactly and padded to a multiple of a tile, with random values and 40 heads of 128.
"""

import json
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.layers.attention.fp8 import DTYPE, TILE, _attend, unavailable_reason
from pipelines.offload.pinned_memory import pinned
from pipelines.planning.layout import GIB

DEVICE = "cuda"
HEADS, DIM = 40, 128
TOKENS = {"480p": 32_760, "720p": 75_600}
SECONDS = 1.0
"""How long each kernel is repeated: a GPU under sustained load is slower."""

MATRIX = (13_824, 5_120)
MATRICES = 16
"""The largest matrix of Wan's blocks, and how many of them are pinned."""


def milliseconds(call: Callable[[], object]) -> float:
    """Return the mean time of a call, by the GPU's clock."""
    call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    began, calls = time.monotonic(), 0
    begin.record()
    while time.monotonic() - began < SECONDS:
        call()
        calls += 1
        # so that the host does not queue more work than fits the time
        end.record()
        end.synchronize()
    return begin.elapsed_time(end) / calls


def attention() -> dict[str, float]:
    """Return the milliseconds of each kernel for each number of keys."""
    found = {}
    one = torch.ones(1, device=DEVICE)
    for video, tokens in TOKENS.items():
        for keys in sorted({tokens, tokens + -tokens % 128, tokens + -tokens % TILE}):
            query, *others = (
                torch.randn(1, count, HEADS, DIM, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)
                for count in (tokens, keys, keys)
            )
            found[f"{video}, torch's, {keys} keys"] = milliseconds(
                partial(scaled_dot_product_attention, query, *others)
            )
            if unavailable_reason() is None:
                in_fp8 = [part.to(DTYPE) for part in (query, *others)]
                found[f"{video}, fp8, {keys} keys"] = milliseconds(partial(_attend, *in_fp8, one, one, one))
    return found


def pinning() -> dict[str, float]:
    """Return the seconds per pinned GiB and the bytes of host memory per byte, by torch and by us."""
    matrix = torch.zeros(MATRIX, dtype=torch.bfloat16)
    found = {}
    for name, pin in (("torch's", torch.Tensor.pin_memory), ("ours", pinned)):
        before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
        began = time.perf_counter()
        kept = [pin(matrix) for _ in range(MATRICES)]
        size = sum(each.nbytes for each in kept)
        found[f"{name}, s/GiB"] = (time.perf_counter() - began) / (size / GIB)
        taken = torch.cuda.host_memory_stats()["allocated_bytes.current"] - before
        found[f"{name}, bytes a byte"] = max(taken, size) / size
    return found


def main() -> None:
    """Print a line for each figure, then one JSON line."""
    figures = {**attention(), **{f"pinned memory, {name}": value for name, value in pinning().items()}}
    for name, value in figures.items():
        print(f"{name:40} {value:9.2f}")
    facts = {"gpu": torch.cuda.get_device_name(DEVICE), "torch": torch.__version__}
    print(json.dumps({"benchmark": "card_parts", **facts, "figures": figures}))


if __name__ == "__main__":
    main()

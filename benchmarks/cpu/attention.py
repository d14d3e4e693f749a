"""The speed of attention by matrix products compared with torch's kernel on this CPU, and their difference.

python -m benchmarks.cpu.attention
"""

import json
from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import scaled_dot_product_attention

from pipelines.layers.attention.cpu import matmul_attention

SHAPES = {"416x240, 33 frames": (3, 936, 64), "832x480, 17 frames": (3, 1950, 64), "832x480, 81 frames": (3, 8190, 64)}
"""Heads, tokens and head dimension in the demo's transformer."""

ROUNDS = 9


def seconds(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[float, float]:
    """Return the median seconds of torch's kernel and of ours, which alternate."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for times, attend in zip(taken, (scaled_dot_product_attention, matmul_attention), strict=True):
            began = perf_counter()
            attend(query, key, value)
            times.append(perf_counter() - began)
    return median(taken[0]), median(taken[1])


def main() -> None:
    """Print a table, then one JSON line."""
    torch.manual_seed(0)
    results = {}
    print(f"{'video':22} {'torch':>9} {'ours':>9} {'ratio':>6} {'largest difference':>20}")
    for video, shape in SHAPES.items():
        tensors = [torch.randn(1, *shape, dtype=torch.bfloat16) for _ in range(3)]
        own, ours = seconds(*tensors)
        exact = scaled_dot_product_attention(*(tensor.float() for tensor in tensors))
        error = (matmul_attention(*tensors).float() - exact).abs().max().item()
        results[video] = {"torch_s": own, "ours_s": ours, "ratio": own / ours, "largest_difference": error}
        print(f"{video:22} {own:8.3f}s {ours:8.3f}s {own / ours:6.2f} {error:20.4f}")
    print(
        json.dumps({"benchmark": "attention", "torch": torch.__version__, "threads": torch.get_num_threads()} | results)
    )


if __name__ == "__main__":
    main()

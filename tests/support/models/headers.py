"""Safetensors files of any size that are quick to write, for what reads only headers."""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path


def write_header(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write a file with tensors of these shapes in bf16, which are zeros and take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)

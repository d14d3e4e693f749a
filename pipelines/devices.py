"""The devices this machine has. `python -m pipelines.devices` prints them as JSON, so that a caller needs no torch."""

import json
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """A device torch can use: its torch name, what it is, memory in bytes, CUDA capability (None on a CPU)."""

    name: str
    description: str
    memory: int | None = None
    capability: tuple[int, int] | None = None


def cuda_devices() -> list[Device]:
    """Every CUDA device torch sees."""
    import torch

    return [
        Device(
            name=f"cuda:{index}",
            description=torch.cuda.get_device_name(index),
            memory=torch.cuda.get_device_properties(index).total_memory,
            capability=torch.cuda.get_device_capability(index),
        )
        for index in range(torch.cuda.device_count())
    ]


if __name__ == "__main__":
    json.dump([asdict(device) for device in cuda_devices()], sys.stdout)

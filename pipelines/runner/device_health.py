"""Checks whether a device still works after an error, and whether forked processes can use it."""

import os
import random

import numpy as np
import torch

from pipelines.loading.device_plan import is_refusal


def fault(device: str) -> str | None:
    """Return the driver's message if a device (a torch device name) has failed; None if it works or has no memory left.

    After an illegal memory access, or when a GPU is lost from the bus, all later calls of the process fail as well.
    """
    if torch.device(device).type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        if is_refusal(error):
            return None
        return f"The device {device} fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


def cuda_refuses_children() -> bool:
    """Whether torch would refuse to start CUDA in a forked child of this process, which only a child can tell."""
    if (pid := os.fork()) == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))
    _, status = os.waitpid(pid, 0)
    return status != 0


def reseed() -> None:
    """Give a forked process random numbers of its own. No generation depends on these: each draws with its own."""
    random.seed()
    np.random.seed()
    torch.default_generator.seed()

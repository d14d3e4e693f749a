"""What a process checks before it forks workers, and what a forked one does first."""

import os
import random

import numpy as np
import torch


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

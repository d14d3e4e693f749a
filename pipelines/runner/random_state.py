"""Random numbers that no generation depends on: each of these draws with a generator of its own."""

import random

import numpy as np
import torch


def reseed() -> None:
    """Give a forked process random numbers of its own, instead of a copy of its parent's."""
    random.seed()
    np.random.seed()
    torch.default_generator.seed()

"""Whether a device itself still works, once something on it went wrong."""

import torch


def fault(device: str) -> str | None:
    """What is wrong with a device (a torch device name), as its driver says it; None when it does what it is told.

    After an illegal memory access, or a card that fell off the bus, every later call of the process fails too.
    """
    if torch.device(device).type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        return f"The device {device} fails: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None

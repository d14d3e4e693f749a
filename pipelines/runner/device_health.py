"""Checks whether a device still works after an error."""

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

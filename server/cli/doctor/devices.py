"""Checks of the devices that models run on."""

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec

from pipelines.core.model import Attention
from server.cli.doctor.finding import Finding, fail, gb, ok, warn
from server.core.settings.settings import Settings
from server.runtime.preflight import StartRefusedError, choose_devices, find_devices
from server.runtime.probe import ProbeError, cuda_devices

MIN_CAPABILITY = (7, 5)
"""The lowest compute capability that current PyTorch builds support."""

BF16_CAPABILITY = (8, 0)
"""The lowest compute capability with bf16 units."""


def demo_device(settings: Settings) -> Iterator[Finding]:
    """The devices that the demo runs on."""
    try:
        devices = choose_devices(settings)
    except StartRefusedError as error:
        yield fail("device", str(error))
    else:
        yield ok("device", f"The demo runs on {', '.join(devices)}.")


def gpus(settings: Settings) -> Iterator[Finding]:
    """The GPUs, with their memory and compute capability."""
    about = "GPUs"
    if settings.device == "cpu":
        yield warn(about, "The device is cpu: a video of the real weights takes hours.")
        return
    try:
        names = find_devices(settings.device, otherwise="To try the server without one, run `paddock serve --demo`.")
        found = {gpu["name"]: gpu for gpu in cuda_devices()}
    except (StartRefusedError, ProbeError) as error:
        yield fail(about, str(error))
        return
    for name in names:
        gpu = found[name]
        capability = tuple(gpu["capability"])
        free = "" if gpu.get("free") is None else f", of which {gb(gpu['free'])} are free"
        size = f"{gb(gpu['memory'])}{free}"
        description = f"{gpu['description']}, {size}, compute capability {'.'.join(map(str, capability))}"
        if capability < MIN_CAPABILITY:
            yield fail(name, f"{description}: PyTorch has no kernels for capabilities below 7.5.")
        elif capability < BF16_CAPABILITY:
            yield warn(name, f"{description}: it has no bf16 units and computes in bf16 slowly.")
        else:
            yield ok(name, f"{description}, PyTorch {version('torch')}.")


def fp8_attention(settings: Settings) -> Iterator[Finding]:
    """Whether the setting's attention kernel is installed."""
    if settings.attention is not Attention.FP8 or settings.device == "cpu":
        return
    if find_spec("cudnn") is None:
        yield fail(
            "fp8 attention",
            "The package nvidia-cudnn-frontend is not installed: pip install 'paddock[fp8-attention]', or set another "
            "attention.",
        )
    else:
        yield ok("fp8 attention", "cuDNN's kernel is installed.")

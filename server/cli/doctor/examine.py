"""All checks of `paddock doctor`: what a server needs from its machine, and how to fix what is wrong.

They change nothing, and may run beside a server.
"""

from collections.abc import Callable, Iterator
from functools import partial

from server.cli.doctor.devices import demo_device, fp8_attention, gpus
from server.cli.doctor.finding import Finding
from server.cli.doctor.language_model import language_model
from server.cli.doctor.machine import access, compilation, data_dir, disk, ffmpeg, files, host_memory, port
from server.cli.doctor.models import loras, models
from server.core.settings.settings import Settings

Check = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings, *, asks: bool = True) -> Iterator[Finding]:
    """Run all checks, and yield each finding when it is known. `asks`: also those that ask a language model."""
    about_words = partial(language_model, asks=asks)
    checks: list[Check] = [data_dir, files, disk, port, access, ffmpeg, host_memory, about_words, loras]
    checks += [demo_device] if settings.demo else [gpus, fp8_attention, models]
    checks += [compilation]
    for check in checks:
        yield from check(settings)

"""Whether a video fits this machine, with GPUs that a probe claims to have found."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.core.request import VideoParams
from pipelines.models.catalogue import DEFAULT_MODEL
from pipelines.planning.layout import GIB
from server.core.catalogue import load_catalogue
from server.core.settings.settings import Settings
from server.runtime import fitting
from server.runtime.fitting import MemoryFit
from server.runtime.probe import ProbeError

ENTRY = load_catalogue(Settings())[DEFAULT_MODEL]
VIDEO = VideoParams("an ox", width=1280, height=720, num_frames=81)


def gpus(*sizes: float) -> list[dict[str, Any]]:
    return [{"name": f"cuda:{n}", "memory": round(size * GIB), "capability": [8, 9]} for n, size in enumerate(sizes)]


@pytest.fixture(autouse=True)
def _much_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        total = 128 * GIB

    monkeypatch.setattr(fitting.psutil, "virtual_memory", Memory)


async def test_the_gpu_with_the_most_memory_counts() -> None:
    check = MemoryFit(["cuda:0", "cuda:1"], lambda: gpus(4, 80))

    found = await check.of(ENTRY, VIDEO)

    assert found is not None
    assert (found.fits, found.reason, found.suggestion) == (True, None, None)
    # one that this server does not use does not
    alone = await MemoryFit(["cuda:0"], lambda: gpus(4, 80)).of(ENTRY, VIDEO)
    assert alone is not None
    assert not alone.fits


async def test_what_does_not_fit_has_a_reason_and_a_smaller_size_that_does() -> None:
    check = MemoryFit(["cuda:0"], lambda: gpus(6))

    found = await check.of(ENTRY, VIDEO)

    assert found is not None
    assert not found.fits
    assert found.reason is not None
    assert "GiB of GPU memory" in found.reason
    assert found.suggestion is not None
    width, height = found.suggestion
    smaller = await check.of(ENTRY, replace(VIDEO, width=width, height=height))
    assert smaller is not None
    assert smaller.fits
    # a tall video gets a tall suggestion
    tall = await check.of(ENTRY, replace(VIDEO, width=720, height=720))
    assert tall is not None


async def test_the_probe_runs_once_and_its_failure_is_no_answer() -> None:
    asked = []

    def probe() -> list[dict[str, Any]]:
        asked.append(1)
        raise ProbeError("The driver does not answer.")

    check = MemoryFit(["cuda:0"], probe)

    assert [await check.of(ENTRY, VIDEO) for _ in range(3)] == [None] * 3
    assert len(asked) == 1


async def test_nothing_is_known_of_a_cpu() -> None:
    def probe() -> list[dict[str, Any]]:
        raise AssertionError("there is no GPU to look for")

    assert await MemoryFit(["cpu"], probe).of(ENTRY, VIDEO) is None

"""The environment variables of a worker process, by its device."""

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""For glibc on a processor: keep the memory of large tensors for the next layer's. Given back and asked for anew each
time, its pages cost an eighth of a large video (`python -m benchmarks.cpu.allocator`). The environment's own values go
first."""


CARD_ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""For torch on a card: memory that grows where it lies leaves few holes. Without it a plan that fits 12 GB ran out of
them on its first step, with a tenth of its memory in holes (docs/speed.md)."""


WAITING = {"OMP_WAIT_POLICY": "passive"}
"""For OpenMP on more than FEW_PROCESSORS: threads that wait sleep. They spin otherwise, and where one of as many
threads as there are processors has to share its own, all others wait for it (`python -m benchmarks.cpu.waiting`)."""


FEW_PROCESSORS = 2
"""On so few it is rarely another thread that is waited for, and to wake one costs more than it saves."""


def environment(device: str, processors: int | None) -> dict[str, str]:
    """What a worker's environment has besides the server's, whose own values go first."""
    if device != "cpu":
        return CARD_ALLOCATOR
    return ALLOCATOR | (WAITING if processors is not None and processors > FEW_PROCESSORS else {})

"""The environment variables of a worker process, by its device."""

import os
from collections.abc import Mapping

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""For glibc on a CPU: keep the memory of large tensors for the next layer. If it is returned to the system and
requested again each time, its pages cost an eighth of the time of a large video (`python -m benchmarks.cpu.allocator`).
Values already set in the server's environment take precedence."""


CARD_ALLOCATOR = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
"""For torch on a GPU: segments that can grow leave little fragmentation. Without them a plan that fits into 12 GB ran
out of memory on its first step, with a tenth of the memory lost to fragmentation (docs/speed.md)."""


WAITING = {"OMP_WAIT_POLICY": "passive"}
"""For OpenMP on more than FEW_PROCESSORS: waiting threads sleep. Otherwise they spin, and if one of the threads has to
share its processor with another program, all others wait for it (`python -m benchmarks.cpu.waiting`)."""


NUMPY = {"OPENBLAS_NUM_THREADS": "1"}
"""For numpy, whose OpenBLAS starts a thread per processor at import. Nothing here multiplies matrices with numpy, and a
process with threads cannot be forked."""


CREDENTIALS = ("AWS_", "AZURE_", "GOOGLE_", "PADDOCK_ENHANCE_KEY")
"""What the names of variables begin with that give access to an object store, or to a language model."""


FEW_PROCESSORS = 2
"""With so few processors a thread seldom waits for another, and waking it costs more than sleeping saves."""


def environment(device: str, processors: int | None) -> dict[str, str]:
    """The variables to add to a worker's environment for a torch device; the server's own values take precedence."""
    if device != "cpu":
        return NUMPY | CARD_ALLOCATOR
    return NUMPY | ALLOCATOR | (WAITING if processors is not None and processors > FEW_PROCESSORS else {})


def worker_environment(device: str, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a worker for a torch device. What opens an object store or a
    language model is the server's alone.

    `variables` are those of its machine, by default of this process.
    """
    given = os.environ if variables is None else variables
    return {**environment(device, os.cpu_count()), **without_credentials(given)}


def without_credentials(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process that opens neither the object store nor the language model."""
    return {name: value for name, value in variables.items() if not name.startswith(CREDENTIALS)}

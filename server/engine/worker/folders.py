"""Where libraries in a worker may write, besides the files that it is told to make."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

from server.engine.interface import WorkerOptions

log = logging.getLogger("paddock.worker")

_TEMPORARY = {
    "MPLCONFIGDIR": "matplotlib",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TORCH_EXTENSIONS_DIR": "extensions",
    "TRITON_CACHE_DIR": "triton",
}
"""By default these are in the home folder or the system's temporary one, and grow without a limit."""

_CACHED = {"CUDA_CACHE_PATH": "cuda"}
"""The driver's kernels for this GPU, which it keeps to a size of its own."""


def use_folders(options: WorkerOptions) -> None:
    """Have libraries write to the worker's folders. The temporary one is emptied: a worker before may have been killed.

    Variables that are set already take precedence, except for TMPDIR. Call it before the libraries are used. They may
    have been imported.
    """
    temporary = Path(options.temporary)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        # what needs it will fail with a sentence of its own
        log.warning("%s cannot be made: %s", temporary, error)
    os.environ["TMPDIR"] = str(temporary)
    # a library may have asked for it while it was imported
    tempfile.tempdir = None
    for folder, names in ((temporary, _TEMPORARY), (Path(options.cache), _CACHED)):
        for variable, name in names.items():
            os.environ.setdefault(variable, str(folder / name))

"""Compiled transformer blocks: all blocks of a transformer are alike, so one is compiled for all of them.

No generation waits for the compiler. It runs in a process of its own, on one block of the same shape, and leaves its
result on disk in inductor's cache. A runner takes a finished block from there within seconds, when it loads a model or
while its device is idle. Until then the blocks run uncompiled.

python -m pipelines.runner.compilation JSON    # that process; JSON holds the `Block` and the cache folder
"""

import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import diffusers
import torch

from pipelines.core.cache_folder import CacheEntry, CacheFolder, Facts
from pipelines.core.compile_failures import CompileFailure, compile_failures
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, Compile
from pipelines.core.precision import Accuracy, Precision
from pipelines.core.processes import die_with_parent
from pipelines.layers.attention.backends import attention_context
from pipelines.loading.load import LoadedPipeline
from pipelines.loading.modules import assign_tensors, build_empty
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import GIB, Layout, Residence
from pipelines.planning.memory_model import CONTEXT_BYTES
from pipelines.runner.compiler_process import FAILED, MAX_REASON_CHARS, CompilerProcess

OPTIONS: dict[str, Any] = {"fullgraph": True, "dynamic": True}
"""One graph without breaks, for any number of tokens."""

MAX_COMPILED_BYTES = 2 * GIB
"""Limit of all compiled blocks on disk; one takes a few MB."""

KIND = "block"
"""The kind of the cache's entries."""

NEEDED_BYTES = 6 * GIB + CONTEXT_BYTES
"""GPU memory that the compiler's process needs: one block, and the activations of the default video."""

MAX_LOGGED_LINES, MAX_LOGGED_CHARS = 20, 4000
MAX_ERROR_CHARS = 300
"""An error of the compiler may fill pages: so much of it is logged, and so much is the sentence for the user."""

_COMPLAINT = re.compile(r"^\S+: (?:fatal )?error: .+", re.MULTILINE)
"""How gcc, clang and linkers say what is wrong; the exception then only names their command."""

log = logging.getLogger("paddock.compilation")


@dataclass(frozen=True, slots=True)
class Block:
    """A block to compile.

    `config` is the configuration of its transformer, of the class `model_class`, with one layer. `inputs` are the
    shapes of the transformer's inputs by name. The function `activations` sets the `accuracy`. The other fields are the
    torch device, the dtype, the precision of the weights and the attention kernel.
    """

    model_class: str
    config: dict[str, Any]
    inputs: dict[str, tuple[int, ...]]
    device: str
    dtype: str
    precision: str
    attention: str
    activations: str
    accuracy: str

    @classmethod
    def of(cls, loaded: LoadedPipeline, geometry: Geometry, text_tokens: int, attention: Attention) -> "Block":
        """Return the block of a loaded pipeline for a video of this geometry and prompts of so many tokens."""
        config = loaded.denoisers[0].config
        return cls(
            model_class=loaded.family.denoisers[0].model_class,
            config={**{name: value for name, value in config.items() if not name.startswith("_")}, "num_layers": 1},
            inputs=loaded.family.forward_inputs(loaded.shape, geometry, text_tokens),
            device=str(loaded.device),
            dtype=loaded.fingerprint["dtype"],
            precision=Precision.BF16 if loaded.layout is None else loaded.layout.precision,
            attention=attention,
            activations=loaded.family.activations,
            accuracy=loaded.fingerprint["accuracy"],
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Everything that the compiled code depends on, including the chip and the libraries."""
        device = torch.device(self.device)
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        facts: dict[str, Any] = json.loads(json.dumps({**asdict(self), "device": chip}, default=str))
        return facts | _versions()


def is_wanted(setting: Compile, device: torch.device, layout: Layout | None) -> bool:
    """Return whether to compile the blocks: with AUTO, only on a GPU that holds all of them.

    Blocks that are streamed, or whose weights are restored to bf16 for each product, run through hooks and layers that
    cannot be compiled. A compiler would undo slices: it fuses what they separate, and copies what they change.
    """
    if layout is not None and layout.slice_tokens:
        return False
    if setting is Compile.OFF or (layout is not None and layout.transformer is not Residence.RESIDENT):
        return False
    if layout is not None and layout.precision is not Precision.BF16 and not layout.precision.multiplies:
        return False
    return setting is Compile.ON or device.type == "cuda"


def compiled_blocks(cache: Path) -> CacheFolder:
    """Return the compiled blocks in a folder for caches. Those of other versions of the libraries are orphans."""
    return CacheFolder(cache / "compiled", MAX_COMPILED_BYTES, _is_current, _is_fixed)


def _is_current(facts: Facts, _: Sequence[str]) -> bool:
    return all(facts[name] == installed for name, installed in _versions().items())


def _is_fixed(name: str) -> bool:
    # inductor's locks, and Triton's measurements, which a later run may replace
    return not name.endswith((".lock", ".best_config")) and "locks" not in Path(name).parts


def _versions() -> dict[str, str]:
    return {"torch": torch.__version__, "diffusers": diffusers.__version__}


class Compiler:
    """Compiles the blocks of a pipeline's transformers. `is_compiled` is true once they run compiled."""

    def __init__(self, transformers: Sequence[Any], block: Block, cache: Path) -> None:
        self._models = transformers
        self._block = block
        self._cache = cache
        self._entry: CacheEntry | None = None
        self._process: CompilerProcess | None = None
        self._has_tried = False
        self._error: str | None = None
        self.is_compiled = False

    @property
    def error(self) -> str | None:
        """Why the blocks run uncompiled although they should be compiled; None while the compiler is at work."""
        self._look_after_process()
        return self._error

    def activate(self) -> None:
        """Run the blocks compiled if the result is on disk. Otherwise start the background process, but only once."""
        if self.is_compiled:
            return
        self._look_after_process()
        if (entry := self._find()) is not None:
            self._load_compiled(entry)
        elif not self._has_tried:
            self._start()

    def _find(self) -> CacheEntry | None:
        try:
            return compiled_blocks(self._cache).find(KIND, self._block.facts)
        except OSError as error:
            self._note(f"compiled blocks in {self._cache} cannot be used: {error}")
            return None

    def _start(self) -> None:
        if not _has_memory(self._block.device):
            self._note(f"the compiler waits for {NEEDED_BYTES / GIB:.1f} GiB of free memory on {self._block.device}")
            return
        self._has_tried = True
        try:
            self._process = CompilerProcess(json.dumps([asdict(self._block), str(self._cache)]), self._cache)
        except OSError as error:
            self._note(f"the compiler cannot be started: {error}")
        else:
            self._error = None

    def _look_after_process(self) -> None:
        if self._process is not None and not self._process.is_running:
            failure = self._process.failure()
            self._process.close()
            self._process = None
            if failure is not None:
                self._note(failure)

    def _note(self, failure: str) -> None:
        """Remember why the blocks stay uncompiled, and log it once. The first line of `failure` is the reason."""
        lines = failure[:MAX_LOGGED_CHARS].splitlines()[:MAX_LOGGED_LINES]
        if (complaint := _COMPLAINT.search(failure)) is not None:
            lines.insert(0, complaint[0])
        error = lines[0][:MAX_ERROR_CHARS]
        if error == self._error:
            return
        self._error = error
        log.warning("%s%s", FAILED, "\n".join(lines))
        compile_failures(self._cache).put(self._block.device, CompileFailure(time.time(), error))

    def close(self) -> None:
        """End the background process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _load_compiled(self, entry: CacheEntry) -> None:
        # it must stay while the blocks run
        self._entry = entry
        _use_cache(entry.path)
        try:
            for model in self._models:
                model.compile_repeated_blocks(**OPTIONS)
            # the cache is read at the first run: that of one block is enough
            run_one_block(self._models[0], self._block)
        # any of the compiler's errors: without compiled blocks a video only takes longer
        except (RuntimeError, OSError, ImportError, AssertionError) as error:
            self.disable(error)
        else:
            self.is_compiled = True
            self._error = None
            compile_failures(self._cache).remove(self._block.device)

    def disable(self, error: Exception) -> None:
        """Run the blocks uncompiled, and do not compile them again before the next start."""
        self._note(describe(error))
        compiled_blocks(self._cache).discard(KIND, self._block.facts)
        self._has_tried, self.is_compiled = True, False
        for model in self._models:
            for block in model.blocks:
                block._compiled_call_impl = None


@torch.no_grad()
def run_one_block(model: Any, block: Block) -> None:
    """Run a transformer with only its first block, on inputs of the block's shapes."""
    alone = copy(model)
    alone._modules = {**model._modules, "blocks": torch.nn.ModuleList([model.blocks[0]])}
    # a hook replaces `forward` on the instance
    alone.__dict__.pop("forward", None)
    device, dtype = torch.device(block.device), getattr(torch, block.dtype)
    inputs = {name: torch.zeros(shape, device=device, dtype=dtype) for name, shape in block.inputs.items()}
    with attention_context(Attention(block.attention), device, dtype):
        alone(**inputs)


def _has_memory(device: str) -> bool:
    if torch.device(device).type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return free >= NEEDED_BYTES


def describe(error: BaseException) -> str:
    """Return an error with its type, without which many say nothing."""
    return f"{type(error).__name__}: {error}".strip()


def _use_cache(folder: Path) -> None:
    """Have inductor and Triton keep their results in a folder, whose path must not change afterwards."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")


def placeholder(block: Block) -> Any:
    """Return a transformer of one block that equals the loaded one in all but its values, so that its code fits."""
    model = build_empty(resolve_name(block.model_class).from_config, block.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weight_format = WeightFormat(model, Precision(block.precision), getattr(torch, block.dtype))
    assign_tensors(model, ((name, torch.zeros(shape)) for name, shape in shapes.items()), weight_format.convert)
    resolve_name(block.activations)(model, Accuracy(block.accuracy))
    return model.to(block.device)


def main(argument: str) -> None:
    """Compile a block of zeros into the cache."""
    fields, folder = json.loads(argument)
    fields["inputs"] = {name: tuple(shape) for name, shape in fields["inputs"].items()}
    block, cache = Block(**fields), Path(folder)

    def compile_into(path: Path) -> None:
        _use_cache(path)
        model = placeholder(block)
        model.compile_repeated_blocks(**OPTIONS)
        run_one_block(model, block)

    compiled_blocks(cache).make(KIND, block.facts, compile_into).release()
    # of version 0.2.0
    shutil.rmtree(cache / "inductor", ignore_errors=True)


if __name__ == "__main__":
    # it holds GPU memory, and must not slow down the server
    die_with_parent()
    os.nice(10)
    try:
        main(sys.argv[1])
    except Exception as error:
        # the parent reads it from what is printed
        raise SystemExit(f"{FAILED}{describe(error)[:MAX_REASON_CHARS]}") from error

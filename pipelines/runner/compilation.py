"""Compiled transformer blocks: all blocks of a transformer are alike, so one is compiled for all of them.

No generation waits for the compiler. It runs in a process of its own, on one block of the same shape, and leaves its
result on disk in inductor's cache. A runner takes a finished block from there within seconds, when it loads a model or
while its device is idle. Until then the blocks run uncompiled.

python -m pipelines.runner.compilation JSON    # that process; JSON holds the `Block` and the cache folder
"""

import hashlib
import json
import logging
import os
import subprocess
import sys
from copy import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import WanTransformer3DModel

from pipelines.core.geometry import Geometry
from pipelines.core.model import TRANSFORMERS, Attention, Compile
from pipelines.core.precision import Precision
from pipelines.core.processes import die_with_parent
from pipelines.layers.attention.backends import attending
from pipelines.loading.modules import assign_tensors, bare
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import GIB, Layout, Residence
from pipelines.planning.memory_model import CONTEXT_BYTES

OPTIONS: dict[str, Any] = {"fullgraph": True, "dynamic": True}
"""One graph without breaks, for any number of tokens."""

NEEDED_BYTES = 6 * GIB + CONTEXT_BYTES
"""GPU memory that the compiler's process needs: one block, and the activations of the default video."""

log = logging.getLogger("paddock.compilation")


@dataclass(frozen=True, slots=True)
class Block:
    """A block to compile.

    `config` is the configuration of its transformer with one layer. It runs on latents (channels, t, h, w) and
    `text_tokens` tokens of text. The other fields are the torch device, the dtype, the precision of its weights and the
    attention kernel.
    """

    config: dict[str, Any]
    latents: tuple[int, int, int, int]
    text_tokens: int
    device: str
    dtype: str
    precision: str
    attention: str

    @classmethod
    def of(
        cls,
        pipe: Any,
        geometry: Geometry,
        text_tokens: int,
        device: torch.device,
        dtype: str,
        precision: Precision,
        attention: Attention,
    ) -> "Block":
        """Return the block of a loaded pipeline for a video of this geometry."""
        config = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
        frames = (geometry.full_num_frames - 1) // pipe.vae_scale_factor_temporal + 1
        height, width = (side // pipe.vae_scale_factor_spatial for side in (geometry.full_height, geometry.full_width))
        latents = config["in_channels"], frames, height, width
        return cls({**config, "num_layers": 1}, latents, text_tokens, str(device), dtype, precision, attention)

    @property
    def key(self) -> str:
        """A hash of everything that the compiled code depends on, including the chip and the libraries."""
        device = torch.device(self.device)
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        facts = {**asdict(self), "device": chip, "torch": torch.__version__, "diffusers": diffusers.__version__}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_wanted(setting: Compile, device: torch.device, layout: Layout | None) -> bool:
    """Return whether to compile the blocks: with AUTO, only on a GPU that holds all of them.

    Blocks that are streamed, or whose weights are restored to bf16 for each product, run through hooks and layers that
    cannot be compiled.
    """
    if setting is Compile.OFF or (layout is not None and layout.transformer is not Residence.RESIDENT):
        return False
    if layout is not None and layout.precision is not Precision.BF16 and not layout.precision.multiplies:
        return False
    return setting is Compile.ON or device.type == "cuda"


class Compiler:
    """Compiles the blocks of one loaded pipeline. `is_compiled` is true once they run compiled."""

    def __init__(self, pipe: Any, block: Block, cache: Path) -> None:
        self._models = [model for part in TRANSFORMERS if (model := getattr(pipe, part, None)) is not None]
        self._block = block
        self._cache = cache
        self._process: subprocess.Popen[bytes] | None = None
        self._has_tried = False
        self.is_compiled = False

    @property
    def _marker(self) -> Path:
        return self._cache / "compiled" / self._block.key

    def activate(self) -> None:
        """Run the blocks compiled if the result is on disk. Otherwise start the background process, but only once."""
        if self.is_compiled:
            return
        if self._marker.exists():
            self._load_compiled()
        elif not self._has_tried and _has_memory(self._block.device):
            self._has_tried = True
            argument = json.dumps([asdict(self._block), str(self._cache)])
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, argument],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def close(self) -> None:
        """End the background process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _load_compiled(self) -> None:
        _use_cache(self._cache)
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

    def disable(self, error: Exception) -> None:
        """Run the blocks uncompiled, and do not compile them again before the next start."""
        log.warning("the blocks are not compiled: %s", str(error).partition("\n")[0])
        self._marker.unlink(missing_ok=True)
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
    latents = torch.zeros(1, *block.latents, device=device, dtype=dtype)
    text = torch.zeros(1, block.text_tokens, block.config["text_dim"], device=device, dtype=dtype)
    with attending(Attention(block.attention), device, dtype):
        alone(hidden_states=latents, timestep=torch.tensor([500], device=device), encoder_hidden_states=text)


def _has_memory(device: str) -> bool:
    if torch.device(device).type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return free >= NEEDED_BYTES


def _use_cache(cache: Path) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")


def placeholder(block: Block) -> Any:
    """Return a transformer of one block that equals the loaded one in all but its values, so that its code fits."""
    model = bare(WanTransformer3DModel.from_config, block.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weight_format = WeightFormat(model, Precision(block.precision), getattr(torch, block.dtype))
    assign_tensors(model, ((name, torch.zeros(shape)) for name, shape in shapes.items()), weight_format.convert)
    return model.to(block.device)


def main(argument: str) -> None:
    """Compile a block of zeros, and create the marker file that says so."""
    fields, folder = json.loads(argument)
    fields["latents"] = tuple(fields["latents"])
    block, cache = Block(**fields), Path(folder)
    _use_cache(cache)
    model = placeholder(block)
    model.compile_repeated_blocks(**OPTIONS)
    run_one_block(model, block)
    marker = cache / "compiled" / block.key
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


if __name__ == "__main__":
    # it holds GPU memory, and must not slow down the server
    die_with_parent()
    os.nice(10)
    main(sys.argv[1])

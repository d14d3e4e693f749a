"""Compiled blocks: those of a transformer are all alike, and one is compiled for all of them.

Nobody waits for the compiler. It runs in a process of its own, over a block of the same shape, and leaves what it makes
on disk, in inductor's own cache; a model whose block is there takes it from there, in seconds, as it is loaded or when
its device has nothing to do. Until then its blocks run as they are.

python -m pipelines.runner.compilation JSON    # that process: a `Block`, and the folder to leave it in
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
from pipelines.loading.modules import bare, supply
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import GIB, Layout, Residence
from pipelines.planning.memory_model import CONTEXT_BYTES

OPTIONS: dict[str, Any] = {"fullgraph": True, "dynamic": True}
"""For blocks of any number of tokens, without a return to Python inside."""

NEEDED_BYTES = 6 * GIB + CONTEXT_BYTES
"""What a card must have free for the compiler's process: a block, and a default video's activations on their way."""

log = logging.getLogger("paddock.compilation")


@dataclass(frozen=True, slots=True)
class Block:
    """What is compiled: a transformer's configuration, the latents (channels, t, h, w) and tokens of text it runs over.

    And where, in which dtype and precision, and with which kernel for attention.
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
        """That of a loaded pipeline, over a video of this geometry."""
        config = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
        frames = (geometry.full_num_frames - 1) // pipe.vae_scale_factor_temporal + 1
        height, width = (side // pipe.vae_scale_factor_spatial for side in (geometry.full_height, geometry.full_width))
        latents = config["in_channels"], frames, height, width
        return cls({**config, "num_layers": 1}, latents, text_tokens, str(device), dtype, precision, attention)

    @property
    def key(self) -> str:
        """What it is found by: all it depends on, the chip and the libraries among it."""
        device = torch.device(self.device)
        chip = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        facts = {**asdict(self), "device": chip, "torch": torch.__version__, "diffusers": diffusers.__version__}
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def is_wanted(setting: Compile, device: torch.device, layout: Layout | None) -> bool:
    """Whether blocks are to be compiled: by themselves on a card that holds all of them.

    What is streamed, or brought back to bf16 for each product, runs through hooks and layers that a compiler cannot see
    through.
    """
    if setting is Compile.OFF or (layout is not None and layout.transformer is not Residence.RESIDENT):
        return False
    if layout is not None and layout.precision is not Precision.BF16 and not layout.precision.multiplies:
        return False
    return setting is Compile.ON or device.type == "cuda"


class Compiler:
    """Compiles the blocks of one loaded pipeline; `is_compiled` once they run so."""

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
        """Have the blocks run compiled, if that is there on disk; else have it made in the background, once."""
        if self.is_compiled:
            return
        if self._marker.exists():
            self._take()
        elif not self._has_tried and _has_room(self._block.device):
            self._has_tried = True
            # at most a block's worth of a card is used, and nobody waits for it
            command = [
                sys.executable,
                "-P",
                "-m",
                __name__,
                json.dumps([asdict(self._block), str(self._cache)]),
            ]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        """End what runs in the background."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _take(self) -> None:
        _use_cache(self._cache)
        try:
            for model in self._models:
                model.compile_repeated_blocks(**OPTIONS)
            # the first run is when it is read: one block's is enough
            run_one_block(self._models[0], self._block)
        # whatever a compiler meets: without it a video takes longer, no more
        except (RuntimeError, OSError, ImportError, AssertionError) as error:
            self.give_up(error)
        else:
            self.is_compiled = True

    def give_up(self, error: Exception) -> None:
        """Have the blocks run as they are, and not be compiled again before the next start."""
        log.warning("the blocks are not compiled: %s", str(error).partition("\n")[0])
        self._marker.unlink(missing_ok=True)
        self._has_tried, self.is_compiled = True, False
        for model in self._models:
            for block in model.blocks:
                block._compiled_call_impl = None


@torch.no_grad()
def run_one_block(model: Any, block: Block) -> None:
    """Run a transformer's first block over inputs of the right shape, by way of what comes before and after it."""
    alone = copy(model)
    alone._modules = {**model._modules, "blocks": torch.nn.ModuleList([model.blocks[0]])}
    # a hook's answer in place of the pass itself
    alone.__dict__.pop("forward", None)
    device, dtype = torch.device(block.device), getattr(torch, block.dtype)
    latents = torch.zeros(1, *block.latents, device=device, dtype=dtype)
    text = torch.zeros(1, block.text_tokens, block.config["text_dim"], device=device, dtype=dtype)
    with attending(Attention(block.attention), device, dtype):
        alone(hidden_states=latents, timestep=torch.tensor([500], device=device), encoder_hidden_states=text)


def _has_room(device: str) -> bool:
    if torch.device(device).type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return free >= NEEDED_BYTES


def _use_cache(cache: Path) -> None:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")


def stand_in(block: Block) -> Any:
    """A transformer of that one block, in all but its numbers as it is loaded: what is made for it serves the other."""
    model = bare(WanTransformer3DModel.from_config, block.config)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    weight_format = WeightFormat(model, Precision(block.precision), getattr(torch, block.dtype))
    supply(model, ((name, torch.zeros(shape)) for name, shape in shapes.items()), weight_format.keep)
    return model.to(block.device)


def main(argument: str) -> None:
    """Compile a block of zeros, and note that it is done."""
    described, folder = json.loads(argument)
    described["latents"] = tuple(described["latents"])
    block, cache = Block(**described), Path(folder)
    _use_cache(cache)
    model = stand_in(block)
    model.compile_repeated_blocks(**OPTIONS)
    run_one_block(model, block)
    marker = cache / "compiled" / block.key
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


if __name__ == "__main__":
    # it holds a part of the card, and is in nobody's way
    die_with_parent()
    os.nice(10)
    main(sys.argv[1])

"""What the output of a loaded pipeline depends on, by names: for this machine, and for any."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import diffusers
import torch
import transformers

from pipelines.core.model import Lora
from pipelines.hub import local as weights
from pipelines.hub.folder import digest
from pipelines.models.family import ModelFamily
from pipelines.planning.layout import Layout
from pipelines.stages.conditioning.tokenizer import tokenizer_digest


def fingerprint(
    family: ModelFamily,
    folder: Path,
    sources: Mapping[str, Path],
    changes: Mapping[Lora, Path],
    device: torch.device,
    dtype: torch.dtype,
    layout: Layout | None,
) -> dict[str, str]:
    """Return the facts that the pipeline's output depends on."""
    files = sorted(sources.items())
    return {
        "weights": f"{folder.resolve().name}/{digest(folder, family.pipeline_class, sources)}",
        "files": " ".join(f"{part} {path.name}/{weights.file_digest(path)}" for part, path in files),
        "loras": " ".join(f"{lora.part} {weights.file_digest(path)}*{lora.strength}" for lora, path in changes.items()),
        "tokenizer": tokenizer_digest(folder / "tokenizer"),
        "dtype": str(dtype).removeprefix("torch."),
        "precision": str(dtype).removeprefix("torch.") if layout is None else str(layout.precision),
        "plan": "resident" if layout is None else layout.name,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "gguf": version("gguf"),
        "torchao": version("torchao"),
        "transformers": transformers.__version__,
    }


def activations(layout: Layout) -> dict[str, str]:
    """Return how the transformer computes with its weights."""
    tokens = f"of {layout.slice_tokens} tokens" if layout.slice_tokens else "none"
    return {"accuracy": str(layout.accuracy), "slices": tokens}


def portable_facts(
    family: ModelFamily, folder: Path, sources: Mapping[str, Path], changes: Mapping[Lora, Path]
) -> dict[str, str]:
    """Return the facts about weights without times: the same on every machine that has the same files.

    Large files count by name and size, so that none of them is read for it.
    """
    named = {part: weights.file_digest(path, is_timed=False) for part, path in sorted(sources.items())}
    changed = [(lora, weights.file_digest(path, is_timed=False)) for lora, path in changes.items()]
    return {
        "weights": digest(folder, family.pipeline_class, sources, is_timed=False),
        "files": " ".join(f"{part} {said}" for part, said in named.items()),
        "loras": " ".join(f"{lora.part} {said}*{lora.strength}" for lora, said in changed),
    }

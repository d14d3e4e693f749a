"""A transformer in one file, as fine-tunes and quantizations of it are shared → its tensors, by diffusers' names.

The file is GGUF or safetensors, with the original repository's names or diffusers'. It is mapped: bytes are read when
a tensor is used. Quantized GGUF tensors stay as they are, diffusers' `GGUFParameter`; all others are plain. The scales
that some fp8 files have beside their matrices are multiplied in.

`python -m pipelines.loading.single_file FILE...` prints each file's `FileShape` as JSON, for a caller that imports no
torch.
"""

import json
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import torch
from diffusers import WanTransformer3DModel
from diffusers.loaders.single_file_utils import CHECKPOINT_KEY_NAMES, convert_wan_transformer_to_diffusers
from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES, GGUFParameter
from safetensors import SafetensorError, safe_open

from pipelines.core.errors import PipelineError, UnsupportedModelError, WeightsNotFoundError
from pipelines.planning.shapes import BF16, FP32, FileShape, StoredBytes

IN_FP32 = frozenset(WanTransformer3DModel._keep_in_fp32_modules)
"""Modules whose weights diffusers keeps in fp32, quantized or not."""

_TYPES = gguf.GGMLQuantizationType
_PLAIN = (_TYPES.F32, _TYPES.F16)
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
_FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_SCALES = ("scale_weight", "weight_scale")
# for arithmetic in fp8, which is not what is done here
_UNUSED = ("scale_input", "input_scale", "scaled_fp8", "comfy_quant")

RESTORED_BYTES = {
    **dict.fromkeys(("Q8_0", "Q4_0"), 4.0),
    **dict.fromkeys(("Q4_1", "Q2_K", "Q3_K", "Q4_K", "Q6_K"), 5.4),
    "Q5_K": 7.2,
    **dict.fromkeys(("Q5_0", "Q5_1"), 10.0),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), 12.3),
}
"""Bytes for each number of a matrix that are alive at the worst moment of its restoring to bf16, by its form."""


def tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The names and tensors of a file, mapped; raises WeightsNotFoundError or UnsupportedModelError."""
    return _scaled(path, _by_diffusers_names(_read(path)))


def headers(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The same with stand-ins of the tensors' shapes and dtypes that hold nothing."""
    read = {name: tensor.to("meta") for name, tensor in _read(path).items()}
    return _scaled(path, _by_diffusers_names(read))


def is_quantized(path: Path) -> bool:
    """Whether a file has matrices that stay quantized: they are kept as they are, whatever a plan may choose."""
    return any(_stays(name, tensor) for name, tensor in headers(path))


def check(path: Path, module: Any) -> None:
    """Raise UnsupportedModelError, with the file's name, unless it has exactly the tensors of a skeleton."""
    named = dict(headers(path))
    found = {name: _shape(tensor) for name, tensor in named.items()}
    known = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if not found.keys() & known.keys():
        raise _nothing_of_wan(path, found)
    for name in sorted(known.keys() & found.keys()):
        if found[name] != known[name]:
            raise UnsupportedModelError(
                f"{path} is for a model of another size: {name} is {list(found[name])} there, "
                f"{list(known[name])} in the configuration."
            )
    if missing := known.keys() - found.keys():
        raise UnsupportedModelError(f"{path} lacks {_some_of(missing)}.")
    if extra := found.keys() - known.keys():
        raise UnsupportedModelError(f"{path} is for another kind of model: it also has {_some_of(extra)}.")
    for name, tensor in named.items():
        if not tensor.is_floating_point() and not isinstance(tensor, GGUFParameter):
            raise UnsupportedModelError(f"{path} has {name} as {_form(tensor)}, a form that is not read.")


def measure(path: Path) -> FileShape:
    """What a file's tensors take where they are kept; raises WeightsNotFoundError or UnsupportedModelError."""
    named = dict(headers(path))
    if not any(name.startswith("blocks.0.attn1.") for name in named):
        raise _nothing_of_wan(path, named)
    forms = sorted({_form(tensor) for tensor in named.values()})
    kept = _kept(named) if any(_stays(name, tensor) for name, tensor in named.items()) else None
    return FileShape(path.name, tuple(forms), kept)


def _kept(named: Mapping[str, torch.Tensor]) -> StoredBytes:
    blocks: dict[int, list[int]] = {}
    others: list[int] = []
    converted = 0
    for name, tensor in named.items():
        size = _kept_bytes(name, tensor)
        words = name.split(".")
        if words[0] == "blocks" and words[1].isdecimal():
            blocks.setdefault(int(words[1]), []).append(size)
            converted += 0 if _stays(name, tensor) else size
        else:
            others.append(size)
    return StoredBytes(
        blocks=tuple(sum(sizes) for _, sizes in sorted(blocks.items())),
        others=sum(others),
        converted=converted,
        dequantized=max(
            round(RESTORED_BYTES[_form(tensor)] * _shape(tensor).numel())
            for name, tensor in named.items()
            if _stays(name, tensor)
        ),
    )


def _kept_bytes(name: str, tensor: torch.Tensor) -> int:
    if _stays(name, tensor):
        return int(tensor.nbytes)
    return _shape(tensor).numel() * (FP32 if IN_FP32 & set(name.split(".")) else BF16)


def _stays(name: str, tensor: torch.Tensor) -> bool:
    """Whether a tensor is the quantized matrix of a linear layer, which is kept so; all others become plain."""
    is_matrix = name.endswith(".weight") and len(_shape(tensor)) == 2
    return isinstance(tensor, GGUFParameter) and is_matrix and not IN_FP32 & set(name.split("."))


def _shape(tensor: torch.Tensor) -> torch.Size:
    return torch.Size(tensor.quant_shape if isinstance(tensor, GGUFParameter) else tensor.shape)


def _form(tensor: torch.Tensor) -> str:
    if isinstance(tensor, GGUFParameter):
        return str(tensor.quant_type.name)
    return str(tensor.dtype).removeprefix("torch.")


def _nothing_of_wan(path: Path, names: Collection[str]) -> UnsupportedModelError:
    example = f": it has {min(names)}" if names else ", nor anything else"
    return UnsupportedModelError(f"{path} holds no weights of a Wan transformer{example}.")


def _some_of(names: Collection[str]) -> str:
    first, others = min(names), len(names) - 1
    return first if not others else f"{first} and {others} other tensor{'s' if others > 1 else ''}"


def _by_diffusers_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # markers of the whole file may stand beside the prefixed names
    prefix = next((known for known in _PREFIXES if any(name.startswith(known) for name in state)), "")
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if any(name in state for name in CHECKPOINT_KEY_NAMES["wan"]):
        return dict(convert_wan_transformer_to_diffusers(state))
    return state


def _scaled(path: Path, state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Matrices in fp8 times their scales, one number for all or one a row, and without what belongs to them."""
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in _SCALES or leaf in _UNUSED:
            continue
        scale = next((state[f"{owner}.{known}"] for known in _SCALES if f"{owner}.{known}" in state), None)
        if leaf != "weight" or scale is None:
            yield name, tensor
        elif tensor.dtype in _FP8 and scale.is_floating_point() and scale.numel() in (1, len(tensor)):
            yield name, tensor.float() * scale.float().reshape(-1, 1)
        else:
            raise UnsupportedModelError(
                f"{path} has {name} with scales of a kind that is not read: only fp8 with one a matrix or a row is."
            )


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return _read_gguf(path) if path.suffix == ".gguf" else _read_safetensors(path)
    except PipelineError:
        raise
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        raise WeightsNotFoundError(f"{path} is cut off, damaged or of another format: {error}.") from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def _read_gguf(path: Path) -> dict[str, torch.Tensor]:
    # copied on writing: torch takes no array that cannot be written to, and the file stays as it is
    reader = gguf.GGUFReader(path, mode="c")
    return {tensor.name: _gguf_tensor(path, reader, tensor) for tensor in reader.tensors}


def _gguf_tensor(path: Path, reader: Any, read: Any) -> torch.Tensor:
    tensor = torch.from_numpy(read.data)
    if read.tensor_type is _TYPES.BF16:
        tensor = tensor.view(torch.bfloat16)
    elif read.tensor_type not in _PLAIN:
        if read.tensor_type not in SUPPORTED_GGUF_QUANT_TYPES:
            supported = ", ".join(known.name for known in SUPPORTED_GGUF_QUANT_TYPES)
            raise UnsupportedModelError(
                f"{path} has {read.name} as {read.tensor_type.name}, which diffusers has no code for. Take one with "
                f"{supported}, F16 or F32."
            )
        return GGUFParameter(tensor, quant_type=read.tensor_type)
    # GGUF's own tools know four dimensions at most: converters note a convolution's shape apart
    noted = reader.get_field(f"comfy.gguf.orig_shape.{read.name}")
    return tensor if noted is None else tensor.reshape(noted.contents())


def main() -> None:
    """Print what was measured of each file, or the sentence of what is wrong as one JSON string."""
    try:
        json.dump([asdict(measure(Path(path))) for path in sys.argv[1:]], sys.stdout)
    except PipelineError as error:
        json.dump(str(error), sys.stdout)


if __name__ == "__main__":
    main()

"""Weight files → a module, tensor by tensor: none of a part's weights is in host memory but those that stay there.

The libraries' own loading reads a part whole before it is placed: 27 GiB of host memory for the 14B transformer, and
the published files are twice as large again, in fp32. What is made here equals what `from_pretrained` makes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from safetensors import safe_open
from transformers import UMT5EncoderModel

from pipelines.core.errors import UnsupportedModelError, WeightsNotFoundError
from pipelines.loading import single_file

MODEL_CLASSES: dict[str, Any] = {
    "transformer": WanTransformer3DModel,
    "transformer_2": WanTransformer3DModel,
    "text_encoder": UMT5EncoderModel,
    "vae": AutoencoderKLWan,
}

StoredTensors = Mapping[str, torch.Tensor]
"""What is kept for one tensor, by name: one of the same name, or that and what belongs to it."""

Converter = Callable[[str, torch.Tensor], StoredTensors]
"""A tensor as it is read, with its name → what is kept for it."""


def skeleton(kind: Any, folder: Path) -> Any:
    """A model of the class `kind`, diffusers' or transformers', by the configuration in `folder`, without weights."""
    if hasattr(kind, "load_config"):
        return bare(kind.from_config, kind.load_config(folder, local_files_only=True))
    return bare(kind._from_config, kind.config_class.from_pretrained(folder, local_files_only=True))


def bare(make: Callable[[Any], Any], config: Any) -> Any:
    """A model made of its configuration, without weights, for inference."""
    # buffers are computed, not read: they are made for real
    with init_empty_weights(include_buffers=False):
        module = make(config)
    return module.eval().requires_grad_(False)


def tensors(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The names and tensors of a part's weights, mapped: their bytes are read when they are used.

    They come from all safetensors files of a folder, or from one file that holds a transformer.
    """
    if source.is_file():
        yield from single_file.tensors(source)
        return
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dictionary
                yield name, file.get_tensor(name)


def headers(source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The names of all tensors of a part, each with a stand-in of its shape and dtype that holds nothing."""
    if source.is_file():
        yield from single_file.headers(source)
        return
    for name, tensor in tensors(source):
        yield name, tensor.to("meta")


def load_weights(
    module: Any, source: Path, convert: Converter, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Give a skeleton the weights of `source`; `on_bytes` is told how many of them each tensor took on disk.

    Raises WeightsNotFoundError, naming the first parameter that the files lack, or UnsupportedModelError.
    """
    assign_tensors(module, tensors(source), convert, on_bytes)
    for name, parameter in module.named_parameters():
        if parameter.is_meta:
            raise WeightsNotFoundError(f"The weights are incomplete: {source} lacks {name}.")


def assign_tensors(
    module: Any,
    named: Iterable[tuple[str, torch.Tensor]],
    convert: Converter,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Give a skeleton the tensors that come by its names, each as `convert` keeps it; what it has no name for is left.

    They need not come from files: a benchmark draws them.
    """
    known = module.state_dict()
    for name, tensor in named:
        if name in known:
            if known[name].shape != tensor.shape and tensor.dtype is not torch.uint8:
                raise UnsupportedModelError(
                    f"{name} is {list(tensor.shape)} in the files, {list(known[name].shape)} in the configuration."
                )
            for kept_name, kept in convert(name, tensor).items():
                _assign(module, kept_name, kept)
        on_bytes(tensor.nbytes)
    _tie(module)


def _tie(module: Any) -> None:
    """Make one of a matrix that goes by two names, of which the files may have had either: UMT5's embedding."""
    for name, other in getattr(module, "all_tied_weights_keys", {}).items():
        names = (name, other)
        found = next((module.get_parameter(n) for n in names if not module.get_parameter(n).is_meta), None)
        if found is not None:
            for each in names:
                _assign(module, each, found)


def _assign(module: Any, name: str, tensor: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    parent = module.get_submodule(owner)
    if leaf in parent._buffers:
        parent.register_buffer(leaf, tensor)
        return
    if not isinstance(tensor, torch.nn.Parameter):
        tensor = torch.nn.Parameter(tensor, requires_grad=False)
    parent.register_parameter(leaf, tensor)

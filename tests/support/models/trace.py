"""Measures the memory that real modules need at real sizes, by counting fake tensors."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """A context that counts the bytes of tensors created inside it, and their peak; `known` ones do not count."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self.alive = 0
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.alive += storage.nbytes()
            self.peak = max(self.peak, self.alive)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)


@contextmanager
def fake(dtype: torch.dtype) -> Iterator[None]:
    """Modules and tensors without memory; new parameters have a dtype."""
    with FakeTensorMode(), torch.no_grad():
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def keep_in_fp32(model: Any) -> None:
    """What `from_pretrained` keeps in fp32 when it loads in bf16."""
    for name, parameter in list(model.named_parameters()):
        if any(kept in name.split(".") for kept in model._keep_in_fp32_modules):
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, nn.Parameter(parameter.float(), requires_grad=False))

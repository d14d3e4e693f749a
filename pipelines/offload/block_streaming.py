"""Streams a transformer's blocks to the device one by one, each while those before it compute.

With diffusers' group offloading, the host waits at each block for its copy and then for its computation, and the GPU is
idle until the host continues. Each tensor also takes memory of its own, which fragments the memory. Here two buffers
alternate for a whole forward pass, and the host queues work without waiting: the GPU's two queues, for computing and
for copying, wait for each other where necessary.

A block that is memory-mapped from disk goes through a pinned staging buffer, into which the CPU reads it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook

from pipelines.offload.pinned_memory import pinned
from pipelines.planning.memory_model import BLOCKS_IN_FLIGHT

BUFFERS = BLOCKS_IN_FLIGHT
"""As planned for: one block computes while the next one is copied."""

ALIGNMENT = 256
"""Each tensor in a buffer starts at a multiple of this many bytes."""

_HOOK_NAME = "paddock_streaming"


class Queues(ABC):
    """A device's two queues, of computing and of copying. A mark is a position in one of them."""

    @abstractmethod
    def copy(self, copy: Callable[[], None], after: Any) -> Any:
        """Queue a copy to start when computing has reached the mark `after`. Return a mark behind the copy."""

    @abstractmethod
    def mark(self) -> Any:
        """Return a mark behind all computing that is queued so far."""

    @abstractmethod
    def compute_after(self, mark: Any) -> None:
        """Let computing wait for a mark of copying."""

    @abstractmethod
    def wait(self, mark: Any) -> None:
        """Wait on the host for a mark of copying."""


class SynchronousQueues(Queues):
    """The queues of a CPU, where everything is done as soon as it is called."""

    def copy(self, copy: Callable[[], None], after: Any) -> None:
        copy()

    def mark(self) -> None:
        return None

    def compute_after(self, mark: Any) -> None:
        return None

    def wait(self, mark: Any) -> None:
        return None


class CudaQueues(Queues):
    """Two CUDA streams: torch's current one computes, another one copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device)

    def copy(self, copy: Callable[[], None], after: torch.cuda.Event) -> torch.cuda.Event:
        self._copying.wait_event(after)
        with torch.cuda.stream(self._copying):
            copy()
        return self._copying.record_event()

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self._device).record_event()

    def compute_after(self, mark: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(mark)

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()


class ParameterGroup:
    """Tensors that are copied together, and the place of each in a buffer of `size` bytes."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self._host_copies = [tensor.data for tensor in self._tensors]
        sizes = [copy.nbytes for copy in self._host_copies]
        *starts, self.size = accumulate((size + -size % ALIGNMENT for size in sizes), initial=0)
        self._places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]

    def note_host_copies(self) -> None:
        """Take what the tensors refer to now as their host copies: others of the same shape may have replaced them."""
        self._host_copies = [tensor.data for tensor in self._tensors]

    def copy_to(self, buffer: torch.Tensor) -> None:
        """Copy the host copies into a buffer (bytes), without waiting where the device allows it."""
        for host_copy, view in zip(self._host_copies, self._views(buffer), strict=True):
            view.copy_(host_copy, non_blocking=True)

    def use(self, buffer: torch.Tensor) -> None:
        """Let the tensors refer to their places in a buffer (bytes)."""
        for tensor, view in zip(self._tensors, self._views(buffer), strict=True):
            tensor.data = view

    def use_host_copies(self) -> None:
        """Let the tensors refer to their host copies again."""
        for tensor, host_copy in zip(self._tensors, self._host_copies, strict=True):
            tensor.data = host_copy

    def _views(self, buffer: torch.Tensor) -> Iterable[torch.Tensor]:
        for host_copy, place in zip(self._host_copies, self._places, strict=True):
            yield buffer[place].view(host_copy.dtype).view(host_copy.shape)


class BlockStream:
    """The streamed blocks in their order, and `others`: the tensors outside of all blocks, copied once a pass.

    With `from_disk`, the blocks are memory-mapped files, which the CPU reads; otherwise they are in host memory.
    """

    def __init__(
        self,
        blocks: Sequence[ParameterGroup],
        others: ParameterGroup,
        device: torch.device,
        queues: Queues,
        *,
        from_disk: bool = False,
    ) -> None:
        self._blocks = blocks
        self._others = others
        self._device = device
        self._queues = queues
        self._size = max((block.size for block in blocks), default=0)
        # a CPU computes on the mapped file itself
        has_staging = from_disk and device.type == "cuda"
        self._staging_buffers = [self._staging_buffer() for _ in range(BUFFERS)] if has_staging else []
        # marks behind the last copy from each staging buffer, possibly of an earlier pass
        self._staged: list[Any] = [None] * len(self._staging_buffers)
        self._buffers: list[torch.Tensor] = []
        self._arrivals: list[Any] = []
        self._departures: list[Any] = []

    def begin(self) -> None:
        """Start a forward pass: queue the copy of the first block."""
        for group in (*self._blocks, self._others):
            group.note_host_copies()
        others = self._buffer(self._others.size)
        self._buffers = [self._buffer(self._size) for _ in range(BUFFERS)]
        # earlier computing may still use this memory
        before = self._queues.mark()
        self._queues.compute_after(self._queues.copy(lambda: self._others.copy_to(others), before))
        self._others.use(others)
        self._departures = [before] * BUFFERS
        self._fetch_next()

    def before_block(self, index: int) -> None:
        """Let the `index`-th streamed block compute on its buffer once its copy is complete."""
        self._queues.compute_after(self._arrivals[index])
        self._blocks[index].use(self._buffers[index % BUFFERS])

    def after_block(self, index: int) -> None:
        """Queue the copy of the next block: the computing of the `index`-th is queued."""
        self._blocks[index].use_host_copies()
        self._departures.append(self._queues.mark())
        self._fetch_next()

    def end(self) -> None:
        """End a forward pass, even an interrupted one."""
        for group in (*self._blocks, self._others):
            group.use_host_copies()
        # later computing may get the same memory
        for arrival in self._arrivals:
            self._queues.compute_after(arrival)
        self._buffers, self._arrivals, self._departures = [], [], []

    def _fetch_next(self) -> None:
        """Queue the copy of the next block, if any, for when the block before it in the same buffer has computed."""
        index = len(self._arrivals)
        if index == len(self._blocks):
            return
        block, buffer, after = self._blocks[index], self._buffers[index % BUFFERS], self._departures[index]
        if not self._staging_buffers:
            self._arrivals.append(self._queues.copy(lambda: block.copy_to(buffer), after))
            return
        staging, staged = self._staging_buffers[index % BUFFERS], self._staged[index % BUFFERS]
        if staged is not None:
            self._queues.wait(staged)
        block.copy_to(staging)
        arrival = self._queues.copy(lambda: buffer.copy_(staging, non_blocking=True), after)
        self._staged[index % BUFFERS] = arrival
        self._arrivals.append(arrival)

    def _buffer(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def _staging_buffer(self) -> torch.Tensor:
        return pinned(torch.empty(self._size, dtype=torch.uint8))


def stream_blocks(transformer: Any, resident: Collection[int], device: torch.device, *, from_disk: bool) -> None:
    """Stream all blocks of a transformer to a device, except those with the indices `resident`."""
    blocks = [block for index, block in enumerate(transformer.blocks) if index not in resident]
    inside = {id(tensor) for tensor in _tensors(transformer.blocks)}
    others = ParameterGroup(tensor for tensor in _tensors(transformer) if id(tensor) not in inside)
    queues = CudaQueues(device) if device.type == "cuda" else SynchronousQueues()
    groups = [ParameterGroup(_tensors(block)) for block in blocks]
    stream = BlockStream(groups, others, device, queues, from_disk=from_disk)
    HookRegistry.check_if_exists_or_initialize(transformer).register_hook(_TransformerHook(stream), _HOOK_NAME)
    for index, block in enumerate(blocks):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(_BlockHook(stream, index), _HOOK_NAME)


def _tensors(module: Any) -> Iterable[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


class _TransformerHook(ModelHook):
    """Starts and ends the stream around a transformer's forward pass."""

    def __init__(self, stream: BlockStream) -> None:
        super().__init__()
        self._stream = stream

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            self._stream.begin()
            return self.fn_ref.original_forward(*args, **kwargs)
        finally:
            self._stream.end()


class _BlockHook(ModelHook):
    """Tells the stream when a block starts and ends."""

    def __init__(self, stream: BlockStream, index: int) -> None:
        super().__init__()
        self._stream = stream
        self._index = index

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self._stream.before_block(self._index)
        return args, kwargs

    def post_forward(self, module: Any, output: Any) -> Any:
        self._stream.after_block(self._index)
        return output

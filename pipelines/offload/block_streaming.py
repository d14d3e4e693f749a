"""A transformer whose blocks come to the card one by one, each while those before it compute.

With diffusers' group offloading the host waits at each block, for its copy and then for its computing, and the card
has nothing to do until it gives the next order; and each tensor takes memory of its own, which leaves holes. Here two
slots of the card's memory take turns for a whole pass, and the host gives orders without waiting: the card's two
queues, of computing and of copying, wait for each other where they have to.

A block that lies on disk, mapped, goes through pinned memory of its size, for which the processor reads it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook

from pipelines.offload.pinned_memory import pinned
from pipelines.planning.memory_model import BLOCKS_IN_FLIGHT

SLOTS = BLOCKS_IN_FLIGHT
"""As plans have it: one block computes, the next one comes."""

ALIGNED = 256
"""Bytes that a tensor in a slot begins at a multiple of."""

_NAME = "paddock_streaming"


class Queues(ABC):
    """What a device computes and what is copied to it. A mark is a place in one of the two queues."""

    @abstractmethod
    def copy(self, order: Callable[[], None], after: Any) -> Any:
        """Give copying an order, for when computing has come to the mark `after`; returns a mark behind it."""

    @abstractmethod
    def mark(self) -> Any:
        """A mark behind all that was given to computing so far."""

    @abstractmethod
    def compute_after(self, mark: Any) -> None:
        """Have computing wait for a mark in copying."""

    @abstractmethod
    def wait(self, mark: Any) -> None:
        """Wait, here, for a mark in copying."""


class AtOnce(Queues):
    """A processor's: everything is done when it is ordered."""

    def copy(self, order: Callable[[], None], after: Any) -> None:
        order()

    def mark(self) -> None:
        return None

    def compute_after(self, mark: Any) -> None:
        return None

    def wait(self, mark: Any) -> None:
        return None


class Cuda(Queues):
    """A card's two streams: torch's current one computes."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copying = torch.cuda.Stream(device)

    def copy(self, order: Callable[[], None], after: torch.cuda.Event) -> torch.cuda.Event:
        self._copying.wait_event(after)
        with torch.cuda.stream(self._copying):
            order()
        return self._copying.record_event()

    def mark(self) -> torch.cuda.Event:
        return torch.cuda.current_stream(self._device).record_event()

    def compute_after(self, mark: torch.cuda.Event) -> None:
        torch.cuda.current_stream(self._device).wait_event(mark)

    def wait(self, mark: torch.cuda.Event) -> None:
        mark.synchronize()


class ParameterGroup:
    """Tensors that come together, and where each lies in so many bytes (`size`)."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self._homes = [tensor.data for tensor in self._tensors]
        *starts, self.size = accumulate((home.nbytes + -home.nbytes % ALIGNED for home in self._homes), initial=0)
        self._places = [slice(at, at + home.nbytes) for at, home in zip(starts, self._homes, strict=True)]

    def copy_to(self, memory: torch.Tensor) -> None:
        """Copy all from home to their places in memory (bytes), without waiting where the device need not."""
        for home, there in zip(self._homes, self._views(memory), strict=True):
            there.copy_(home, non_blocking=True)

    def move_to(self, memory: torch.Tensor) -> None:
        """Have the tensors be what lies at their places in memory (bytes)."""
        for tensor, there in zip(self._tensors, self._views(memory), strict=True):
            tensor.data = there

    def go_home(self) -> None:
        """Have the tensors be what they were."""
        for tensor, home in zip(self._tensors, self._homes, strict=True):
            tensor.data = home

    def _views(self, memory: torch.Tensor) -> Iterable[torch.Tensor]:
        for home, place in zip(self._homes, self._places, strict=True):
            yield memory[place].view(home.dtype).view(home.shape)


class Stream:
    """The blocks that come and go, in order, and `others`, what is outside of all blocks and stays for a pass.

    Blocks that are `mapped` from disk are read by the processor, the others copied from where they lie.
    """

    def __init__(
        self,
        blocks: Sequence[ParameterGroup],
        others: ParameterGroup,
        device: torch.device,
        queues: Queues,
        *,
        mapped: bool = False,
    ) -> None:
        self._blocks = blocks
        self._others = others
        self._device = device
        self._queues = queues
        self._size = max((block.size for block in blocks), default=0)
        # a processor reads a mapped block itself
        self._passages = [self._passage() for _ in range(SLOTS)] if mapped and device.type == "cuda" else []
        # marks behind the last copies from there, of whichever pass
        self._passed: list[Any] = [None] * len(self._passages)
        self._slots: list[torch.Tensor] = []
        self._arrivals: list[Any] = []
        self._departures: list[Any] = []

    def begin(self) -> None:
        """Begin a pass: have the first block come."""
        kept = self._memory(self._others.size)
        self._slots = [self._memory(self._size) for _ in range(SLOTS)]
        # the memory may be of use still to what was computed before
        before = self._queues.mark()
        self._queues.compute_after(self._queues.copy(lambda: self._others.copy_to(kept), before))
        self._others.move_to(kept)
        self._departures = [before] * SLOTS
        self._fetch_next()

    def arrive(self, index: int) -> None:
        """Have a block (by its place among those that come) computed with when it is there."""
        self._queues.compute_after(self._arrivals[index])
        self._blocks[index].move_to(self._slots[index % SLOTS])

    def leave(self, index: int) -> None:
        """A block was given to computing: have the next one come."""
        self._blocks[index].go_home()
        self._departures.append(self._queues.mark())
        self._fetch_next()

    def end(self) -> None:
        """End a pass, also one that was cut short."""
        for lot in (*self._blocks, self._others):
            lot.go_home()
        # what computes next may be given the same memory
        for arrival in self._arrivals:
            self._queues.compute_after(arrival)
        self._slots, self._arrivals, self._departures = [], [], []

    def _fetch_next(self) -> None:
        """Have the next block, if there is one, come to its slot when the one that was there has computed."""
        index = len(self._arrivals)
        if index == len(self._blocks):
            return
        block, slot, after = self._blocks[index], self._slots[index % SLOTS], self._departures[index]
        if not self._passages:
            self._arrivals.append(self._queues.copy(lambda: block.copy_to(slot), after))
            return
        passage, passed = self._passages[index % SLOTS], self._passed[index % SLOTS]
        if passed is not None:
            self._queues.wait(passed)
        block.copy_to(passage)
        arrival = self._queues.copy(lambda: slot.copy_(passage, non_blocking=True), after)
        self._passed[index % SLOTS] = arrival
        self._arrivals.append(arrival)

    def _memory(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def _passage(self) -> torch.Tensor:
        return pinned(torch.empty(self._size, dtype=torch.uint8))


def stream(transformer: Any, staying: Collection[int], device: torch.device, *, mapped: bool) -> None:
    """Have a transformer's blocks come to a device and go, all but those that stay there."""
    blocks = [block for index, block in enumerate(transformer.blocks) if index not in staying]
    inside = {id(tensor) for tensor in _tensors(transformer.blocks)}
    others = ParameterGroup(tensor for tensor in _tensors(transformer) if id(tensor) not in inside)
    queues = Cuda(device) if device.type == "cuda" else AtOnce()
    streamed = Stream([ParameterGroup(_tensors(block)) for block in blocks], others, device, queues, mapped=mapped)
    HookRegistry.check_if_exists_or_initialize(transformer).register_hook(_Pass(streamed), _NAME)
    for index, block in enumerate(blocks):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(_Visit(streamed, index), _NAME)


def _tensors(module: Any) -> Iterable[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


class _Pass(ModelHook):
    """Goes around a transformer's forward pass."""

    def __init__(self, streamed: Stream) -> None:
        super().__init__()
        self._stream = streamed

    def new_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            self._stream.begin()
            return self.fn_ref.original_forward(*args, **kwargs)
        finally:
            self._stream.end()


class _Visit(ModelHook):
    """Goes around a block's."""

    def __init__(self, streamed: Stream, index: int) -> None:
        super().__init__()
        self._stream = streamed
        self._index = index

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        self._stream.arrive(self._index)
        return args, kwargs

    def post_forward(self, module: Any, output: Any) -> Any:
        self._stream.leave(self._index)
        return output

"""Blocks are copied in time however late the device copies, and an interrupted pass leaves nothing behind."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry

from pipelines.offload import block_streaming as module
from pipelines.offload.block_streaming import ALIGNMENT, BUFFERS, BlockStream, ParameterGroup, Queues, stream_blocks

CPU = torch.device("cpu")


class Net(torch.nn.Module):
    """A tiny transformer: an input layer, blocks that call `on_block` before they compute, and a table outside."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.enter = torch.nn.Linear(5, 7)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(7, 7) for _ in range(blocks))
        self.register_buffer("table", torch.randn(7, dtype=torch.float64))
        self.on_block: Callable[[int], None] = lambda _: None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.enter(inputs) + self.table.float()
        for index, block in enumerate(self.blocks):
            self.on_block(index)
            hidden = block(hidden)
        return hidden


class Late(Queues):
    """A device that copies as late as possible, when computing waits for it. Records what each copy waited for."""

    def __init__(self) -> None:
        self.orders: list[Callable[[], None]] = []
        self.done = self.computed = 0
        self.after: list[int] = []
        self.waited: list[int] = []

    def copy(self, order: Callable[[], None], after: Any) -> int:
        self.orders.append(order)
        self.after.append(after)
        return len(self.orders)

    def mark(self) -> int:
        return self.computed

    def compute_after(self, mark: int) -> None:
        while self.done < mark:
            self.orders[self.done]()
            self.done += 1

    def wait(self, mark: int) -> None:
        self.waited.append(mark)
        self.compute_after(mark)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    queues = Late()
    monkeypatch.setattr(module, "SynchronousQueues", lambda: queues)
    return queues


@torch.no_grad()
@pytest.mark.parametrize("staying", [(), (0, 3), (1, 2, 3)])
def test_computing_waits_for_a_late_copy(late: Late, staying: tuple[int, ...]) -> None:
    net, inputs = Net(5), torch.randn(2, 5)
    expected = net(inputs)
    host_copies = {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    stream_blocks(net, staying, CPU, from_disk=False)

    assert torch.equal(net(inputs), expected)
    assert torch.equal(net(inputs), expected)

    # all tensors refer to their host copies again
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == host_copies


@torch.no_grad()
def test_no_buffer_is_reused_before_its_block_has_computed(late: Late) -> None:
    net = Net(6)
    stream_blocks(net, (), CPU, from_disk=False)

    def note(_: int) -> None:
        late.computed += 1

    net.on_block = note
    net(torch.randn(2, 5))

    # the tensors outside the blocks, the first two blocks, then each block after the last but one before it
    assert late.after == [0, 0, 0, 1, 2, 3, 4]


@torch.no_grad()
def test_two_buffers_hold_the_blocks_of_a_pass_and_none_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(5)
    size = ParameterGroup(net.blocks[0].parameters()).size
    taken: list[int] = []
    empty = torch.empty

    def note(count: int, **named: Any) -> torch.Tensor:
        taken.append(count)
        return empty(count, **named)

    monkeypatch.setattr(torch, "empty", note)
    stream_blocks(net, (), CPU, from_disk=False)
    assert not taken
    net(torch.randn(2, 5))

    others = ParameterGroup([*net.enter.parameters(), net.table]).size
    assert taken == [others, *[size] * BUFFERS]


def test_tensors_of_a_group_keep_their_dtypes_and_are_aligned() -> None:
    given = [torch.randn(3, 5), torch.arange(7, dtype=torch.int8), torch.randn(2).to(torch.float8_e4m3fn)]
    values = [tensor.clone() for tensor in given]
    group, memory = ParameterGroup(given), torch.zeros(3 * ALIGNMENT, dtype=torch.uint8)

    group.copy_to(memory)
    group.use(memory)

    assert group.size == memory.nbytes
    assert [tensor.data_ptr() - memory.data_ptr() for tensor in given] == [0, ALIGNMENT, 2 * ALIGNMENT]
    for tensor, value in zip(given, values, strict=True):
        assert torch.equal(tensor.view(torch.uint8), value.view(torch.uint8))


@torch.no_grad()
def test_an_interrupted_pass_leaves_nothing_behind(late: Late) -> None:
    net, inputs = Net(5), torch.randn(2, 5)
    expected = net(inputs)
    stream_blocks(net, (1,), CPU, from_disk=False)

    def stop(index: int) -> None:
        if index == 3:
            raise KeyboardInterrupt

    net.on_block = stop
    with pytest.raises(KeyboardInterrupt):
        net(inputs)
    # the running copy was waited for, because its buffer may be reused now
    assert late.done == len(late.orders)

    net.on_block = lambda _: None
    assert torch.equal(net(inputs), expected)


@torch.no_grad()
def test_a_staging_buffer_is_reused_only_after_its_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inputs, late = Net(5), torch.randn(2, 5), Late()
    expected = net(inputs)
    staging_buffers: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        staging_buffers.append(tensor)
        return tensor

    monkeypatch.setattr(module, "pinned", note)
    blocks = [ParameterGroup(module._tensors(block)) for block in net.blocks]
    card = SimpleNamespace(type="cuda")
    streamed = BlockStream(blocks, ParameterGroup([net.enter.weight, net.enter.bias]), card, late, from_disk=True)  # type: ignore[arg-type]
    monkeypatch.setattr(streamed, "_device", CPU)
    HookRegistry.check_if_exists_or_initialize(net).register_hook(module._TransformerHook(streamed), "pass")
    for index, block in enumerate(net.blocks):
        HookRegistry.check_if_exists_or_initialize(block).register_hook(module._BlockHook(streamed, index), "visit")

    assert torch.equal(net(inputs), expected)
    assert torch.equal(net(inputs), expected)
    assert [each.nbytes for each in staging_buffers] == [blocks[0].size] * BUFFERS
    # copies 1 and 7 are of the tensors outside the blocks; 12 and 11 are the last from the two staging buffers
    assert sorted(late.waited) == [2, 3, 4, 5, 6, 8, 9, 10]

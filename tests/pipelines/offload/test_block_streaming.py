"""Blocks come in time and go in time, however late the device copies, and also where a pass is cut short."""

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
    """A transformer in small: a way in, blocks that are told when they compute, and a table outside of them."""

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
    """A card that copies as late as it may: when computing waits for it. It notes what each copy waited for."""

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
def test_a_late_copy_is_waited_for(late: Late, staying: tuple[int, ...]) -> None:
    net, inputs = Net(5), torch.randn(2, 5)
    expected = net(inputs)
    host_copies = {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    stream_blocks(net, staying, CPU, from_disk=False)

    assert torch.equal(net(inputs), expected)
    assert torch.equal(net(inputs), expected)

    # everything is at home again, and was nowhere else changed
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == host_copies


@torch.no_grad()
def test_no_buffer_is_reused_before_its_block_has_computed(late: Late) -> None:
    net = Net(6)
    stream_blocks(net, (), CPU, from_disk=False)

    def note(_: int) -> None:
        late.computed += 1

    net.on_block = note
    net(torch.randn(2, 5))

    # what is outside of the blocks, the first two blocks, and the others each after the one before the last
    assert late.after == [0, 0, 0, 1, 2, 3, 4]


@torch.no_grad()
def test_only_two_blocks_are_there_at_a_time_and_none_after(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_tensors_lie_apart_in_their_own_forms() -> None:
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
def test_a_pass_that_was_cut_short_leaves_nothing_behind(late: Late) -> None:
    net, inputs = Net(5), torch.randn(2, 5)
    expected = net(inputs)
    stream_blocks(net, (1,), CPU, from_disk=False)

    def stop(index: int) -> None:
        if index == 3:
            raise KeyboardInterrupt

    net.on_block = stop
    with pytest.raises(KeyboardInterrupt):
        net(inputs)
    # a copy that was under way has been waited for: its buffer may be used by others now
    assert late.done == len(late.orders)

    net.on_block = lambda _: None
    assert torch.equal(net(inputs), expected)


@torch.no_grad()
def test_what_comes_from_disk_passes_through_memory_that_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
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
    # copies 1 and 7 are of what is outside of the blocks; the last ones from the two staging buffers are 12 and 11
    assert sorted(late.waited) == [2, 3, 4, 5, 6, 8, 9, 10]

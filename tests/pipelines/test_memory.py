"""Plans: none exceeds its budget, more memory is never slower, and each says why."""

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import given
from hypothesis import strategies as st

from pipelines.catalogue import read_catalogue
from pipelines.geometry import Geometry
from pipelines.memory import GIB, Machine, MemoryPlan, Precision, _block_bytes, choices, plan
from pipelines.shapes import ModelShape, parse_shape
from pipelines.storage import Storage

ENTRY = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
assert ENTRY.model.shape is not None
SHAPE: ModelShape = parse_shape(ENTRY.model.shape)
VIDEOS = {"480p": (832, 480, 81), "720p": (1280, 720, 81)}

CARDS = st.floats(1, 200).map(lambda size: round(size * GIB))
HOSTS = st.floats(1, 300).map(lambda size: round(size * GIB))
CAPABILITIES = st.sampled_from([(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
SIZES = st.tuples(st.integers(1, 1280), st.integers(1, 720), st.integers(1, 120))


def made(video: tuple[int, int, int], card: int, host: int, capability: tuple[int, int] = (8, 9)) -> MemoryPlan:
    return plan(SHAPE, Geometry.fit(*video, SHAPE.grid), Machine(card, host, capability))


@given(video=SIZES, card=CARDS, host=HOSTS, capability=CAPABILITIES)
def test_a_plan_keeps_within_its_budget_or_says_what_is_missing(
    video: tuple[int, int, int], card: int, host: int, capability: tuple[int, int]
) -> None:
    machine = Machine(card, host, capability)
    chosen = made(video, card, host, capability)

    if chosen.fits(machine):
        assert max(chosen.stage_peaks.values()) <= card
        assert chosen.host_peak <= host
        assert chosen.shortfall(machine) == ""
    else:
        assert "It would need" in chosen.shortfall(machine)
    assert chosen.relative_seconds_per_step >= 1


@given(video=SIZES, card=CARDS, host=HOSTS, more=st.floats(1, 4), capability=CAPABILITIES)
def test_more_memory_is_never_slower(
    video: tuple[int, int, int], card: int, host: int, more: float, capability: tuple[int, int]
) -> None:
    less = made(video, card, host, capability)
    if not less.fits(Machine(card, host, capability)):
        return
    for larger in ((round(card * more), host), (card, round(host * more)), (round(card * more), round(host * more))):
        richer = made(video, *larger, capability)
        assert richer.fits(Machine(*larger, capability))
        assert richer.relative_seconds_per_step <= less.relative_seconds_per_step


@given(small=SIZES, card=CARDS, host=HOSTS)
def test_a_smaller_video_never_needs_more(small: tuple[int, int, int], card: int, host: int) -> None:
    largest = made((1280, 720, 120), card, host)
    chosen = made(small, card, host)

    if largest.fits(Machine(card, host, (8, 9))):
        assert chosen.fits(Machine(card, host, (8, 9)))


@pytest.mark.parametrize(
    ("video", "card", "host", "expected"),
    [
        ("480p", 80, 128, "bf16 resident, text encoder resident, whole frames"),
        ("720p", 48, 64, "bf16 resident, text encoder streamed, whole frames"),
        ("480p", 24, 64, "bf16 partly streamed, text encoder resident, whole frames"),
        ("480p", 24, 32, "bf16 partly streamed, text encoder streamed from disk, whole frames"),
        ("480p", 16, 32, "fp8 partly streamed, text encoder streamed, whole frames"),
        ("480p", 8, 64, "bf16 streamed, text encoder streamed from disk, whole frames"),
        ("480p", 8, 32, "fp8 partly streamed, text encoder streamed from disk, whole frames"),
        ("720p", 12, 16, "4-bit partly streamed from disk, text encoder streamed from disk, whole frames"),
        ("480p", 8, 16, "4-bit partly streamed from disk, text encoder streamed from disk, whole frames"),
    ],
)
def test_the_plans_of_common_machines(video: str, card: int, host: int, expected: str) -> None:
    machine = Machine((card - 1) * GIB, round(0.9 * host * GIB), (8, 9))
    chosen = made(VIDEOS[video], machine.device_memory, machine.host_memory)

    assert chosen.fits(machine)
    assert chosen.name == expected


def test_what_does_not_fit_is_told_with_its_size() -> None:
    machine = Machine(4 * GIB, 4 * GIB, (8, 9))

    sentence = made(VIDEOS["720p"], machine.device_memory, machine.host_memory).shortfall(machine)

    assert "of the card for" in sentence
    assert "where 4.0 GiB is free and" in sentence
    assert "of host memory, where 4.0 GiB is free" in sentence


@given(video=SIZES, card=CARDS, host=HOSTS)
def test_every_choice_has_its_reason(video: tuple[int, int, int], card: int, host: int) -> None:
    machine = Machine(card, host, (8, 9))
    explained = choices(made(video, card, host), SHAPE, machine)

    assert set(explained) == {"transformer", "transformer weights", "text encoder", "VAE"}
    assert all(made.reason for made in explained.values())


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP8, Precision.Q4])
def test_a_real_block_takes_what_is_planned_for_it(precision: Precision) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(num_layers=1)
    tensors = {name: tensor for name, tensor in transformer.state_dict().items() if name.startswith("blocks.0.")}
    storage = Storage(transformer, precision, torch.bfloat16)

    stored = sum(storage.size(name, tensor) for name, tensor in tensors.items())

    assert stored == pytest.approx(_block_bytes(SHAPE, precision), rel=0.001)

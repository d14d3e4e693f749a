"""Plans: none exceeds its budget, more memory is never slower, and each choice has a reason."""

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.geometry import Geometry
from pipelines.core.precision import SLICE_TOKENS, Accuracy, Precision, PrecisionSetting
from pipelines.loading.weight_format import WeightFormat
from pipelines.models.catalogue import read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.explain import choices
from pipelines.planning.layout import GIB, Layout, Machine, MemoryPlan
from pipelines.planning.memory_model import block_bytes
from pipelines.planning.planner import FAST_ENOUGH, evaluate, plan
from pipelines.planning.shapes import ModelShape

WAN = family_of("WanPipeline")

ENTRY = read_catalogue()["wan-ai-wan2-1-t2v-14b-diffusers"]
assert ENTRY.model.shape is not None
SHAPE: ModelShape = WAN.shape(ENTRY.model.shape)
VIDEOS = {"480p": (832, 480, 81), "720p": (1280, 720, 81)}

CARDS = st.floats(1, 200).map(lambda size: round(size * GIB))
HOSTS = st.floats(1, 300).map(lambda size: round(size * GIB))
CAPABILITIES = st.sampled_from([(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
SIZES = st.tuples(st.integers(1, 1280), st.integers(1, 720), st.integers(1, 120))


SETTINGS = st.sampled_from(PrecisionSetting)


def made(
    video: tuple[int, int, int],
    card: int,
    host: int,
    capability: tuple[int, int] = (8, 9),
    setting: PrecisionSetting = PrecisionSetting.AUTO,
) -> MemoryPlan:
    return plan(SHAPE, Geometry.fit(*video, SHAPE.grid), Machine(card, host, capability, setting))


def inexactness(chosen: MemoryPlan) -> tuple[int, bool]:
    return chosen.layout.precision.exactness, chosen.layout.accuracy is Accuracy.STANDARD


@given(video=SIZES, card=CARDS, host=HOSTS, capability=CAPABILITIES, setting=SETTINGS)
def test_a_plan_fits_its_budget_or_says_what_is_missing(
    video: tuple[int, int, int], card: int, host: int, capability: tuple[int, int], setting: PrecisionSetting
) -> None:
    machine = Machine(card, host, capability)
    chosen = made(video, card, host, capability, setting)

    if chosen.fits(machine):
        assert max(chosen.stage_peaks.values()) <= card
        assert chosen.host_peak <= host
        assert chosen.shortfall(machine) == ""
    else:
        assert "It needs" in chosen.shortfall(machine)
    # the matrices are at most all of it, and half their time is saved
    assert chosen.relative_seconds_per_step >= (0.5 if chosen.layout.precision.multiplies else 1)


@given(video=SIZES, card=CARDS, host=HOSTS, more=st.floats(1, 4), capability=CAPABILITIES, setting=SETTINGS)
def test_more_memory_is_never_slower(
    video: tuple[int, int, int],
    card: int,
    host: int,
    more: float,
    capability: tuple[int, int],
    setting: PrecisionSetting,
) -> None:
    less = made(video, card, host, capability, setting)
    if not less.fits(Machine(card, host, capability)):
        return
    for larger in ((round(card * more), host), (card, round(host * more)), (round(card * more), round(host * more))):
        richer = made(video, *larger, capability, setting)
        assert richer.fits(Machine(*larger, capability))
        if richer.relative_seconds_per_step > less.relative_seconds_per_step:
            # exactness is what the time was given for, and next to none of it
            assert setting is PrecisionSetting.AUTO
            assert inexactness(richer) < inexactness(less)
            assert richer.relative_seconds_per_step <= FAST_ENOUGH


@given(small=SIZES, card=CARDS, host=HOSTS)
def test_a_smaller_video_never_needs_more(small: tuple[int, int, int], card: int, host: int) -> None:
    largest = made((1280, 720, 120), card, host)
    chosen = made(small, card, host)

    if largest.fits(Machine(card, host, (8, 9))):
        assert chosen.fits(Machine(card, host, (8, 9)))


@pytest.mark.parametrize(
    ("video", "card", "host", "expected"),
    [
        ("480p", 80, 128, "bf16 resident, fp32 residual stream, text encoder resident, whole frames in fp32"),
        ("720p", 48, 64, "bf16 resident, fp32 residual stream, text encoder streamed, whole frames"),
        ("480p", 24, 64, "bf16 partly streamed, fp32 residual stream, text encoder resident, whole frames in fp32"),
        ("480p", 24, 32, "bf16 partly streamed, fp32 residual stream, text encoder resident, whole frames"),
        ("480p", 16, 32, "bf16 partly streamed, fp32 residual stream, text encoder streamed from disk, whole frames"),
        ("480p", 8, 64, "bf16 streamed, fp32 residual stream, text encoder streamed, whole frames"),
        (
            "480p",
            8,
            32,
            "fp8 matmuls partly streamed, fp32 residual stream, text encoder streamed from disk, whole frames",
        ),
        (
            "720p",
            12,
            16,
            "fp8 matmuls partly streamed from disk, fp32 residual stream, slices of 4096 tokens, "
            "text encoder streamed from disk, tiles of 512 pixels",
        ),
        (
            "480p",
            8,
            16,
            "fp8 matmuls partly streamed from disk, guidance batched, fp32 residual stream, slices of 4096 tokens, "
            "text encoder streamed from disk, whole frames",
        ),
    ],
)
def test_the_plans_of_common_machines(video: str, card: int, host: int, expected: str) -> None:
    machine = Machine((card - 1) * GIB, round(0.9 * host * GIB), (8, 9))
    chosen = made(VIDEOS[video], machine.device_memory, machine.host_memory)

    assert chosen.fits(machine)
    assert chosen.name == expected


@pytest.mark.parametrize("accuracy", Accuracy)
def test_a_720p_video_fits_on_8_gb_in_slices(accuracy: Accuracy) -> None:
    geometry = Geometry.fit(*VIDEOS["720p"], SHAPE.grid)
    machine = Machine(8 * GIB - GIB // 2, round(0.9 * 32 * GIB), (8, 9), accuracy=accuracy)

    chosen = plan(SHAPE, geometry, machine)

    assert chosen.fits(machine)
    assert chosen.layout.slice_tokens == SLICE_TOKENS
    assert chosen.layout.accuracy is accuracy
    assert chosen.layout.fp32_decoding is (accuracy is Accuracy.HIGH)
    reasons = choices(chosen, SHAPE, machine)
    assert reasons["activations"].choice == "slices of 4096 tokens"
    assert reasons["residual stream"].choice == ("fp32" if accuracy is Accuracy.HIGH else "bf16")


@given(video=SIZES, card=CARDS, host=HOSTS, setting=SETTINGS)
def test_slices_and_lower_accuracy_are_chosen_only_where_they_gain(
    video: tuple[int, int, int], card: int, host: int, setting: PrecisionSetting
) -> None:
    geometry, machine = Geometry.fit(*video, SHAPE.grid), Machine(card, host, (8, 9), setting)
    chosen = plan(SHAPE, geometry, machine)
    if not chosen.fits(machine):
        return
    for other in (
        replace(chosen.layout, slice_tokens=0),
        replace(chosen.layout, accuracy=Accuracy.HIGH),
        replace(chosen.layout, fp32_decoding=True),
    ):
        if other != chosen.layout:
            assert not evaluate(SHAPE, geometry, machine, other).fits(machine)


@given(video=SIZES, card=CARDS, host=HOSTS)
def test_with_standard_accuracy_everything_is_in_bf16(video: tuple[int, int, int], card: int, host: int) -> None:
    machine = Machine(card, host, (8, 9), accuracy=Accuracy.STANDARD)

    layout = plan(SHAPE, Geometry.fit(*video, SHAPE.grid), machine).layout

    assert layout.accuracy is Accuracy.STANDARD
    assert not layout.fp32_decoding
    assert "fp32" not in layout.name


def test_the_name_says_what_changes_the_bytes() -> None:
    standard = Layout(accuracy=Accuracy.STANDARD)
    others = (replace(standard, slice_tokens=64), replace(standard, fp32_decoding=True), Layout())

    # checkpoints of earlier versions have it
    assert standard.name == "bf16 resident, text encoder resident, whole frames"
    assert len({standard.name, *(other.name for other in others)}) == 4


def test_a_plan_that_does_not_fit_names_the_missing_memory() -> None:
    machine = Machine(4 * GIB, 4 * GIB, (8, 9))

    sentence = made(VIDEOS["720p"], machine.device_memory, machine.host_memory).shortfall(machine)

    assert "of GPU memory for" in sentence
    assert "(4.0 GiB is free) and" in sentence
    assert "of host memory (4.0 GiB is free)." in sentence


@given(video=SIZES, card=CARDS, host=HOSTS)
def test_every_choice_has_a_reason(video: tuple[int, int, int], card: int, host: int) -> None:
    machine = Machine(card, host, (8, 9))
    explained = choices(made(video, card, host), SHAPE, machine)

    parts = {"transformer", "transformer weights", "residual stream", "activations", "guidance", "text encoder", "VAE"}
    assert set(explained) == parts
    assert all(made.reason for made in explained.values())


@pytest.mark.parametrize("precision", [precision for precision in Precision if precision is not Precision.GGUF])
def test_a_real_block_has_the_planned_size(precision: Precision) -> None:
    with torch.device("meta"):
        transformer = WanTransformer3DModel(num_layers=1)
    tensors = {name: tensor for name, tensor in transformer.state_dict().items() if name.startswith("blocks.0.")}
    weight_format = WeightFormat(transformer, precision, torch.bfloat16)

    stored = sum(weight_format.size(name, tensor) for name, tensor in tensors.items())

    assert stored == pytest.approx(block_bytes(SHAPE, precision), rel=0.001)


@pytest.mark.parametrize(
    ("setting", "capability", "expected"),
    [
        (PrecisionSetting.BF16, (8, 9), Precision.BF16),
        (PrecisionSetting.FP8, (9, 0), Precision.FP8_MATMUL),
        (PrecisionSetting.FP8, (8, 6), Precision.FP8),
        (PrecisionSetting.INT8, (8, 6), Precision.INT8_MATMUL),
        (PrecisionSetting.Q4, (12, 0), Precision.Q4),
    ],
)
def test_a_configured_precision_is_always_used(
    setting: PrecisionSetting, capability: tuple[int, int], expected: Precision
) -> None:
    for card in (12, 24, 80):
        machine = Machine((card - 1) * GIB, 60 * GIB, capability, setting)
        chosen = plan(SHAPE, Geometry.fit(*VIDEOS["480p"], SHAPE.grid), machine)
        assert chosen.layout.precision is expected
        if expected is not Precision.BF16:
            assert choices(chosen, SHAPE, machine)["transformer weights"].reason == f"as configured: {setting}"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 5), Precision.INT8_MATMUL), ((8, 6), Precision.INT8_MATMUL), ((8, 9), Precision.FP8_MATMUL)],
)
def test_the_gpu_decides_the_format_of_quantized_products(capability: tuple[int, int], expected: Precision) -> None:
    tight, roomy = (made(VIDEOS["480p"], 15 * GIB, host * GIB, capability) for host in (24, 60))

    assert tight.layout.precision is expected
    assert tight.relative_seconds_per_step < 1
    # exact weights are not given up for time alone
    assert roomy.layout.precision is Precision.BF16
    assert 1 < roomy.relative_seconds_per_step < FAST_ENOUGH


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (12, 0)])
def test_quantization_gains_less_where_attention_dominates(capability: tuple[int, int]) -> None:
    setting = PrecisionSetting.FP8 if capability >= (8, 9) else PrecisionSetting.INT8
    small, large = (
        made(video, 79 * GIB, 60 * GIB, capability, setting).relative_seconds_per_step for video in VIDEOS.values()
    )
    attention = {
        video: 1 - SHAPE.transformer.linear_flops(tokens) / SHAPE.transformer.forward_flops(tokens)
        for video, tokens in (("480p", 32_760), ("720p", 75_600))
    }

    assert (round(attention["480p"], 2), round(attention["720p"], 2)) == (0.53, 0.72)
    assert (1 + attention["480p"]) / 2 < small < large < 1

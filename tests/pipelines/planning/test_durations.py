"""Estimated seconds agree with those that were measured on an H200, and scale with the rates of other cards."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.core.geometry import Geometry
from pipelines.core.precision import Accuracy, Precision
from pipelines.models.catalogue import DEFAULT_MODEL, read_catalogue
from pipelines.models.registry import family_of
from pipelines.planning.cards import find_card
from pipelines.planning.durations import MEASURED, Estimate, estimate
from pipelines.planning.layout import Decoding, Layout, Residence

RECORDS = Path(__file__).parents[3] / "benchmarks" / "results" / "2026-11-26-gpu-h200.jsonl"
SPEC = read_catalogue()[DEFAULT_MODEL].model
SHAPE = family_of(SPEC.pipeline_class).shape(SPEC.shape or {})
VIDEO = Geometry.fit(832, 480, 81, SHAPE.grid)
RESIDENT = Layout(accuracy=Accuracy.STANDARD)


def estimated(layout: Layout = RESIDENT, card: str = "H200", *, compiles: bool = True) -> Estimate:
    return estimate(SHAPE, VIDEO, layout, find_card(card), 16, compiles=compiles)


def records() -> list[dict[str, object]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()]


@pytest.mark.parametrize("case", ["480p-ours", "480p-fp8", "480p-24gb", "480p-12gb", "480p-8gb"])
def test_the_estimate_holds_what_was_measured(case: str) -> None:
    # a case that was measured again counts as it was last
    record = [each for each in records() if each["case"] == case][-1]
    planned, measured = record["plan"], [record["seconds_per_step"]]
    assert isinstance(planned, dict)
    layout = Layout(
        precision=Precision(planned["precision"]),
        transformer=Residence(planned["transformer"]),
        text_encoder=Residence(planned["text_encoder"]),
        decoding=Decoding(planned["decoding"]),
        resident_blocks=planned["resident_blocks"],
        batched=planned["batched"],
        accuracy=Accuracy.STANDARD,
    )
    if isinstance(compiled := record.get("compiled"), dict):
        measured.append(compiled["seconds_per_step"])
    least, most = estimated(layout).step

    assert all(isinstance(seconds, float) and least <= seconds <= most for seconds in measured), (least, most)


def test_the_measured_card_is_the_one_in_the_table_and_says_so() -> None:
    assert find_card("H200") == MEASURED
    assert "From an H200 measured" in estimated().assumes[0]
    assert "this card has not been measured" in estimated(card="RTX 3060").assumes[0]
    assert "25.5 of 989 bf16 TFLOP/s and 360 of 4800 GB/s" in estimated(card="RTX 3060").assumes[0]


def test_a_slower_card_takes_longer_by_its_published_rates() -> None:
    fast, slow = (sum(estimated(card=card, compiles=False).step) for card in ("RTX 4090", "RTX 3060"))

    # between the ratio of the memories' bandwidth, 2.8, and that of the products, 6.5
    assert 5 < slow / fast < 6.5


def test_only_a_layout_that_is_compiled_has_the_lower_figure() -> None:
    compiled, plain = estimated(), estimated(compiles=False)

    assert compiled.step[0] < plain.step[0]
    assert compiled.step[1] == plain.step[1]
    assert any("compiled" in sentence for sentence in compiled.assumes)
    sliced = estimated(replace(RESIDENT, slice_tokens=4096))
    assert sliced.step == plain.step
    assert not any("compiled" in sentence for sentence in sliced.assumes)


def test_copying_weights_and_the_fp32_stream_are_named() -> None:
    streamed = replace(RESIDENT, transformer=Residence.STREAMED, text_encoder=Residence.DISK, accuracy=Accuracy.HIGH)

    assumed = " ".join(estimated(streamed).assumes)

    assert "copied from host memory at 16 GB/s" in assumed
    assert "read from disk at 2 GB/s" in assumed
    assert "bf16 residual stream; the time of an fp32 one is not known" in assumed

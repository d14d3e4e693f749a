"""The GPU benchmark with a small model: every plan is carried out, and only measured figures are reported."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

from benchmarks.gpu import case as gpu_case
from benchmarks.gpu import generation, random_weights
from benchmarks.gpu import run as gpu
from benchmarks.gpu.card import Gpu, Processor, Use, Watch
from benchmarks.gpu.case import measure
from benchmarks.gpu.random_weights import FAMILY, PUBLISHED, SMALL, fill_part, published_shape, write_configs
from benchmarks.gpu.run import CASES, STAGES, Case, judged, key, row, run_all, run_case
from benchmarks.report import Records
from pipelines.core.model import Attention, Compile
from pipelines.core.precision import Precision
from pipelines.layers.quantized_linear import QuantizedLinear
from pipelines.planning.layout import GIB, Layout, Residence
from pipelines.runner.compilation import Block

CHOSEN = set(Precision) - {Precision.GGUF}
"""The precisions that a plan may choose; GGUF is for files that are already quantized."""

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="tests the report without a GPU")


class CountingCard(Processor):
    """A CPU that reports invented memory use, which must appear in the record stage by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = 0

    def reset(self) -> None:
        self.stages += 1

    def use(self) -> Use:  # type: ignore[override]
        return Use(allocated=self.stages * GIB, reserved=2 * self.stages * GIB, outside=GIB)

    def driver_used(self) -> int:
        return 3 * self.stages * GIB


@pytest.fixture
def go_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Measure a case with the small model, on the CPU or on the given card."""

    def go(name: str, card: Processor | None = None) -> dict[str, Any]:
        monkeypatch.setattr(gpu_case, "open_card", lambda _cap: card or Processor())
        return measure(CASES[name], SMALL, tmp_path / "record.json")

    return go


def test_the_cases_are_ordered_by_importance() -> None:
    cards = ["plain", "ours", "fp8", "fp8-attention", "fp8-attention-video", "24gb", "16gb", "12gb", "8gb", "32gb"]

    assert list(CASES)[:20] == [f"{video}-{card}" for video in ("480p", "720p") for card in cards]
    assert CASES["480p-24gb"].cap == 23 * GIB
    assert CASES["480p-32gb"].capability == (12, 0)
    assert CASES["480p-plain"].cap is None


def test_the_published_scale_is_that_of_the_served_model(tmp_path: Path) -> None:
    assert write_configs(PUBLISHED, tmp_path) == published_shape()


@pytest.mark.parametrize("name", CASES)
def test_every_case_runs_with_a_small_model(
    name: str, go_through: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    record = go_through(name)

    assert json.loads((tmp_path / "record.json").read_text()) == json.loads(json.dumps(record))
    assert record["finished"]
    assert "does_not_fit" not in record
    assert list(record["stages"]) == ["loading", *STAGES]
    assert len(record["step_seconds"]) == CASES[name].steps
    assert record["frames"] == 9
    # the random weights are scaled so that nothing overflows
    assert "latents" not in record
    # without a GPU no memory is reported
    assert all(set(stage) == {"seconds"} for stage in record["stages"].values())
    assert judged(record) is record
    assert row(record)[2:7] == ("–",) * 5


def test_a_plan_that_does_not_fit_is_a_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_case, "open_card", lambda _cap: Processor())

    record = measure(replace(CASES["720p-8gb"], card=6), SMALL, tmp_path / "record.json")

    assert "GiB of GPU memory for denoising (5.0 GiB is free)" in record["does_not_fit"]
    assert "does not fit: It needs" in row(judged(record))[1]
    assert record["stages"] == {}


def test_the_cases_cover_every_mechanism() -> None:
    layouts = []
    for case in CASES.values():
        if not case.plain:
            meter = SimpleNamespace(note=lambda **_: None)
            layouts.append(gpu_case._laid_out(case, SMALL, Processor(), meter))

    found = [layout for layout in layouts if layout is not None]
    assert {layout.precision for layout in found} == CHOSEN
    assert {layout.transformer for layout in found} == set(Residence)
    assert {layout.text_encoder for layout in found} == set(Residence)
    assert {0 < layout.resident_blocks < 4 for layout in found} == {True, False}


@pytest.mark.parametrize("precision", sorted(CHOSEN))
@pytest.mark.parametrize("residence", Residence)
def test_random_weights_have_the_format_of_the_plan(precision: Precision, residence: Residence, tmp_path: Path) -> None:
    write_configs(SMALL, tmp_path)
    layout = Layout(precision, transformer=residence, text_encoder=residence)
    device, folder = torch.device("cpu"), tmp_path / "disk"

    transformer, text_encoder = (
        fill_part(FAMILY.part(part), tmp_path, layout, device, torch.bfloat16, folder)
        for part in ("transformer", "text_encoder")
    )

    assert (folder / "transformer").is_dir() is (residence is Residence.DISK)
    for module in (transformer, text_encoder):
        assert not any(parameter.is_meta for parameter in module.parameters())
    query = transformer.blocks[3].attn1.to_q
    assert (
        query.weight.dtype
        is {
            Precision.BF16: torch.bfloat16,
            Precision.FP8: torch.float8_e4m3fn,
            Precision.FP8_MATMUL: torch.float8_e4m3fn,
            Precision.INT8_MATMUL: torch.int8,
            Precision.Q4: torch.uint8,
        }[precision]
    )
    assert precision.multiplies is isinstance(query, QuantizedLinear)
    assert (precision is Precision.Q4) is isinstance(query, GGUFLinear) is isinstance(query.weight, GGUFParameter)
    # diffusers keeps these in fp32
    assert transformer.blocks[0].scale_shift_table.dtype is torch.float32
    assert text_encoder.shared.weight is text_encoder.encoder.embed_tokens.weight
    assert text_encoder.shared.weight.float().std() == pytest.approx(random_weights.STD, rel=0.05)
    assert (transformer.blocks[0].attn1.norm_q.weight.float() == 1).all()


def test_nan_does_not_end_the_benchmark(
    go_through: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_weights, "STD", 1e38)

    record = go_through("480p-ours")

    assert record["finished"]
    assert record["latents"] == record["video"] == "not finite"
    assert record["seconds_per_step"] > 0
    # decoding stopped at the first frame: its time would be that of one frame
    assert "decoding" not in record["stages"]
    assert "values that are not numbers" in row(judged(record))[1]


def test_running_out_of_memory_is_a_result(
    go_through: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate\nand more")

    monkeypatch.setattr(generation, "decode_frames", decode)

    record = go_through("480p-24gb")

    assert record["finished"]
    assert record["out_of_memory"] == "tried to allocate"
    assert record["seconds_per_step"] > 0
    assert "decoding" not in record["stages"]
    assert "out of memory, decoding" in row(judged(record))[1]


@pytest.mark.parametrize("name", ["480p-plain", "480p-24gb"])
def test_each_stage_has_its_own_peaks(name: str, go_through: Callable[..., dict[str, Any]]) -> None:
    record = judged(go_through(name, CountingCard()))

    for number, stage in enumerate(("loading", *STAGES), start=1):
        found = record["stages"][stage]
        assert found["allocated"] == number * GIB
        assert found["driver"] == 3 * number * GIB
        assert record["needed_bytes"][stage] == (number + 1) * GIB
    assert record["driver_peak_bytes"] == 12 * GIB
    if name == "480p-plain":
        assert record["within_cap"] is None
        assert record["measured_over_predicted"] == {}
        assert row(record)[3] == "4.0"
    else:
        predicted = record["plan"]["stage_peaks"]["denoising"]
        assert record["within_cap"] is True
        assert record["measured_over_predicted"]["denoising"] == round(4 * GIB / predicted, 3)
        assert row(record)[5] == "12.0 of 23.0 (0.52)"


def test_the_cap_is_compared_with_the_drivers_figure() -> None:
    stage = {"seconds": 1.0, "allocated": 5 * GIB, "reserved": 6 * GIB, "outside": GIB, "driver": 8 * GIB}
    record = judged({"case": "480p-8gb", "cap_bytes": 7 * GIB, "stages": {"denoising": stage}})

    assert record["within_cap"] is False
    assert row(record)[5] == "8.0 of 7.0 (1.14), over the cap"


def test_torch_gets_the_cap_less_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions = []
    known = SimpleNamespace(name="a card", total_memory=80 * GIB, major=9, minor=0)
    fakes = {
        "init": lambda: None,
        "mem_get_info": lambda _: (78 * GIB, 80 * GIB),
        "memory_reserved": lambda _: GIB,
        "max_memory_allocated": lambda _: 3 * GIB,
        "max_memory_reserved": lambda _: 4 * GIB,
        "reset_peak_memory_stats": lambda _: None,
        "synchronize": lambda _: None,
        "get_device_properties": lambda _: known,
        "set_per_process_memory_fraction": lambda fraction, _: fractions.append(fraction),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)

    card = Gpu(cap=21 * GIB)

    # the driver counts 2 GiB, of which torch holds one
    assert fractions == [20 / 80]
    assert card.use() == Use(3 * GIB, 4 * GIB, GIB)
    facts = card.facts()
    assert (facts["gpu"], facts["capability"], facts["context_bytes"]) == ("a card", [9, 0], GIB)
    card.reset()
    card.synchronize()
    assert Gpu().driver_used() == 2 * GIB
    assert len(fractions) == 1


def test_the_watch_keeps_the_peak_since_its_restart() -> None:
    used = [5]
    with Watch(lambda: used[0]) as watch:
        watch.sample()
        used[0] = 2
        watch.sample()
        assert watch.card == 5
        watch.restart()
        watch.sample()
        assert watch.card == 2


def test_a_second_run_measures_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run(case: Case, _small: bool, _seconds: float) -> dict[str, Any]:
        ran.append(case.name)
        return {"case": case.name, **({"unfinished": "stopped"} if len(ran) == 2 else {"finished": True})}

    monkeypatch.setattr(gpu, "run_case", run)
    three, file = list(CASES.values())[:3], tmp_path / "records.jsonl"

    assert list(run_all(three, True, None, Records(file), budget=0)) == [None, None, None]
    first = list(run_all(three, True, None, Records(file), budget=60))
    again = list(run_all(three, True, None, Records(file), budget=60))

    assert ran == [*(case.name for case in three), three[1].name]
    assert [found["case"] for found in first if found] == [case.name for case in three]
    assert all(found and found["finished"] for found in again)
    # records of another GPU or of the small model do not count
    other = [key(three[0], small, card) for small, card in ((False, None), (True, "a card"))]
    assert all(Records(file).find(name) is None for name in other)
    assert list(run_all(three, True, "a card", Records(file), budget=0)) == [None, None, None]


class Compiler:
    """A fake background compiler. tests/pipelines/runner/test_compilation.py tests the real one."""

    def __init__(self, _transformers: Any, block: Block, _cache: Path) -> None:
        assert (block.precision, block.attention, block.inputs["hidden_states"]) == (
            "fp8 matmuls",
            "fp8",
            (1, 16, 3, 6, 8),
        )
        self.is_compiled = self.is_closed = False
        self._process: subprocess.Popen[bytes] | None = None
        made.append(self)

    def activate(self) -> None:
        if self._process is None:
            self._process = subprocess.Popen(["sleep", "1"])
        else:
            self.is_compiled = self._process.poll() is not None

    def close(self) -> None:
        self.is_closed = True


made: list[Compiler] = []


def test_compiled_and_plain_blocks_are_both_measured(
    go_through: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "COMPILE", Compile.ON)
    monkeypatch.setattr(generation, "Compiler", Compiler)

    record = go_through("480p-fp8-attention-video")

    assert record["is_compiled"]
    assert (len(record["step_seconds"]), len(record["compiled"]["step_seconds"])) == (2, 3)
    assert made[-1].is_closed
    assert record["attention"] == Attention.FP8
    assert record["frames"] == SMALL.videos["480p"][2]
    whole = [(video["steps"], video["computed"], video["guided"]) for video in record["whole"]]
    assert whole == [(16, 8, True), (4, 4, False), (16, 16, True)]
    kernels = record["compiled"]["kernels"]
    assert 0.5 < sum(kernels.values()) <= 1
    shown = row(judged(record))
    assert "16 of 16 steps computed: " in shown[1]
    assert "8 of 16 steps computed: " in shown[1]
    assert "4 of 4 steps computed, no guidance: " in shown[1]
    assert shown[9] == f"{record['compiled']['seconds_per_step']:.2f}"


def test_an_interrupted_case_is_reported_as_such() -> None:
    record = run_case(CASES["480p-plain"], True, seconds=0.2)

    assert record["case"] == "480p-plain"
    assert record["unfinished"] == "stopped after 0 s"
    assert row(judged(record))[1:] == ("diffusers as documented; stopped after 0 s", *["–"] * 11)


@WITHOUT_GPU
def test_without_a_gpu_nothing_is_reported_as_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["gpu", "--records", str(tmp_path / "records.jsonl"), *options])
        gpu.main()

    with pytest.raises(SystemExit) as refused:
        run()
    assert refused.value.code == 2
    assert "there is no CUDA device here" in capsys.readouterr().err

    run("--small", "--case", "720p-8gb")
    shown = capsys.readouterr().out
    assert "in small: nothing is measured" in shown
    figures = json.loads(shown.splitlines()[-1])
    assert (figures["gpu"], figures["small"], figures["not_yet_measured"]) == (None, True, [])
    assert [case["case"] for case in figures["cases"]] == ["720p-8gb"]
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 1

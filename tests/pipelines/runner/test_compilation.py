"""Blocks are compiled by another process, taken up when it is done, and make the same video but for rounding."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError

from pipelines.core.model import Attention, Compile, ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.request import VideoParams
from pipelines.loading.load import load_pipeline
from pipelines.planning.layout import Layout, Residence
from pipelines.runner import compilation as compiling
from pipelines.runner.compilation import Block, is_wanted, main, placeholder
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from pipelines.runner.runner import Runner, _block

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
SPEC = ModelSpec("random", fps=16, sizes=((96, 64, 5),), compile=Compile.ON)
PARAMS = VideoParams("an ox by a lake", "blurry", 64, 96, 5, 4, 5.0, 7)


@pytest.fixture(scope="module")
def cache(weights_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which the random weights' block is compiled: the work of the process in the background."""
    cache = tmp_path_factory.mktemp("cache")
    loaded = Runner.load(replace(SPEC, compile=Compile.OFF), weights_folder, "cpu")._loaded
    block = _block(SPEC, loaded, Attention.NATIVE)
    assert (block.latents, block.text_tokens) == ((16, 2, 4, 6), 512)
    with pytest.MonkeyPatch.context() as patch:
        # what the process sets for itself
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
        main(json.dumps([asdict(block), str(cache)]))
        yield cache


class Background:
    """Processes in the background that are noted, and never start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[list[str]] = []
        monkeypatch.setattr(subprocess, "Popen", self)

    def __call__(self, command: list[str], **_: Any) -> "Background":
        self.started.append(command)
        return self

    def poll(self) -> int:
        return 1


def test_what_is_compiled_is_taken_up_at_the_load_and_makes_the_same_video(weights_folder: Path, cache: Path) -> None:
    plain = Runner.load(replace(SPEC, compile=Compile.OFF), weights_folder, "cpu")
    compiled = Runner.load(SPEC, weights_folder, "cpu", cache=cache)

    assert plain.fingerprint["compiled"] == "nothing"
    assert compiled.fingerprint["compiled"] == "blocks"
    for params in (PARAMS, replace(PARAMS, width=64, height=32, num_frames=9)):
        one, other = plain.frames(params).frames, compiled.frames(params).frames
        assert np.abs(one.astype(int) - other).max() <= 1
    compiled.close()


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP8_MATMUL, Precision.INT8_MATMUL])
def test_what_is_compiled_is_what_runs_but_for_its_numbers(weights_folder: Path, precision: Precision) -> None:
    loaded = load_pipeline(weights_folder, "cpu", layout=Layout(precision))
    block = replace(_block(SPEC, replace(loaded, device=CPU), Attention.NATIVE), dtype=loaded.fingerprint["dtype"])

    def described(model: Any) -> dict[str, Any]:
        return {
            name: (each.dtype, each.shape, each.stride(), each.requires_grad, each.device)
            for name, each in model.blocks[0].named_parameters()
        }

    made = placeholder(block)
    assert described(made) == described(loaded.pipe.transformer)
    assert not made.training
    assert [type(each) for each in made.blocks[0].modules()] == [
        type(each) for each in loaded.pipe.transformer.blocks[0].modules()
    ]


def test_it_is_made_in_the_background_and_taken_up_when_the_device_has_nothing_to_do(
    weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = Background(monkeypatch)
    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)
    runner.adopt_compiled()

    assert runner.fingerprint["compiled"] == "nothing"
    # once, and with all it needs to know
    assert len(background.started) == 1
    *python, module, argument = background.started[0]
    assert python == [sys.executable, "-P", "-m"]
    assert module == compiling.main.__module__
    described, folder = json.loads(argument)
    assert folder == str(tmp_path)
    assert (described["latents"], described["dtype"], described["config"]["num_layers"]) == (
        [16, 2, 4, 6],
        "float32",
        1,
    )

    (tmp_path / "compiled").symlink_to(cache / "compiled")
    (tmp_path / "inductor").symlink_to(cache / "inductor")
    runner.adopt_compiled()
    assert runner.fingerprint["compiled"] == "blocks"


def test_a_compiler_that_fails_costs_speed_and_no_more(
    weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler\nand much more")

    plain = Runner.load(replace(SPEC, compile=Compile.OFF), weights_folder, "cpu").frames(PARAMS).frames
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled" / next((cache / "compiled").iterdir()).name).touch()
    monkeypatch.setattr(compiling, "run_one_block", fail)
    background = Background(monkeypatch)

    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)
    runner.adopt_compiled()

    assert caplog.messages == ["the blocks are not compiled: no compiler"]
    assert runner.fingerprint["compiled"] == "nothing"
    assert np.array_equal(runner.frames(PARAMS).frames, plain)
    # neither again now nor by a process, but by the next start
    assert not background.started
    assert not list((tmp_path / "compiled").iterdir())


def test_compiled_blocks_that_fail_in_a_generation_are_done_without(
    weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = OutOfMemoryFallback.load(replace(SPEC, compile=Compile.OFF), weights_folder, "cpu", cache=tmp_path)
    expected = plain.render(PARAMS, tmp_path / "plain.mp4").finish().path.read_bytes()
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    fallback = OutOfMemoryFallback.load(SPEC, weights_folder, "cpu", cache=cache)
    assert fallback.fingerprint["compiled"] == "blocks"

    def fail(*_: Any) -> None:
        raise InternalTorchDynamoError("not for this size")

    fallback._loaded()._loaded.pipe.transformer.blocks[0]._compiled_call_impl = fail

    assert fallback.render(PARAMS, tmp_path / "video.mp4").finish().path.read_bytes() == expected
    assert fallback.fingerprint["compiled"] == "nothing"


def test_a_card_without_room_is_left_alone(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = Background(monkeypatch)
    monkeypatch.setattr(compiling, "_has_memory", lambda _: False)

    Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path).adopt_compiled()

    assert not background.started


def test_room_is_what_the_card_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = compiling.NEEDED_BYTES
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 2 * free))
    assert compiling._has_memory("cuda:0")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free - 1, 2 * free))
    assert not compiling._has_memory("cuda:0")
    assert compiling._has_memory("cpu")


@pytest.mark.parametrize(
    ("setting", "device", "layout", "wanted"),
    [
        (Compile.AUTO, CARD, Layout(), True),
        (Compile.AUTO, CARD, Layout(text_encoder=Residence.STREAMED), True),
        (Compile.AUTO, CARD, Layout(transformer=Residence.STREAMED), False),
        (Compile.ON, CARD, Layout(transformer=Residence.DISK), False),
        (Compile.AUTO, CARD, Layout(Precision.FP8_MATMUL), True),
        (Compile.ON, CARD, Layout(Precision.FP8), False),
        (Compile.ON, CARD, Layout(Precision.Q4), False),
        (Compile.AUTO, CPU, None, False),
        (Compile.ON, CPU, None, True),
        (Compile.OFF, CARD, Layout(), False),
    ],
)
def test_blocks_are_compiled_where_it_is_of_use(
    setting: Compile, device: torch.device, layout: Layout | None, wanted: bool
) -> None:
    assert is_wanted(setting, device, layout) is wanted


def test_another_chip_kernel_or_shape_is_another_block(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block({"num_layers": 1, "text_dim": 8}, (16, 2, 4, 6), 512, "cpu", "float32", "bf16", "native")
    others = [
        replace(block, attention="cudnn"),
        replace(block, dtype="bfloat16"),
        replace(block, precision="fp8 matmuls"),
        replace(block, latents=(16, 2, 4, 8)),
        replace(block, config={"num_layers": 1, "text_dim": 16}),
    ]

    assert len({each.key for each in [block, *others]}) == 6
    before = block.key
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert block.key != before

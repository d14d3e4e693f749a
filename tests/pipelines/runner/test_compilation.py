"""Blocks are compiled by a background process, adopted when it is done, and only round differently."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError

from pipelines.core.cache_folder import CacheFolder
from pipelines.core.compile_failures import CompileFailure, compile_failures
from pipelines.core.geometry import Geometry
from pipelines.core.model import Attention, Compile, ModelSpec
from pipelines.core.precision import Precision
from pipelines.core.request import VideoParams
from pipelines.loading.load import load_pipeline
from pipelines.planning.layout import Layout, Residence
from pipelines.runner import compilation as compiling
from pipelines.runner import compiler_process
from pipelines.runner.compilation import (
    MAX_LOGGED_LINES,
    NEEDED_BYTES,
    Block,
    Compiler,
    is_wanted,
    main,
    placeholder,
)
from pipelines.runner.compiler_process import FAILED, CompilerProcess
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from pipelines.runner.runner import Runner
from pipelines.tools.calibrate_step_cache import psnr
from tests.pipelines.conftest import both_dtypes, compute_in

CPU, CARD = torch.device("cpu"), torch.device("cuda:0")
SPEC = ModelSpec("random", fps=16, sizes=((96, 64, 5),), compile=Compile.ON)
PARAMS = VideoParams("an ox by a lake", "blurry", 64, 96, 5, 4, 5.0, 7)
BLOCK = Block(
    "a:Class",
    {"num_layers": 1},
    {"hidden_states": (1, 16, 2, 4, 6)},
    "cpu",
    "float32",
    "bf16",
    "native",
    activations="a:function",
    accuracy="high",
)


class Background:
    """Records the processes of the background instead of starting them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[list[str]] = []
        monkeypatch.setattr(subprocess, "Popen", self)

    def __call__(self, command: list[str], **_: Any) -> "Background":
        self.started.append(command)
        return self

    def poll(self) -> int:
        return 0


def without_compiling(folder: Path) -> Runner:
    return Runner.load(replace(SPEC, compile=Compile.OFF), folder, "cpu")


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache for each dtype."""
    return {dtype: tmp_path_factory.mktemp(dtype) for dtype in ("float32", "bfloat16")}


@pytest.fixture
def cache(processor: str, caches: dict[str, Path], weights_folder: Path) -> Path:
    """A cache in which the random weights' block is compiled: the work of the process in the background."""
    cache = caches[processor]
    if not (cache / "compiled").exists():
        with pytest.MonkeyPatch.context() as patch:
            background = Background(patch)
            assert Runner.load(SPEC, weights_folder, "cpu", cache=cache).fingerprint["dtype"] == processor
        with pytest.MonkeyPatch.context() as patch:
            # the process sets them for itself
            patch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
            patch.setenv("TRITON_CACHE_DIR", "")
            main(background.started[0][-1])
    return cache


@both_dtypes
def test_compiled_blocks_are_used_from_the_load_on_and_only_round_differently(
    processor: str, weights_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = without_compiling(weights_folder)
    compiled = Runner.load(SPEC, weights_folder, "cpu", cache=cache)
    compute_in("float32", monkeypatch)
    exact = without_compiling(weights_folder)

    assert plain.fingerprint["compiled"] == "nothing"
    assert compiled.fingerprint["compiled"] == "blocks"
    for params in (PARAMS, replace(PARAMS, width=64, height=32, num_frames=9)):
        one, other = plain.frames(params).frames, compiled.frames(params).frames
        if processor == "float32":
            assert np.abs(one.astype(int) - other).max() <= 1
        else:
            # bf16 is rounded at other places: neither video is closer to that of fp32
            reference = exact.frames(params).frames
            assert psnr(other, reference) > psnr(one, reference) - 1
    compiled.close()


@both_dtypes
@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP8_MATMUL, Precision.INT8_MATMUL])
def test_the_placeholder_equals_the_loaded_block_except_for_its_values(
    weights_folder: Path, precision: Precision
) -> None:
    loaded = load_pipeline(SPEC, weights_folder, "cpu", layout=Layout(precision))
    block = Block.of(loaded, Geometry.fit(96, 64, 5, loaded.grid), 512, Attention.NATIVE)

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


@both_dtypes
def test_blocks_are_compiled_in_the_background_and_adopted_when_idle(
    processor: str, weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = Background(monkeypatch)
    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)
    runner.adopt_compiled()

    assert runner.fingerprint["compiled"] == "nothing"
    # one process, with everything it needs
    assert len(background.started) == 1
    *python, module, argument = background.started[0]
    assert python == [sys.executable, "-P", "-m"]
    assert module == compiling.main.__module__
    described, folder = json.loads(argument)
    assert folder == str(tmp_path)
    assert (described["dtype"], described["config"]["num_layers"]) == (processor, 1)
    assert described["inputs"] == {
        "hidden_states": [1, 16, 2, 4, 6],
        "timestep": [1],
        "encoder_hidden_states": [1, 512, 64],
    }

    (tmp_path / "compiled").symlink_to(cache / "compiled")
    compile_failures(tmp_path).put("cpu", CompileFailure(0.0, "no compiler"))
    runner.adopt_compiled()
    assert runner.fingerprint["compiled"] == "blocks"
    # what an earlier start recorded is over
    assert compile_failures(tmp_path).all() == {}


def test_a_failing_compiler_leaves_the_blocks_uncompiled(
    weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no compiler\nand much more")

    plain = Runner.load(replace(SPEC, compile=Compile.OFF), weights_folder, "cpu").frames(PARAMS).frames
    shutil.copytree(cache / "compiled", tmp_path / "compiled")
    monkeypatch.setattr(compiling, "run_one_block", fail)
    background = Background(monkeypatch)

    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)
    runner.adopt_compiled()

    assert caplog.messages == ["the blocks are not compiled: RuntimeError: no compiler\nand much more"]
    assert runner.compile_error == "RuntimeError: no compiler"
    assert runner.fingerprint["compiled"] == "nothing"
    assert np.array_equal(runner.frames(PARAMS).frames, plain)
    # it is not compiled again before the next start
    assert not background.started
    assert not list((tmp_path / "compiled").iterdir())


def ended(compiler: Compiler) -> None:
    process = compiler._process
    assert process is not None
    process._process.wait()


def test_a_machine_without_a_compiler_is_told_once_and_recorded(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)
    assert runner._compiler is not None
    assert runner.compile_error is None

    ended(runner._compiler)
    for _ in range(3):
        runner.adopt_compiled()
        assert runner.compile_error is not None

    (message,) = caplog.messages
    assert message.startswith("the blocks are not compiled: InductorError: InvalidCxxCompiler: No working C++ compiler")
    recorded = compile_failures(tmp_path).all()
    assert {device: failure.message for device, failure in recorded.items()} == {"cpu": runner.compile_error}


def test_of_a_compiler_that_prints_pages_its_complaint_is_told(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # as a compiler does that finds no Python.h
    gcc = tmp_path / "g++"
    gcc.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && echo "g++ (Debian) 12.2.0" && exit\n'
        "echo '/tmp/a/main.cpp:5:10: fatal error: Python.h: No such file or directory' >&2\n"
        "seq 100000 >&2; exit 1\n"
    )
    gcc.chmod(0o755)
    monkeypatch.setenv("CXX", str(gcc))
    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path / "cache")
    assert runner._compiler is not None

    ended(runner._compiler)

    assert runner.compile_error == "/tmp/a/main.cpp:5:10: fatal error: Python.h: No such file or directory"
    (message,) = caplog.messages
    assert "CppCompileError" in message
    assert len(message.splitlines()) <= MAX_LOGGED_LINES + 1


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("pass", None),
        ("print('seen'); raise SystemExit(3)", "the compiler exited with status 3\nseen"),
        ("import os; os.abort()", "the compiler was killed by SIGABRT"),
        (f"print('before', flush=True); raise SystemExit('{FAILED}no gcc\\nmore')", "no gcc\nmore\nbefore"),
    ],
)
def test_how_the_process_ended_is_told(
    program: str, failure: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ending.py").write_text(program)
    monkeypatch.setattr(compiler_process, "MODULE", "ending")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = CompilerProcess("", tmp_path)
    process._process.wait()

    assert process.failure() == failure
    process.close()


def test_a_compiler_that_cannot_be_started_costs_no_load(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)

    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)

    assert "Resource temporarily unavailable" in (runner.compile_error or "")


def test_compiled_blocks_that_fail_in_a_generation_are_disabled(
    weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = OutOfMemoryFallback.load(replace(SPEC, compile=Compile.OFF), weights_folder, "cpu", cache=tmp_path)
    expected = plain.render(PARAMS, tmp_path / "plain.mp4").finish().path.read_bytes()
    monkeypatch.setattr(CacheFolder, "discard", lambda *_: None)
    fallback = OutOfMemoryFallback.load(SPEC, weights_folder, "cpu", cache=cache)
    assert fallback.fingerprint["compiled"] == "blocks"

    def fail(*_: Any) -> None:
        raise InternalTorchDynamoError("not for this size")

    fallback._loaded()._loaded.pipe.transformer.blocks[0]._compiled_call_impl = fail

    assert fallback.render(PARAMS, tmp_path / "video.mp4").finish().path.read_bytes() == expected
    assert fallback.fingerprint["compiled"] == "nothing"


def test_a_gpu_without_free_memory_starts_no_compiler(
    weights_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    background = Background(monkeypatch)
    monkeypatch.setattr(compiling, "_has_memory", lambda _: False)

    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)
    runner.adopt_compiled()

    assert not background.started
    assert runner.compile_error == f"the compiler waits for {NEEDED_BYTES / 2**30:.1f} GiB of free memory on cpu"
    monkeypatch.setattr(compiling, "_has_memory", lambda _: True)
    runner.adopt_compiled()
    assert len(background.started) == 1
    assert runner.compile_error is None


def test_the_compiler_needs_free_gpu_memory(monkeypatch: pytest.MonkeyPatch) -> None:
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
        (Compile.ON, CARD, Layout(slice_tokens=4096), False),
    ],
)
def test_blocks_are_compiled_where_it_is_useful(
    setting: Compile, device: torch.device, layout: Layout | None, wanted: bool
) -> None:
    assert is_wanted(setting, device, layout) is wanted


def test_another_chip_kernel_or_shape_is_another_block(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [
        replace(BLOCK, attention="cudnn"),
        replace(BLOCK, dtype="bfloat16"),
        replace(BLOCK, precision="fp8 matmuls"),
        replace(BLOCK, inputs={"hidden_states": (1, 16, 2, 4, 8)}),
        replace(BLOCK, config={"num_layers": 1, "text_dim": 16}),
        replace(BLOCK, model_class="another:Class"),
    ]

    assert len({json.dumps(each.facts) for each in [BLOCK, *others]}) == 7
    before = BLOCK.facts
    monkeypatch.setattr(torch, "__version__", "99.0")
    assert BLOCK.facts != before


def test_a_damaged_result_is_compiled_again(
    weights_folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(cache / "compiled", tmp_path / "compiled")
    library = next((tmp_path / "compiled").rglob("*.so"))
    library.write_bytes(library.read_bytes()[:-1] + b"x")
    background = Background(monkeypatch)

    runner = Runner.load(SPEC, weights_folder, "cpu", cache=tmp_path)

    assert runner.fingerprint["compiled"] == "nothing"
    assert len(background.started) == 1
    assert [line for line in caplog.messages if f"{library.name} has changed" in line]
    assert not list((tmp_path / "compiled").iterdir())


def test_blocks_of_other_versions_are_removed(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(cache / "compiled", tmp_path / "compiled")
    compiling.compiled_blocks(tmp_path).clean()
    assert list((tmp_path / "compiled").iterdir())

    monkeypatch.setattr(torch, "__version__", "99.0")
    compiling.compiled_blocks(tmp_path).clean()

    assert not list((tmp_path / "compiled").iterdir())

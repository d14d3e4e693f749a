"""LoRAs of requests are merged into loaded weights, and leave nothing behind."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.core.errors import (
    DeviceMemoryError,
    GenerationCancelled,
    LoraError,
    NonFiniteOutputError,
    UnsupportedModelError,
)
from pipelines.core.model import Lora, ModelSpec, OptionalLora
from pipelines.core.precision import Precision
from pipelines.core.progress import Progress, Stage
from pipelines.core.request import REQUEST_LORAS, RequestLora, VideoParams
from pipelines.hub.loras import LocatedLora
from pipelines.loading.lora.loras import Loras
from pipelines.loading.weight_format import WeightFormat
from pipelines.planning.layout import Layout, Residence
from pipelines.runner.callbacks import Callbacks
from pipelines.runner.oom_fallback import OutOfMemoryFallback
from pipelines.runner.runner import Runner
from tests.pipelines.conftest import both_dtypes
from tests.support.models.loras import write_lora
from tests.support.models.runners import SMALL_VIDEO, small_runner, video_bytes

WIDTH = 256
LAYOUTS = [
    None,
    Layout(Precision.FP8),
    Layout(Precision.FP8_MATMUL),
    Layout(Precision.INT8_MATMUL),
    Layout(Precision.Q4),
    Layout(transformer=Residence.STREAMED, resident_blocks=1),
    Layout(Precision.INT8_MATMUL, transformer=Residence.STREAMED),
    Layout(transformer=Residence.DISK),
    Layout(Precision.FP8, transformer=Residence.DISK, resident_blocks=1),
    Layout(Precision.Q4, transformer=Residence.DISK),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two LoRAs, x and y, that change different layers and one in common."""
    loras = tmp_path / "loras"
    loras.mkdir()
    write_lora(loras / "x.safetensors", WIDTH, ("blocks.0.attn1.to_q", "blocks.1.attn2.to_v"), 1)
    write_lora(loras / "y.safetensors", WIDTH, ("blocks.1.attn2.to_v", "blocks.1.attn1.to_out.0"), 2)
    return loras


@pytest.fixture
def load(wide: Path, folder: Path, tmp_path: Path) -> Callable[..., Runner]:
    """Loads the wide model with that folder."""
    return lambda layout=None, **spec: small_runner(wide, tmp_path / "cache", layout, loras_dir=folder, **spec)


def state_of(runner: Runner) -> dict[str, torch.Tensor]:
    """A copy of the transformers' stored tensors, as bytes."""
    return {
        f"{part} {name}": tensor.detach().contiguous().view(torch.uint8).clone()
        for part, model in enumerate(runner._loaded.denoisers)
        for name, tensor in model.state_dict().items()
    }


def merge(runner: Runner, *loras: RequestLora, on_tensor: Callable[[int, int], None] = lambda *_: None) -> Any:
    merger = runner._loaded.loras
    merger.merge(merger.locate(loras), on_tensor)
    return state_of(runner)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


X, Y = RequestLora("x", 0.8), RequestLora("y", -1.5)


@both_dtypes
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "resident" if layout is None else layout.name)
def test_merged_weights_depend_only_on_the_request(
    layout: Layout | None, load: Callable[..., Runner], folder: Path
) -> None:
    runner = load(layout)
    plain = state_of(runner)
    with_x = merge(runner, X)
    with_y = merge(runner, Y)
    assert same(merge(runner, X), with_x)
    assert same(merge(runner), plain)
    assert same(merge(load(layout), Y), with_y)
    assert not same(with_x, plain)

    # as if the model had them as its own
    own = tuple(Lora(str(folder), f"{lora.name}.safetensors", strength=lora.strength) for lora in (X, Y))
    assert same(merge(runner, X, Y), state_of(load(layout, loras=own)))


@pytest.mark.parametrize("layout", [None, Layout(Precision.FP8), Layout(transformer=Residence.DISK)])
def test_videos_do_not_depend_on_earlier_requests(
    layout: Layout | None, load: Callable[..., Runner], tmp_path: Path
) -> None:
    runner, path = load(layout), tmp_path / "video.mp4"
    with_x = replace(SMALL_VIDEO, loras=(X,))

    plain = video_bytes(runner, path)
    first = video_bytes(runner, path, with_x)
    assert first != plain
    assert video_bytes(runner, path) == plain
    assert video_bytes(runner, path, replace(SMALL_VIDEO, loras=(Y,))) not in (plain, first)
    assert video_bytes(runner, path, with_x) == first
    assert video_bytes(load(layout), path, with_x) == first


def test_parameters_stay_the_same_objects(load: Callable[..., Runner]) -> None:
    runner = load()
    before = {name: id(tensor) for name, tensor in runner._loaded.pipe.transformer.named_parameters()}
    addresses = {name: tensor.data_ptr() for name, tensor in runner._loaded.pipe.transformer.named_parameters()}
    merge(runner, X)
    after = dict(runner._loaded.pipe.transformer.named_parameters())
    assert {name: id(tensor) for name, tensor in after.items()} == before
    assert {name: tensor.data_ptr() for name, tensor in after.items()} == addresses


def test_the_models_own_loras_stay(load: Callable[..., Runner], folder: Path) -> None:
    runner = load(loras=(Lora(str(folder), "x.safetensors"),))
    plain = state_of(runner)
    assert not same(merge(runner, Y), plain)
    assert same(merge(runner), plain)


@pytest.mark.parametrize("after", [0, 1, 30])
@pytest.mark.parametrize("layout", [None, Layout(Precision.INT8_MATMUL), Layout(transformer=Residence.DISK)])
def test_an_interrupted_merge_leaves_nothing(layout: Layout | None, after: int, load: Callable[..., Runner]) -> None:
    runner = load(layout)
    plain = state_of(runner)
    expected = merge(load(layout), Y)

    def stop(done: int, tensors: int) -> None:
        assert tensors > 30
        if done == after:
            raise GenerationCancelled

    with pytest.raises(GenerationCancelled):
        merge(runner, X, on_tensor=stop)
    assert same(merge(runner, Y), expected)
    with pytest.raises(GenerationCancelled):
        merge(runner, X, on_tensor=stop)
    assert same(merge(runner), plain)


def test_a_cancelled_video_is_stopped_while_merging(load: Callable[..., Runner], tmp_path: Path) -> None:
    runner, path = load(), tmp_path / "video.mp4"
    plain = video_bytes(runner, path)
    seen: list[Progress] = []
    callbacks = Callbacks(seen.append, cancelled=lambda: len(seen) > 3)
    with pytest.raises(GenerationCancelled):
        runner.render(replace(SMALL_VIDEO, loras=(X,)), path, callbacks)
    assert {progress.stage for progress in seen} == {Stage.LORAS}
    assert len({progress.step for progress in seen}) == len(seen) == 4
    assert video_bytes(runner, path) == plain


def test_only_a_change_of_the_set_is_reported(load: Callable[..., Runner], tmp_path: Path) -> None:
    runner, seen = load(), list[Progress]()
    params, callbacks = replace(SMALL_VIDEO, loras=(X,)), Callbacks(seen.append)
    runner.run(params, tmp_path / "video.mp4", callbacks)
    merging = [progress for progress in seen if progress.stage is Stage.LORAS]
    assert 2 <= len(merging) <= 101
    assert {progress.fraction for progress in merging} == {0.0}
    seen.clear()
    runner.run(params, tmp_path / "video.mp4", callbacks)
    assert Stage.LORAS not in {progress.stage for progress in seen}


def test_the_fingerprint_names_file_and_strength(load: Callable[..., Runner], folder: Path, tmp_path: Path) -> None:
    runner, path = load(), tmp_path / "video.mp4"

    def fact(*loras: RequestLora) -> str:
        runner.run(replace(SMALL_VIDEO, loras=loras), path)
        assert REQUEST_LORAS not in runner.fingerprint
        return runner.video_fingerprint[REQUEST_LORAS]

    plain, first, weaker = fact(), fact(X), fact(replace(X, strength=0.79))
    assert plain == ""
    write_lora(folder / "x.safetensors", WIDTH, ("blocks.0.attn1.to_q",), 3)
    assert len({plain, first, weaker, fact(X), fact(X, Y), fact(Y, X)}) == 6


def test_a_file_that_changes_is_merged_anew(load: Callable[..., Runner], folder: Path) -> None:
    runner = load()
    before = merge(runner, X)
    write_lora(folder / "x.safetensors", WIDTH, ("blocks.0.attn1.to_q",), 3)
    after = merge(runner, X)
    assert not same(before, after)
    assert same(after, merge(load(), X))


def test_a_file_that_is_gone_fails_the_video_alone(load: Callable[..., Runner], folder: Path, tmp_path: Path) -> None:
    runner, path = load(), tmp_path / "video.mp4"
    plain = video_bytes(runner, path)
    video_bytes(runner, path, replace(SMALL_VIDEO, loras=(X,)))
    (folder / "x.safetensors").unlink()
    with pytest.raises(LoraError, match="The LoRA x is not on this machine"):
        runner.run(replace(SMALL_VIDEO, loras=(X,)), path)
    assert video_bytes(runner, path) == plain


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("huge",), "The LoRA huge may be the cause: leave it out, or try a lower strength."),
        (("x", "huge"), "The LoRAs x, huge may be the cause: leave them out, or try a lower strength."),
    ],
)
def test_an_error_about_nan_names_the_loras(
    names: tuple[str, ...], said: str, load: Callable[..., Runner], folder: Path, tmp_path: Path
) -> None:
    # finite, until it is multiplied
    write_lora(folder / "huge.safetensors", WIDTH, ("blocks.1.attn2.to_v",), 3, 3e37)
    runner = load()
    before = video_bytes(runner, tmp_path / "video.mp4")
    params = replace(SMALL_VIDEO, loras=tuple(map(RequestLora, names)))

    with pytest.raises(NonFiniteOutputError, match=re.escape(said)):
        video_bytes(runner, tmp_path / "video.mp4", params)
    with pytest.raises(NonFiniteOutputError, match=re.escape(said)):
        runner.frames(params)

    assert video_bytes(runner, tmp_path / "video.mp4") == before


def test_an_error_about_nan_while_decoding_names_the_loras(load: Callable[..., Runner], tmp_path: Path) -> None:
    runner = load()
    runner._loaded.vae.decoder.register_forward_hook(lambda _module, _input, output: output * torch.nan)

    with pytest.raises(NonFiniteOutputError, match=r"no video was written\. The LoRA x may be the cause"):
        video_bytes(runner, tmp_path / "video.mp4", replace(SMALL_VIDEO, loras=(RequestLora("x"),)))
    with pytest.raises(NonFiniteOutputError, match=r"no video was written\. Another seed or"):
        video_bytes(runner, tmp_path / "video.mp4")


def test_a_lora_of_another_model_is_refused(load: Callable[..., Runner], folder: Path, tmp_path: Path) -> None:
    write_lora(folder / "other.safetensors", WIDTH // 2, ("blocks.0.attn1.to_q",))
    runner = load()
    plain = state_of(runner)
    with pytest.raises(UnsupportedModelError, match=r"other\.safetensors is for a model of another size"):
        runner.run(replace(SMALL_VIDEO, loras=(X, RequestLora("other"))), tmp_path / "video.mp4")
    assert same(state_of(runner), plain)


def test_changed_weights_are_not_mixed_with_loaded_ones(
    load: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load()
    (part,) = runner._loaded.loras._parts
    monkeypatch.setattr(part, "_digest", "of other files")
    with pytest.raises(LoraError, match="have changed since the model was loaded"):
        merge(runner, X)


def test_merged_weights_from_disk_are_bounded(load: Callable[..., Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    runner = load(Layout(transformer=Residence.DISK))
    plain = state_of(runner)

    class Memory:
        available = 2 * WIDTH * WIDTH

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    with pytest.raises(LoraError, match="streamed from disk, and have to be kept in host memory, where"):
        merge(runner, X)
    assert same(merge(runner), plain)


def test_a_file_changes_both_experts_unless_its_name_says_which(experts: Path, folder: Path, tmp_path: Path) -> None:
    for name in ("x_high_noise", "x_low_noise"):
        (folder / f"{name}.safetensors").write_bytes((folder / "x.safetensors").read_bytes())
    optional = OptionalLora("low only", str(folder), "x.safetensors", part="transformer_2")
    runner = small_runner(experts, tmp_path / "cache", loras_dir=folder, optional_loras=(optional,))
    plain = state_of(runner)

    def changed(name: str) -> set[str]:
        after = merge(runner, RequestLora(name))
        return {key.split()[0] for key in plain if not torch.equal(plain[key], after[key])}

    assert changed("x") == {"0", "1"}
    assert changed("x_high_noise") == {"0"}
    assert changed("x_low_noise") == changed("low only") == {"1"}


def test_a_checkpoint_of_other_loras_is_not_used(load: Callable[..., Runner], folder: Path) -> None:
    runner = load()
    params: VideoParams = replace(SMALL_VIDEO, loras=(X,))

    def depends_on() -> dict[str, Any]:
        return runner._latents_depend_on(params, runner._loaded.loras.locate(params.loras))

    before = depends_on()
    assert before == depends_on()
    assert before != runner._latents_depend_on(SMALL_VIDEO, ())
    write_lora(folder / "x.safetensors", WIDTH, ("blocks.0.attn1.to_q",), 3)
    assert before != depends_on()


def test_identities_are_exact(tmp_path: Path) -> None:
    file = write_lora(tmp_path / "x.safetensors", WIDTH, ("blocks.0.attn1.to_q",))
    almost = [LocatedLora("x", file, "digest", None, strength) for strength in (0.8, 0.8000000001)]
    assert almost[0].identity != almost[1].identity


@pytest.mark.parametrize("change", [lambda file: file.write_bytes(file.read_bytes() + b" "), Path.unlink])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: Callable[[Path], object], load: Callable[..., Runner], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load()
    plain = state_of(runner)
    original = Loras.check

    def check(self: Loras, module: torch.nn.Module) -> None:
        original(self, module)
        if self._files:
            change(folder / "x.safetensors")

    monkeypatch.setattr(Loras, "check", check)
    located = runner._loaded.loras.locate((X,))
    with pytest.raises(LoraError, match=r"The .*LoRA x .*(has changed while it was read|is not on this machine)"):
        runner._loaded.loras.merge(located)
    assert same(state_of(runner), plain)


def test_memory_that_runs_out_while_merging_is_survived(
    wide: Path, folder: Path, load: Callable[..., Runner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, params = tmp_path / "video.mp4", replace(SMALL_VIDEO, loras=(X,))
    expected, plain = video_bytes(load(), path, params), video_bytes(load(), path)
    model = OutOfMemoryFallback.load(ModelSpec("small", fps=16), wide, "cpu", cache=tmp_path, loras_dir=folder)
    store, calls = WeightFormat.store, list[str]()

    def run_out(self: WeightFormat, name: str, tensor: torch.Tensor) -> Any:
        calls.append(name)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return store(self, name, tensor)

    monkeypatch.setattr(WeightFormat, "store", run_out)
    with pytest.raises(DeviceMemoryError):
        model.render(params, path)
    assert len(calls) == 2
    assert video_bytes(model, path) == plain
    assert video_bytes(model, path, params) == expected
